"""Histories of one plugin: what a host, its callers and its workers do, step by step, beside each other.

A history is a list of steps and the seed of the scheduler; both together say everything that happens. Steps begin things and do not wait for them: a swap goes on while callers
call and workers die. The :class:`Judge` writes down what everybody was told and what was really executed, and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

import blackhole_core as bh
from blackhole_core.ids import Isolation, PluginId
from blackhole_core.manifest.model import Manifest
from blackhole_core.registry.candidate import Candidate, Origin
from tests.simulated.host import Simulation, simulation
from tests.simulated.judge import CONFIG, STATELESS, VERSIONS, Caller, Judge

__all__ = ["HOW", "SOURCE", "VERSIONS", "Step", "play"]

#: The code of the plugin; ``worker`` is what it runs in.
SOURCE: Final = """
import blackhole_core as bh
hookimpl = bh.HookimplMarker("histories")
FAULT = "<fault>"

def stumble(place):
    if FAULT == place:
        raise RuntimeError("on purpose")
    if FAULT == "dies in " + place:
        worker.die()
    if FAULT == "hangs in " + place:
        worker.hang()

class Plugin:
    def __init__(self):
        self.count = 0

    @bh.hookimpl
    def plugin_start(self, context):
        worker.start(context.config)
        stumble("start")

    @bh.hookimpl
    def plugin_health(self):
        return "sick" if FAULT == "health" else None

    @bh.hookimpl
    def plugin_prepare_shutdown(self):
        stumble("prepare")

    @bh.hookimpl
    def plugin_stop(self):
        stumble("stop")

    @hookimpl
    def add(self, call: int, how: str) -> list[int]:
        if how == "before":
            worker.die(call)
        self.count += 1
        worker.note(call, self.count)
        worker.answer(how)
        return [call, self.count]
<state>"""
_STATE: Final = """
    @bh.hookimpl
    def plugin_export_state(self):
        stumble("export")
        worker.exported(self.count)
        return {"count": self.count}

    @bh.hookimpl
    def plugin_import_state(self, state, version):
        stumble("import")
        worker.imported(state["count"])
        self.count = state["count"]
"""
SOURCES: Final = {
    version: SOURCE.replace("<fault>", fault).replace("<state>", "" if version in STATELESS else _STATE)
    for version, fault in VERSIONS.items()
}
#: What becomes of a call: it raises; its worker dies before or after the effect, in the middle of the answer or just after it; it answers twice, with what is no message or with one
#: that is too long; its worker closes the channel; it hangs, or answers late.
HOW: Final = ("no", "raise", "before", "after", "mid-answer", "answered", "twice", "breach", "too long", "closes", "hang", "late")

#: Calls that begin in the middle of a swap: some more than it takes when each has a few decisions.
_MOST_AMONG: Final = 12

Step = tuple[Any, ...]

hookspec = bh.HookspecMarker("histories")


class Specs:
    """What the host calls."""

    @hookspec(firstresult=True)
    def add(self, call: int, how: str) -> list[int]:
        """Count one more, and return the call's number and the count."""
        raise NotImplementedError


def candidates(threads: int) -> dict[str, Candidate]:
    """Return every version."""
    return {
        version: Candidate(
            PluginId("counter", version),
            Origin.WHEEL,
            Path(version),
            "counter_plugin:Plugin",
            Path("/nowhere"),
            ("counter_plugin",),
            version,
            Manifest(name="counter", version=version, isolation=Isolation.PROCESS, threads=threads),
        )
        for version in VERSIONS
    }


