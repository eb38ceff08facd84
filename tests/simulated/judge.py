"""Watches what happens in a simulation, writes down what everybody was told and what was really executed, and says what is wrong with it."""

from __future__ import annotations

import itertools
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

import blackhole_core as bh
from blackhole_core.lifecycle.restart import RestartPolicy
from tests.integration.lifecycle_model import FAULTS
from tests.simulated.host import Simulation
from tests.simulated.worker import SimulatedWorker

__all__ = ["CONFIG", "STATELESS", "VERSIONS", "Caller", "Judge"]

#: What is wrong with each version, of those of the model and some more; "stateless": it has no state to hand over.
VERSIONS: Final = {
    **FAULTS,
    "8.0.0": "dies in export",
    "9.0.0": "hangs in export",
    "10.0.0": "hangs in import",
    "11.0.0": "dies in start",
    "12.0.0": "stateless",
    "13.0.0": "stateless",
    "14.0.0": "hangs in prepare",
    "15.0.0": "dies in prepare",
    "16.0.0": "dies in stop",
}
STATELESS: Final = frozenset(version for version, fault in VERSIONS.items() if fault == "stateless")

CALL_TIMEOUT: Final = 20.0
CONFIG: Final[dict[str, Any]] = {
    "restart": {"intensity": 3, "period": 60.0, "delay": 0.5, "max_delay": 4.0},
    "poison_deaths": 3,
    "probation": 5,
    "breaker": {"failures": 4, "period": 60, "open": 10},
    "call_timeout": CALL_TIMEOUT,
    "start_timeout": 8,
    "stop_grace": 2,
    "hang_grace": 2,
    "heartbeat": 1,
    "hung_after": 10,
    "drain_timeout": 4,
    "state_timeout": 3,
}
_RESTARTS: Final = RestartPolicy(**CONFIG["restart"])
#: Seconds after which a worker that owes an answer and stands still has been ended, every step of that included.
_HUNG: Final = CONFIG["hung_after"] + 4 * CONFIG["heartbeat"]
#: Seconds in which the callers of a worker that died are told: it may first be waited for after it closed its channel.
_TOLD: Final = 0.3


@attrs.define(eq=False)
class Caller:
    """One call: when it began, and what its caller was told. Instants are numbers of decisions, ``…_at`` seconds."""

    number: int
    how: str
    begun: int
    begun_at: float
    ended: int | None = None
    ended_at: float = 0.0
    answer: list[int] | None = None
    error: BaseException | None = None

    @property
    def executed(self) -> tuple[int, ...]:
        """How often it may have been executed, by what its caller was told."""
        error = self.error
        if error is None:
            return (1,) if self.answer is not None else (0,)
        if isinstance(error, bh.WorkerDied):
            return (0,) if error.executed == "no" else (0, 1)
        if isinstance(error, bh.CallTimeout):
            return (0,) if "executed: no" in str(error) else (0, 1)
        return (1,) if self.how == "raise" and "on purpose" in str(error) else (0,)


@attrs.frozen
class Reign:
    """A generation that serves: since when, after which other, with which version."""

    generation: int
    version: str
    since: int
    adopted: int
    adopted_at: float


