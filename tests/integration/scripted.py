"""A host without processes and without time: the real manager, over workers that are objects and a clock that is a number.

What is replaced is what the product itself makes replaceable or owns in one place: the runner of a level, the timers, and the threads of the supervisor's duties. A plugin's
code is the code that a real worker would import; where that one would be killed, ``die`` raises. One thread does everything, in an order that the test decides, so
a history is the same each time.
"""

from __future__ import annotations

import heapq
import itertools
import types
from collections.abc import Callable
from typing import Any, Final

import blackhole_core as bh
from blackhole_core.errors import PluginBroken, PluginUnloaded, WorkerDied
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.hosted import Hosted, host_object
from blackhole_core.executor.proxy import make_proxy
from blackhole_core.executor.remote import RemoteRunner
from blackhole_core.executor.runner import RunnerSpec
from blackhole_core.executor.timers import Timer
from blackhole_core.ids import Isolation
from blackhole_core.messages import HOST, Call, Calls, Implementation, Replies, Surface

__all__ = ["Clock", "Killed", "ScriptedRunner", "script"]


class Killed(BaseException):
    """The worker is killed here: nothing that the plugin does catches it."""


class Clock:
    """Time that passes when somebody says so, and what is to be done at which time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def after(self, seconds: float, action: Callable[[], object]) -> Timer:
        timer = Timer(self.now + seconds, action)
        heapq.heappush(self._due, (timer.due, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and do what is due, in order."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.step()
        self.now = end

    def step(self) -> bool:
        """Go on to the next thing that is to be done, and do it; False when there is none."""
        if not self._due:
            return False
        due, _, timer = heapq.heappop(self._due)
        self.now = max(self.now, due)
        if timer.action is not None:
            timer.action()
        return True


class ScriptedRunner(RemoteRunner):
    """To all above the seam it is a runner of level process; its worker is a plugin object that can be dropped."""

    level = Isolation.PROCESS

    def __init__(self, spec: RunnerSpec, source: str, clock: Clock, living: set[ScriptedRunner]) -> None:
        self._about: Final = spec
        self._source: Final = source
        self._clock: Final = clock
        self._living: Final = living  #: those that have a worker; kept by all runners of one host
        self._hosted: Hosted | None = None
        self._surface: Surface | None = None
        self._refuses: Callable[[str], Exception] | None = None
        self._on_death_told: Callable[[Ended], object] | None = None
        self._untold: Ended | None = None
        self.on_state_change = lambda: None
        self.facts: Any = types.SimpleNamespace(imported=lambda seconds: ())

    # --- coming and going --------------------------------------------------------------------------------------------

    def _come_up(self) -> Hosted:
        module: dict[str, Any] = {"__name__": "scripted"}
        exec(compile(self._source, "scripted.py", "exec"), module)
        module["die"] = _die
        self._hosted = host_object(module["Plugin"](), self._about.project)
        self._living.add(self)
        return self._hosted

    def start(self) -> Surface:
        self._surface = self._come_up().surface
        return self._surface

    def restart(self, prepare: Callable[[Callable[[Call], Any]], object]) -> None:
        if self._refuses is not None:
            raise self._refuses("start")
        self._come_up()
        try:
            prepare(self._run)
        except BaseException:
            self._drop()
            raise

    def watch(self, on_death: Callable[[Ended], object]) -> None:
        self._on_death_told, untold, self._untold = on_death, self._untold, None
        if untold is not None:
            on_death(untold)

    def give_up(self, reason: str) -> None:
        self._refuse(lambda hook: PluginBroken(str(self._about.id), reason))

    def stop(self) -> None:
        self._refuse(lambda hook: PluginUnloaded(str(self._about.id), hook))
        self._drop()

    def die(self) -> None:
        """End the worker, which nobody asked for."""
        self._drop()
        ended = Ended(-9, (), None)
        if self._on_death_told is None:
            self._untold = ended
        else:
            self._on_death_told(ended)

    def _drop(self) -> None:
        self._hosted = None
        self._living.discard(self)

    def _refuse(self, error: Callable[[str], Exception]) -> None:
        self._refuses = self._refuses or error

    # --- calls -------------------------------------------------------------------------------------------------------

    def plugin_object(self) -> Any:
        def target(index: int, implementation: Implementation) -> Callable[..., Any]:
            return lambda *args: self.call(Call(implementation.hook, args, HOST, index))

        assert self._surface is not None, "it was started"
        return make_proxy(str(self._about.id), self._about.project, self._surface, target, self.call_many)

    def call(self, call: Call) -> Any:
        """Wait for a worker, as a caller would: until the next thing that is to happen has happened, again and again."""
        while self._hosted is None:
            if self._refuses is not None:
                raise self._refuses(call.hook)
            if not self._clock.step():
                raise AssertionError(f"a call of {call.hook} would wait for ever")
        if self._refuses is not None:
            raise self._refuses(call.hook)
        return self._run(call)

    def _run(self, call: Call) -> Any:
        assert self._hosted is not None, "whoever calls has waited"
        args = call.args
        if call.hook == "plugin_start":
            args = (types.SimpleNamespace(config=self._about.config),)
        try:
            return self._hosted.function(call.space, call.hook, call.index)(*args)
        except Killed:
            self.die()
            raise WorkerDied(str(self._about.id), call.hook, exit=-9) from None

    def call_many(self, calls: Calls) -> Replies:
        raise NotImplementedError("no history makes several calls at once")

    # --- what is asked of it -----------------------------------------------------------------------------------------

    @property
    def plugin(self) -> Any:
        """The plugin object in its worker."""
        assert self._hosted is not None, "it has a worker"
        return self._hosted.plugin

    @property
    def pid(self) -> int | None:
        return None if self._hosted is None else 1

    def drained(self, timeout: float | None) -> bool:
        return True


def _die() -> None:
    raise Killed


def script(pm: bh.PluginManager, sources: dict[str, str], clock: Clock) -> set[ScriptedRunner]:
    """Have the manager run versions of plugins from ``sources`` by scripted runners; return those that have a worker, kept up to date."""
    living: set[ScriptedRunner] = set()
    parts = pm.parts
    parts._levels.make = lambda level, spec: ScriptedRunner(spec, sources[spec.id.version], clock, living)  # type: ignore[method-assign]
    supervisor: Any = parts.supervisor
    supervisor._clock = lambda: clock.now
    supervisor._timers = clock
    supervisor.on_duty = lambda name, action: action()
    return living