class Player:
    """Does the steps of one history."""

    def __init__(self, world: Simulation) -> None:
        self.world, self.pm, self.scheduler = world, world.pm, world.scheduler
        self.judge = Judge(world)
        self.under_way: list[Any] = []
        world.machine.judge = self.judge
        world.pm.add_hookspecs(Specs)

    def do(self, step: Step) -> None:
        name, *arguments = step
        getattr(self, f"_{name}")(*arguments)

    def begin(self, name: str, action: Callable[[], object]) -> None:
        from blackhole_core.executor import traffic

        thread = traffic.threading.Thread(target=action, name=name)
        self.under_way.append(thread)
        thread.start()

    # --- steps -------------------------------------------------------------------------------------------------------

    def _call(self, how: str) -> None:
        # What kills a worker each time it comes is known by its arguments, so it has the same ones each time.
        number = -1 if how == "poison" else len(self.judge.callers)
        caller = Caller(number, how, self.scheduler.decisions, self.scheduler.now)
        self.judge.callers.append(caller)

        def call() -> None:
            try:
                caller.answer = self.pm.hook.add(call=number, how="before" if how == "poison" else how)
            except Exception as error:
                caller.error = error.with_traceback(None)
            caller.ended, caller.ended_at = self.scheduler.decisions, self.scheduler.now

        self.begin(f"caller-{len(self.judge.callers)}", call)

    def _operate(self, name: str, action: Callable[[], object]) -> None:
        def operate() -> None:
            try:
                action()
            except bh.BlackholeError:
                pass  # refused, or failed, and said so
            except RuntimeError as error:
                if "on purpose" not in str(error):  # what the plugin raises in a contract that was asked for is told as it is
                    raise

        self.begin(name, operate)

    def _load(self, version: str) -> None:
        self._operate("load", lambda: self.pm.load("counter", source=Path(version)))

    def _swap(self, version: str) -> None:
        self._operate("swap", lambda: self.pm.swap("counter", source=Path(version)))

    def _among(self, version: str, apart: int) -> None:
        """Swap, and have calls begin, so many decisions ``apart``, from when the old version is asked for its state until the swap is over."""
        told = len(self.judge.events)
        self._swap(version)
        swap = self.under_way[-1]
        while swap.is_alive() and not any(event.data.get("phase") == "export" for _, _, event in self.judge.events[told:]):
            if not self.scheduler.step():
                return
        for _ in range(_MOST_AMONG):
            if not swap.is_alive():
                return
            self._call("no")
            self._run(apart)

    def _force(self, version: str) -> None:
        self.judge.forced.add(version)
        self._operate("swap", lambda: self.pm.swap("counter", source=Path(version), force=True))

    def _rollback(self) -> None:
        self._operate("rollback", lambda: self.pm.rollback("counter"))

    def _unload(self) -> None:
        self._operate("unload", lambda: self.pm.unload("counter"))

    def _snapshot(self) -> None:
        self._operate("snapshot", lambda: self.pm.export_state("counter"))

    def _release(self) -> None:
        self.judge.released = True
        self.pm.plugin("counter").release_poison()

    def _signal(self, number: int) -> None:
        for worker in self.world.machine.living:
            worker.signal(number)

    def _run(self, decisions: int) -> None:
        for _ in range(decisions):
            if not self.scheduler.step(patient=False):
                return

    def _wait(self, seconds: float) -> None:
        self.scheduler.advance(seconds)

    def _narrow(self, capacity: int) -> None:
        self.world.machine.capacity = capacity

    # --- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Let everything come to its end, ask the plugin once more how it is, and end the host."""
        self._signal(18)  # SIGCONT: nobody is left standing still
        self.scheduler.advance(300.0)
        busy = [thread.name for thread in self.under_way if thread.is_alive()]
        if busy:
            self.judge.faults.append(f"{busy} never ended:\n{self.scheduler.waiting()}")
            return
        self._at_rest()
        phase = self.pm.plugin("counter").phase if self.judge._member is not None else None
        for _ in range(2):
            self._call("no")
            self.scheduler.advance(1.0)
        last = self.judge.callers[-1]
        if phase == "running" and last.answer is None:
            self.judge.faults.append(f"a plugin that runs, and was left alone for minutes, says {last.error!r}")

    def _at_rest(self) -> None:
        """What the host says of the plugin is what there is."""
        if self.judge._member is None:
            return
        plugin, living = self.pm.plugin("counter"), self.world.machine.living
        serving = self.judge._member.instance
        if plugin.phase not in ("running", "broken", "stopped", "failed"):
            self.judge.faults.append(f"minutes later its phase is {plugin.phase}")
        if len(living) != (plugin.phase == "running"):
            self.judge.faults.append(f"its phase is {plugin.phase}, and {len(living)} workers live")
        if (serving is not None) != (plugin.phase in ("running", "broken")):
            self.judge.faults.append(f"its phase is {plugin.phase}, and {serving} serves")
        hooks = len(self.pm.hook.add.get_hookimpls())
        if hooks != (serving is not None):
            self.judge.faults.append(f"{serving} serves, with {hooks} hook implementations")


@attrs.frozen
class Played:
    """What became of a history."""

    faults: list[str]
    decisions: int
    told: list[str]


def play(history: list[Step], seed: int, threads: int = 1) -> Played:
    """Do all steps, then let everything come to its end; return what is wrong."""
    with simulation(seed, candidates(threads), SOURCES, CONFIG) as world:
        player = Player(world)
        with world.pm:
            player.do(("load", "1.0.0"))
            world.scheduler.settle()
            for step in history:
                player.do(step)
            player.finish()
        world.scheduler.settle()
        faults = player.judge.verdict()
        if world.machine.living or world.scheduler.busy:
            faults.append(f"after the end of the host: {world.machine.living} live, {world.scheduler.busy} run")
        told = [f"{caller.how}: {caller.error!r}" if caller.error else f"{caller.how}: {caller.answer}" for caller in player.judge.callers]
        return Played(faults, world.scheduler.decisions, told)