class Judge:
    """Watches one simulation."""

    def __init__(self, world: Simulation) -> None:
        self.world, self.scheduler = world, world.scheduler
        self.callers: list[Caller] = []
        self.effects: dict[int, list[tuple[SimulatedWorker, int, int]]] = defaultdict(list)  # worker, count, decision
        self.exports: dict[int, int] = {}  # generation → decision of its last export
        self.events: list[tuple[int, float, Any]] = []
        self.reigns: list[Reign] = []
        self.faults: list[str] = []
        self.deaths: list[tuple[SimulatedWorker, float, list[int]]] = []
        self.poisoned: Counter[int] = Counter()  #: workers that the poisoned call has ended, by generation
        self.released = False  #: whether an operator has it run again
        self.forced: set[str] = set()  #: versions that were swapped in without waiting for the calls that had begun
        self._begins = 0
        self._serving: int | None = None
        self._member: Any = None
        self._seen_dead: set[int] = set()
        self._unwanted: set[int] = set()  #: calls that wait in a worker for nobody, as far as that was said
        world.pm.on_event(self._event)
        self.scheduler.sources.append(self._look)
        self.scheduler.at_standstill = self._stand_still

    # --- what happens ------------------------------------------------------------------------------------------------

    def _event(self, event: Any) -> None:
        self.events.append((self.scheduler.decisions, self.scheduler.now, event))
        if (event.name, event.data.get("phase")) in (("swap.phase", "switch"), ("plugin.phase", "starting")):
            self._begins = self.scheduler.decisions

    def _look(self) -> list[Callable[[], object]]:
        """Write down who serves, and who has died. Asked at each decision; nothing happens here."""
        if self._member is None:
            self._member = next((one for one in self.world.pm.parts.supervisor.members() if one.name == "counter"), None)
        instance = self._member.instance if self._member is not None else None
        serving = instance.generation if instance is not None else None
        if serving != self._serving:
            self._serving = serving
            if instance is not None:
                decision = self.scheduler.decisions
                self.reigns.append(Reign(instance.generation, instance.id.version, self._begins, decision, self.scheduler.now))
        for worker in self.world.machine.workers[-6:]:
            if worker.exit is not None and worker.number not in self._seen_dead:
                self._seen_dead.add(worker.number)
                self.deaths.append((worker, self.scheduler.now, worker.left))
        return []

    def _stand_still(self) -> None:
        """Nothing can happen before time passes: nobody may wait for what needs none, and nobody live who should not."""
        now, living = self.scheduler.now, self.world.machine.living
        for worker in living:
            if worker.answered_badly and not worker.deaf:
                worker.answered_badly = False  # said once
                self.faults.append(f"worker {worker.number} broke the protocol at {now:g} and goes on")
            owing = worker.owing()
            if worker.stopped and now - max(worker.stopped_at, owing) > _HUNG:
                self.faults.append(f"worker {worker.number} has stood still for {now - worker.stopped_at:g} s, and is left alone")
            self._look_for_unwanted(worker)
        member = self._member
        if member is None or member.claim is not None or any(worker.owes or worker.stopped for worker in living):
            return
        waiting = [caller.number for caller in self.callers if caller.ended is None]
        if waiting and (member.phase in ("broken", "stopped", "failed") or (member.phase == "running" and living)):
            self.faults.append(f"calls {waiting} wait at {now:g}, though the plugin is {member.phase} and has nothing to do")

    def _look_for_unwanted(self, worker: SimulatedWorker) -> None:
        """Whoever gave a call up that waits in a worker has had it withdrawn there, and the worker has heard of that: it hears at once, whatever its calls do."""
        if worker.stopped or worker.deaf:
            return
        for number in worker.queued:
            caller = self.callers[number] if number >= 0 else None
            if caller is not None and caller.ended is not None and number not in self._unwanted:
                self._unwanted.add(number)  # said once
                self.faults.append(
                    f"call {number} waits in worker {worker.number} at {self.scheduler.now:g}, though its caller got {caller.error!r}"
                )

    # --- what is wrong -----------------------------------------------------------------------------------------------

    def verdict(self) -> list[str]:
        """Say everything that is wrong with what happened so far; nobody is under way any more."""
        checks = (
            self._callers,
            self._answers,
            self._told_in_time,
            self._unknown,
            self._counts,
            self._restarts,
            self._poison,
            self._probation,
        )
        self.faults += ["a thread ended with " + "".join(traceback.format_exception(error)) for error in self.scheduler.failures]
        for check in checks:
            self.faults += check()
        return self.faults

    def _callers(self) -> Iterator[str]:
        """Each call has ended, and was executed as often as its caller was told."""
        for caller in self.callers:
            times = len(self.effects[caller.number])
            if caller.ended is None:
                yield f"call {caller.number} ({caller.how}) was never answered"
            elif caller.number >= 0 and times not in caller.executed:
                yield f"call {caller.number} ({caller.how}) was executed {times} times, its caller got {caller.error or caller.answer!r}"
            error = caller.error
            if isinstance(
                error, bh.PluginBroken | bh.PluginUnloaded | bh.BreakerOpen | bh.PoisonedCall | bh.WorkerDied | bh.CallTimeout | None
            ):
                continue
            if not (caller.how == "raise" and isinstance(error, RuntimeError)):
                yield f"call {caller.number} ({caller.how}) failed with {error!r}"

    def _answers(self) -> Iterator[str]:
        """An answer is the call's own, and of a version that served while it was under way."""
        ends = {reign.generation: following.adopted for reign, following in itertools.pairwise(self.reigns)}
        spans = {reign.generation: (reign.since, ends.get(reign.generation, float("inf"))) for reign in self.reigns}
        for caller in self.callers:
            if caller.answer is None or caller.number < 0:
                continue
            worker, count, _ = self.effects[caller.number][0]
            assert worker.load is not None
            generation = worker.load.generation
            begin, end = spans.get(generation, (float("inf"), 0))
            if caller.answer != [caller.number, count]:
                yield f"call {caller.number} got the answer {caller.answer}, its own is {[caller.number, count]}"
            if caller.begun > end or (caller.ended or 0) < begin:
                yield f"call {caller.number} was answered by generation {generation}, which did not serve then"

    def _told_in_time(self) -> Iterator[str]:
        """Whoever waits for a worker that dies is told at once."""
        callers = {caller.number: caller for caller in self.callers}
        for worker, at, left in self.deaths:
            for number in left:
                caller = callers.get(number)
                if caller is not None and caller.ended_at > at + _TOLD:
                    yield f"call {number} was on worker {worker.number}, which died at {at:g}, and was told at {caller.ended_at:g}"

    def _unknown(self) -> Iterator[str]:
        """No more calls fail with a worker than it can have begun; what one had begun that broke the protocol cannot be known."""
        if any(worker.answered_badly for worker in self.world.machine.workers):
            return
        unknown = sum(isinstance(caller.error, bh.WorkerDied) and caller.error.executed == "unknown" for caller in self.callers)
        most = sum((worker.load.threads if worker.load is not None else 0) for worker, _, _ in self.deaths)
        if unknown > most:
            yield f"{unknown} calls failed with their workers, which can have begun {most}"

    def _counts(self) -> Iterator[str]:
        """Each worker goes on from the state it was given, nothing that was counted is lost in a swap, and a restart brings back what was kept."""
        by_worker: dict[SimulatedWorker, list[tuple[int, int]]] = defaultdict(list)
        for effects in self.effects.values():
            for worker, count, decision in effects:
                by_worker[worker].append((decision, count))
        for worker, effects in by_worker.items():
            counts = [count for _, count in sorted(effects)]
            first = worker.given if worker.given is not None else 0
            if counts != list(range(first + 1, first + 1 + len(counts))):
                yield f"worker {worker.number} began at {first} and counted {counts}"
        for old, new in itertools.pairwise(self.reigns):
            exported = self.exports.get(old.generation)
            if exported is None or new.version in self.forced:
                continue
            late = [
                count
                for worker, effects in by_worker.items()
                if worker.load is not None and worker.load.generation == old.generation
                for decision, count in effects
                if decision > exported
            ]
            handed = any(w.given is not None and w.generation == new.generation for w in self.world.machine.workers)
            if late and handed and not self._interrupted(exported, new.adopted):
                yield f"generation {old.generation} counted {late} after it had handed over its state to {new.generation}"
        first = {worker.generation: worker for worker in reversed(self.world.machine.workers)}
        for worker in by_worker:
            restarted = worker is not first[worker.generation] and worker.kept is not None
            if restarted and worker.given is None and worker.version not in STATELESS:
                yield f"worker {worker.number} was started again without the state that was kept, {worker.kept}"

    def _interrupted(self, begin: int, end: int) -> bool:
        """Whether the old version died in the middle of a swap, or the host went back from it without waiting."""
        names = [(event.name, event.data.get("phase")) for decision, _, event in self.events if begin <= decision <= end]
        went_back = any(event.name == "swap.rolled_back" and decision >= end for decision, _, event in self.events)
        return went_back or any(name in ("plugin.broken", "worker.died") for name, _ in names)

    def _restarts(self) -> Iterator[str]:
        """Restarts keep their distance, and there are no more of them than allowed."""
        died = {worker.number: at for worker, at, _ in self.deaths}
        by_generation: dict[int, list[SimulatedWorker]] = defaultdict(list)
        for worker in self.world.machine.workers:
            by_generation[worker.generation].append(worker)
        for generation, workers in by_generation.items():
            restarts: list[float] = []
            for before, worker in itertools.pairwise(workers):
                recent = sum(before_that >= died[before.number] - _RESTARTS.period for before_that in restarts)
                delay = 0.0 if not recent else min(_RESTARTS.max_delay, _RESTARTS.delay * 2 ** (recent - 1))
                if recent >= _RESTARTS.intensity:
                    yield f"generation {generation} was started again {recent + 1} times within {_RESTARTS.period:g} s"
                if worker.born < died[before.number] + delay - 1e-6:
                    yield f"generation {generation} was started again {worker.born - died[before.number]:g} s after a death, {delay:g} s are due"
                restarts.append(worker.born)

    def _probation(self) -> Iterator[str]:
        """The host goes back from what died within its probation, and from nothing else."""
        told = [(decision, event) for decision, _, event in self.events if event.name in ("swap.rolled_back", "swap.rollback_failed")]
        for decision, event in told:
            if event.name != "swap.rolled_back":
                continue
            bad = event.data["bad"].rpartition("@")[2]
            reigns = [reign for reign in self.reigns if reign.version == bad and reign.adopted <= decision]
            spans = [(reign.adopted_at, reign.adopted_at + CONFIG["probation"] + _TOLD) for reign in reigns]
            deaths = [at for worker, at, _ in self.deaths for begin, end in spans if begin <= at <= end]
            if not deaths:
                yield f"the host went back from {bad}, which did not die within its probation"

    def _poison(self) -> Iterator[str]:
        """The same call ends so many workers of one version, and no more."""
        for generation, deaths in self.poisoned.items():
            if deaths > CONFIG["poison_deaths"] and not self.released:
                yield f"the same call ended {deaths} workers of generation {generation}"
