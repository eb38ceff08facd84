"""One running version of a plugin: its runner, and its optional contracts as plain methods."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from blackhole_core.callcontext import deadline
from blackhole_core.errors import CallTimeout, IsolationUnavailable, PluginError, RemoteError
from blackhole_core.executor.confinement import Confinement, Sandbox
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.context import PluginContext
from blackhole_core.executor.remote import RemoteRunner
from blackhole_core.executor.runner import Host, InProcess, Runner, RunnerSpec
from blackhole_core.ids import Isolation, PluginId
from blackhole_core.lifecycle.deathwatch import DeathWatch
from blackhole_core.lifecycle.guard import Guard
from blackhole_core.lifecycle.settings import Settings
from blackhole_core.loader.leaks import Canary
from blackhole_core.messages import CONTRACT, Call, Failure, Reply, Surface, Value, attribution
from blackhole_core.registry.candidate import Candidate, Origin
from blackhole_core.stacks import stack_lines

__all__ = ["Instance", "Unhealthy", "start_instance"]


#: Seconds until one looks again for what an old version left behind, when the host was too busy for a collection; the last look is made in any case.
_LOOKS_LATER: Final = (1.0, 5.0, 30.0)

#: Seconds for a worker to say what it has imported. It takes 1 ms; up to some 10 beside code that keeps the interpreter busy.
_IMPORTED_SECONDS: Final = 0.5


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
        self._canary: Canary | None = None
        #: What stands before each of its calls; None when the operator wants neither breaker nor bulkhead.
        self.guard: Final = Guard(candidate.id, settings.guard, host.emit) if settings.guard else None
        self._state_changed: Callable[[], object] | None = None
        self._told_to_stop = False
        self._deaths = DeathWatch(str(candidate.id), runner) if isinstance(runner, RemoteRunner) else None
        self._confinement = spec.confinement

    @property
    def id(self) -> PluginId:
        return self.candidate.id

    @property
    def level(self) -> Isolation:
        return self.runner.level

    @property
    def imports(self) -> frozenset[str]:
        """The packages of other plugins that its code imported, as far as it runs in this process; elsewhere it has modules of its own."""
        universe = getattr(self.runner, "universe", None)
        return frozenset(universe.imports) if universe is not None else frozenset()

    @property
    def confinement(self) -> Confinement:
        """What confines it now; that of its start is ``spec.confinement``."""
        return self._confinement

    @property
    def has_walls(self) -> bool:
        """Whether something outside this process keeps it to what it was started with."""
        return isinstance(self.runner, RemoteRunner) and (
            self.level is not Isolation.PROCESS or self.spec.confinement.sandbox is not Sandbox.OFF
        )

    def confine(self, confinement: Confinement) -> None:
        """Let ``confinement`` hold: at once for what the host does on behalf of its worker, for the walls of a worker from the next worker on."""
        self._confinement = confinement
        if isinstance(self.runner, RemoteRunner):
            self.runner.confine(confinement)

    def imported(self) -> tuple[str, ...] | None:
        """Return which of its modules it has imported so far, None when its worker is dead or does not say."""
        if isinstance(self.runner, InProcess):
            return tuple(self.runner.universe.modules)
        assert isinstance(self.runner, RemoteRunner), "what does not run here runs in a worker"
        return self.runner.facts.imported(_IMPORTED_SECONDS)

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
            plugin = self.runner.plugin_object()
            if self.guard is not None:
                plugin = self.guard.around(plugin, self.surface, self.level, self.spec.project)
            self._plugin_object = plugin
        return self._plugin_object

    # --- death -------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Say that it is about to serve: from now on a worker that ends is the supervisor's business.

        :raises PluginBroken: it has ended already.
        """
        if self._deaths is not None:
            self._deaths.serve()

    def watch(self, on_death: Callable[[Ended], object]) -> None:
        """Have ``on_death`` told each time the worker of a serving instance ends unasked; at the levels without one it never is.

        It runs on the worker's I/O thread and must not block.
        """
        if self._deaths is not None:
            self._deaths.tell(on_death)

    # --- contracts ---------------------------------------------------------------------------------------------------

    def takes_part(self, contract: str) -> bool:
        """Whether the plugin implements the contract."""
        return contract in self.surface.contracts

    def contract(self, name: str, /, *, via: Callable[[Call], Any] | None = None, **available: Any) -> Any:
        """Call a contract with those of ``available`` that it asks for; None when the plugin does not implement it."""
        wanted = self.surface.contracts.get(name)
        if wanted is None:
            return None
        call = Call(name, tuple(available.get(argument) for argument in wanted), CONTRACT)
        return (via or self.runner.call)(call)

    def bounded_contract(self, name: str, seconds: float, /, *, via: Callable[[Call], Any] | None = None, **available: Any) -> Any:
        """Call a contract that must answer within ``seconds``, at level none as well.

        Code in this process cannot be interrupted: at level none it runs on a thread of its own, which is let go when it does not answer.

        :raises CallTimeout: no answer in time.
        """
        if not self.takes_part(name):
            return None
        if self.level is Isolation.NONE:
            return self._contract_on_a_thread(name, seconds, available)
        with deadline(seconds):
            return self.contract(name, via=via, **available)

    def _contract_on_a_thread(self, name: str, seconds: float, available: Mapping[str, Any]) -> Any:
        answers: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                answers.put(Value(context.run(lambda: self.contract(name, **available))))
            except Exception as error:
                answers.put(Failure(error))
            except BaseException as error:
                # SystemExit and KeyboardInterrupt are the plugin's wish to end, not the host's: no signal arrives on this thread.
                answers.put(Failure(RemoteError(str(self.id), type(error).__name__, str(error), traceback.format_exc())))

        thread = threading.Thread(target=run, name=f"blackhole-{name}-{self.id.name}", daemon=True)
        thread.start()
        try:
            reply = answers.get(timeout=seconds)
        except queue.Empty:
            self._report_left(thread)
            error = CallTimeout(str(self.id), name, seconds, where="executed: unknown, it is still running")
            error.add_note(attribution(self.id, name, self.level))
            raise error from None
        if isinstance(reply, Failure):
            raise reply.error
        return reply.result

    def _report_left(self, thread: threading.Thread) -> None:
        stack = "".join(stack_lines(thread))
        self._host.emit("plugin.thread_left", self.id.name, version=self.id.version, thread=thread.name, stack=stack)

    def begin(self, via: Callable[[Call], Any] | None = None) -> None:
        """Tell the plugin that it starts, and ask how it is; within its ``start_timeout``, but at level none, whose code cannot be interrupted.

        :raises Unhealthy: it answered False or a sentence.
        """
        here = self.level is Isolation.NONE
        with contextlib.nullcontext() if here else deadline(self.spec.limits.start_timeout):
            # A worker makes the context itself: the host's relay cannot cross.
            local = here or self.level is Isolation.THREAD
            self.contract("plugin_start", via=via, context=self._context() if local else None)
            answer = self.contract("plugin_health", via=via)
        if answer is False or isinstance(answer, str):
            raise Unhealthy(str(self.id), answer)

    def _context(self) -> PluginContext:
        assert isinstance(self.runner, InProcess)
        return PluginContext(
            self.id.name,
            self.id.version,
            self.generation,
            dict(self.spec.config),
            self._host.hook,
            self.runner.leases,
            self._tell_state_change,
            self._host.scratch.new,
        )

    def on_state_change(self, listener: Callable[[], object]) -> None:
        """Have ``listener`` told when the plugin says that its state changed; on any thread, it must not block."""
        self._state_changed = listener
        if isinstance(self.runner, RemoteRunner):
            self.runner.on_state_change = listener

    def _tell_state_change(self) -> None:
        if self._state_changed is not None:
            self._state_changed()

    def export(self, seconds: float) -> Any:
        """Ask the plugin for its state."""
        return self.bounded_contract("plugin_export_state", seconds)

    def import_state(self, state: Any, seconds: float, via: Callable[[Call], Any] | None = None) -> None:
        """Give the plugin state of its own state version."""
        self.bounded_contract("plugin_import_state", seconds, via=via, state=state, version=self.state_version)

    def end(self) -> None:
        """Tell the plugin that it stops, then end its runner; a plugin that fails at that is reported, and ends all the same. Again, it does what an interrupt kept from being done."""
        if isinstance(self.runner, InProcess):
            self.runner.leases.stopping.set()
        try:
            told, self._told_to_stop = self._told_to_stop, True
            if not told and not (isinstance(self.runner, RemoteRunner) and self.runner.pid is None):  # else there is nobody to tell
                self.bounded_contract("plugin_stop", self.spec.limits.stop_grace)
        except Exception as error:
            self._host.emit("plugin.stop_failed", self.id.name, version=self.id.version, error=f"{type(error).__name__}: {error}")
        finally:
            self._plugin_object = None
            if isinstance(self.runner, InProcess) and self._canary is None:
                self._canary = Canary(self.runner.universe, self.runner.leases.owner)
            self.runner.stop()

    def leaks(self, looks_left: Sequence[float] | None = None) -> tuple[str, ...] | None:
        """Say what the ended instance left behind, one sentence each, and tell the listeners; None when that is not known yet.

        It may take a garbage collection to know, which is not done while the host is busy: then one looks again after each of ``looks_left`` (seconds),
        the last time whatever that costs. Never call this while a gate is closed.
        """
        if self._canary is None or not isinstance(self.runner, InProcess):
            return ()  # a process took everything with it
        if looks_left is None:
            looks_left = _LOOKS_LATER
        found = self._canary.leaks(at_any_cost=not looks_left)
        if found is None:
            self._look_later(looks_left)
        if found is None and not self.runner.leases.problems:
            return None
        leaks = (*self.runner.leases.problems, *(found or ()))
        if leaks:
            self._host.emit("plugin.leaked", self.id.name, version=self.id.version, generation=self.generation, leaks=list(leaks))
        return leaks

    def _look_later(self, looks_left: Sequence[float]) -> None:
        def look() -> None:
            # Of its own: a collection is too long for the thread of the timers.
            threading.Thread(target=self.leaks, args=(looks_left[1:],), name=f"blackhole-leaks-{self.id.name}", daemon=True).start()

        self._host.timers.after(looks_left[0], look)


