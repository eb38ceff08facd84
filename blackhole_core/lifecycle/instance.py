"""One running version of a plugin: its runner, and its optional contracts as plain methods."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from blackhole_core.callcontext import deadline
from blackhole_core.errors import CallTimeout, PluginError
from blackhole_core.executor.hosted import PluginContext
from blackhole_core.executor.runner import Host, Runner, RunnerSpec
from blackhole_core.ids import Isolation, PluginId
from blackhole_core.lifecycle.settings import Settings
from blackhole_core.messages import CONTRACT, Call, Surface, attribution
from blackhole_core.registry.candidate import Candidate, Origin

__all__ = ["Instance", "Unhealthy", "start_instance"]


class Unhealthy(PluginError):
    """``plugin_health`` answered that the plugin is not well."""

    def __init__(self, plugin: str, answer: Any) -> None:
        super().__init__(plugin, f"plugin {plugin} says it is not well: {answer}")


class Instance:
    """A started plugin. Immutable but for what its runner does; replaced as a whole by a swap."""

    def __init__(
        self, candidate: Candidate, generation: int, settings: Settings, runner: Runner, surface: Surface, spec: RunnerSpec, host: Host
    ) -> None:
        self.candidate: Final = candidate
        self.generation: Final = generation
        self.settings: Final = settings
        self.runner: Final = runner
        self.surface: Final = surface
        self.spec: Final = spec
        self._host = host
        self._plugin_object: Any = None

    @property
    def id(self) -> PluginId:
        return self.candidate.id

    @property
    def level(self) -> Isolation:
        return self.runner.level

    @property
    def hooks(self) -> frozenset[str]:
        """The hooks it implements."""
        return frozenset(implementation.hook for implementation in self.surface.implementations)

    @property
    def state_version(self) -> int:
        return self.candidate.manifest.state.version if self.candidate.manifest is not None else 1

    def __repr__(self) -> str:
        return f"<Instance {self.id} generation {self.generation} at level {self.level}>"

    def plugin_object(self) -> Any:
        """Return what stands in the hook manager for this instance, always the same object."""
        if self._plugin_object is None:
            self._plugin_object = self.runner.plugin_object()
        return self._plugin_object

    # --- contracts ---------------------------------------------------------------------------------------------------

    def takes_part(self, contract: str) -> bool:
        """Whether the plugin implements the contract."""
        return contract in self.surface.contracts

    def contract(self, name: str, *, via: Callable[[Call], Any] | None = None, **available: Any) -> Any:
        """Call a contract with those of ``available`` that it asks for; None when the plugin does not implement it."""
        wanted = self.surface.contracts.get(name)
        if wanted is None:
            return None
        call = Call(name, tuple(available.get(argument) for argument in wanted), CONTRACT)
        return (via or self.runner.call)(call)

    def bounded_contract(self, name: str, seconds: float, **available: Any) -> Any:
        """Call a contract that must answer within ``seconds``, at level none as well.

        Code in this process cannot be interrupted: at level none it runs on a thread of its own, which is let go when it does not answer.

        :raises CallTimeout: no answer in time.
        """
        if not self.takes_part(name):
            return None
        if self.level is not Isolation.NONE:
            with deadline(seconds):
                return self.contract(name, **available)
        answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                answers.put((True, context.run(lambda: self.contract(name, **available))))
            except BaseException as error:  # handed to the caller below, whatever it is
                answers.put((False, error))

        threading.Thread(target=run, name=f"blackhole-{name}-{self.id.name}", daemon=True).start()
        try:
            ok, answer = answers.get(timeout=seconds)
        except queue.Empty:
            error = CallTimeout(str(self.id), name, seconds, where="executed: unknown, it is still running")
            error.add_note(attribution(self.id, name, self.level))
            raise error from None
        if ok:
            return answer
        raise answer

    def begin(self, via: Callable[[Call], Any] | None = None) -> None:
        """Tell the plugin that it starts."""
        # A worker makes the context itself: the host's relay cannot cross.
        local = self.level in (Isolation.NONE, Isolation.THREAD)
        self.contract("plugin_start", via=via, context=self._context() if local else None)

    def _context(self) -> PluginContext:
        return PluginContext(self.id.name, self.id.version, self.generation, dict(self.spec.config), self._host.hook)

    def check_health(self) -> None:
        """Ask the plugin how it is.

        :raises Unhealthy: it answered False or a sentence.
        """
        answer = self.contract("plugin_health")
        if answer is False or isinstance(answer, str):
            raise Unhealthy(str(self.id), answer)

    def export(self, seconds: float) -> Any:
        return self.bounded_contract("plugin_export_state", seconds)

    def import_state(self, state: Any, seconds: float) -> None:
        self.bounded_contract("plugin_import_state", seconds, state=state, version=self.state_version)

    def end(self) -> None:
        """Tell the plugin that it stops, then end its runner; a plugin that fails at that is reported, and ends all the same."""
        try:
            self.bounded_contract("plugin_stop", self.spec.limits.stop_grace)
        except Exception as error:
            self._host.emit("plugin.stop_failed", self.id.name, version=self.id.version, error=f"{type(error).__name__}: {error}")
        finally:
            self._plugin_object = None
            self.runner.stop()


def start_instance(
    candidate: Candidate,
    generation: int,
    settings: Settings,
    host: Host,
    make_runner: Callable[[Isolation, RunnerSpec], Runner],
    *,
    isolation: Isolation | None = None,
    project: str,
) -> Instance:
    """Bring up one version of a plugin: import it, make its object, tell it to start, ask how it is.

    :raises Exception: one of these failed; nothing is left behind.
    """
    spec = RunnerSpec(
        id=candidate.id,
        generation=generation,
        entry=candidate.entry,
        path=candidate.path,
        packages=candidate.packages,
        project=project,
        limits=settings.limits_for(candidate),
        config=settings.config_for(candidate),
        environment=settings.environment,
        changeable=candidate.origin is not Origin.WHEEL,
    )
    runner = make_runner(isolation or settings.level(candidate), spec)
    surface = runner.start()
    instance = Instance(candidate, generation, settings, runner, surface, spec, host)
    try:
        instance.begin()
        instance.check_health()
    except BaseException:
        instance.runner.stop()
        raise
    return instance