def start_instance(
    candidate: Candidate,
    generation: int,
    settings: Settings,
    host: Host,
    make_runner: Callable[[Isolation, RunnerSpec], Runner],
    *,
    isolation: Isolation | None = None,
    project: str,
    imported: tuple[str, ...] = (),
    granted: tuple[str, ...] | None = None,
) -> Instance:
    """Bring up one version of a plugin: import it, make its object, tell it to start, ask how it is.

    ``granted`` is what it may have of what it asks for; left out, what the settings grant.

    :raises Exception: one of these failed; nothing is left behind.
    """
    level = isolation or settings.level(candidate)
    spec = RunnerSpec(
        id=candidate.id,
        generation=generation,
        entry=candidate.entry,
        path=candidate.path,
        packages=candidate.packages,
        project=project,
        limits=settings.limits_for(candidate, level),
        config=settings.config_for(candidate),
        environment=settings.environment,
        imported=imported,
        confinement=settings.confinement_for(candidate, granted),
        container=settings.container_for(candidate),
        vm=settings.vm_for(candidate),
        declared=candidate.manifest is not None,
        changeable=candidate.origin is not Origin.WHEEL,
    )
    runner = _make_runner(make_runner, level, settings.isolation_fallback, spec, host)
    surface = runner.start()
    try:
        instance = Instance(candidate, generation, settings, runner, surface, spec, host)
        instance.begin()
    except BaseException:
        runner.stop()
        raise
    return instance


def _make_runner(
    make_runner: Callable[[Isolation, RunnerSpec], Runner], level: Isolation, fallback: Isolation | None, spec: RunnerSpec, host: Host
) -> Runner:
    """Return a runner of ``level``, or of the ``fallback`` that the operator named where that one cannot run here, and tell of it."""
    try:
        return make_runner(level, spec)
    except IsolationUnavailable as error:
        if fallback is None or fallback is level:
            raise
        runner = make_runner(fallback, spec)
        host.emit(
            "plugin.level_fallback", spec.id.name, version=spec.id.version, wanted=level.value, level=fallback.value, reason=error.reason
        )
        return runner
