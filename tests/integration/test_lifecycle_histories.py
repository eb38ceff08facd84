"""Histories of a plugin: one step after the other, compared with a model after each, with simulated workers and with real ones; and everything beside everything, judged
by what callers were told and what was executed.

The usual run plays a few, the same ones each time. ``HISTORIES=20`` plays twenty times as many (the environment variable multiplies each number of histories), and
``HISTORIES_SEED`` set to another number others: ``HISTORIES=20 HISTORIES_SEED=7 pytest --timeout=0 -o faulthandler_timeout=0 tests/integration/test_lifecycle_histories.py``. A failure prints the history and the
seeds that lead to it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given, note, seed, settings
from hypothesis import strategies as st

import blackhole_core as bh
from blackhole_core.executor import traffic
from tests.integration.lifecycle_model import FAULTS, POLICY, Model
from tests.simulated.histories import HOW, VERSIONS, candidates, play
from tests.simulated.host import Simulation, simulation
from tests.simulated.worker import SimulatedWorker
from tests.stage import eventually

SOURCE: Final = """
import os, pathlib, signal, time
import blackhole_core as bh
hookimpl = bh.HookimplMarker("histories")
FAULT = "<fault>"

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def hold():
    while not pathlib.Path(LOG + ".go").exists():
        time.sleep(0.001)

class Plugin:
    def __init__(self):
        self.count = 0

    @bh.hookimpl
    def plugin_start(self, context):
        global LOG
        LOG = self.log = context.config["log"]
        if FAULT == "start":
            raise RuntimeError("on purpose")

    @bh.hookimpl
    def plugin_health(self):
        return "sick" if FAULT == "health" else None

    @bh.hookimpl
    def plugin_export_state(self):
        if FAULT == "export":
            raise RuntimeError("on purpose")
        return {"count": self.count}

    @bh.hookimpl
    def plugin_import_state(self, state, version):
        if FAULT == "import":
            raise RuntimeError("on purpose")
        if FAULT == "dies in import":
            die()
        self.count = state["count"]

    @hookimpl
    def add(self, call: int, death: str) -> int:
        if death == "before":
            die()
        with open(self.log, "a") as log:
            log.write(f"{call}\\n")
        self.count += 1
        if death == "after":
            die()
        if death == "hold":
            hold()
        return self.count
"""
SOURCES: Final = {version: SOURCE.replace("<fault>", fault) for version, fault in FAULTS.items()}

hookspec = bh.HookspecMarker("histories")


class _Specs:
    @hookspec(firstresult=True)
    def add(self, call: int, death: str) -> int:
        """Count one more; ``death``: no, before the call is logged, or after."""
        raise NotImplementedError


Step = tuple[Any, ...]
STEPS: Final[tuple[Step, ...]] = (
    *[("call", "no")] * 3,
    ("call", "before"),
    ("call", "after"),
    ("crash",),
    *[("swap", version) for version in FAULTS],
    ("swap", "1.0.0"),
    ("swap", "2.0.0"),
    ("rollback",),
    ("snapshot",),
    ("unload",),
    *[("load", version) for version in ("1.0.0", "2.0.0", "3.0.0", "4.0.0", "6.0.0")],
    ("wait", 31.0),
    *[("together", 3, end) for end in ("go on", "crash", "swap")],
)


class World:
    """A host with the plugin, driven step by step beside a model; ``simulated`` is what stands for its workers and its time, None where they are real."""

    def __init__(self, pm: bh.PluginManager, folder: Path, simulated: Simulation | None, log: Path) -> None:
        self.pm, self.model, self._folder, self._simulated, self._log = pm, Model(), folder, simulated, log
        self._calls: dict[int, str] = {}
        self.do(("load", "1.0.0"))

    @property
    def living(self) -> list[SimulatedWorker]:
        return self._simulated.machine.living if self._simulated is not None else []

    def do(self, step: Step) -> None:
        """Do one step in both, and compare."""
        name, *arguments = step
        wanted = self.model.die() if name == "crash" else getattr(self.model, name)(*arguments)
        got = getattr(self, f"_{name}")(*arguments)
        assert got == wanted, f"{step}: got {got!r}, the model says {wanted!r}"
        self._compare(step)

    def _compare(self, step: Step) -> None:
        plugin = self.pm.plugin("counter")
        assert self._until(lambda: plugin.phase == self.model.phase), f"{step}: {plugin.phase}, the model says {self.model.phase}"
        instance = self.pm.parts.supervisor.member("counter").instance
        assert (plugin.phase, plugin.version if instance else None) == (self.model.phase, self.model.version), step
        implementations = self.pm.hook.add.get_hookimpls()
        assert len(implementations) == (self.model.version is not None), f"{step}: {implementations} serve"
        if self._simulated is not None:
            assert len(self.living) == (self.model.phase == "running"), f"{step}: {len(self.living)} workers live"
            assert [worker.plugin.count for worker in self.living] == [self.model.count] * len(self.living), f"{step}: the state is another"

    def _until(self, condition: Callable[[], object]) -> bool:
        if self._simulated is None:
            return eventually(condition)
        self._simulated.scheduler.settle()
        return self._simulated.scheduler.block(condition, 1.0)

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _call(self, death: str) -> object:
        call = len(self._calls)
        self._calls[call] = "accepted"
        try:
            answer = self.pm.hook.add(call=call, death=death)
        except bh.WorkerDied as error:
            self._calls[call] = error.executed
            return f"WorkerDied {error.executed}"
        except bh.PluginBroken:
            self._calls[call] = "no"
            return "PluginBroken"
        self._calls[call] = "no" if answer is None else "yes"
        return answer

    def _crash(self) -> None:
        if self.model.version is None or self.pm.plugin("counter").pid is None:
            return
        restarts = self.pm.plugin("counter").restarts
        self._kill()
        plugin = self.pm.plugin("counter")
        assert self._until(lambda: plugin.restarts > restarts or plugin.phase == "broken")

    def _kill(self) -> None:
        pid = self.pm.plugin("counter").pid
        assert pid is not None
        if self._simulated is None:
            os.kill(pid, signal.SIGKILL)
        for worker in self.living:
            worker.signal(signal.SIGKILL)

    def _together(self, calls: int, end: str) -> object:
        """Make several calls at once, the first of which is held until the others wait behind it and ``end`` has begun; return what they got."""
        got: list[object] = [None] * calls
        runner: Any = getattr(self.pm.parts.supervisor.member("counter").instance, "runner", None)
        if runner is None or self.pm.plugin("counter").phase != "running":
            return [self._call("no") for _ in range(calls)]
        threads = []
        for place in range(calls):
            threads.append(self._begin(lambda place=place: got.__setitem__(place, self._call("hold" if place == 0 else "no"))))  # type: ignore[misc]  # a default binds the loop's value
            assert self._until(lambda place=place: len(runner._traffic.outstanding) > place and (place or runner._traffic.worker.ledger))  # type: ignore[misc]  # a default binds the loop's value
        log = self._log
        assert self._until(lambda: str(len(self._calls) - calls) in log.read_text().split() if log.exists() else False)
        if end == "crash":
            self._kill()
        if end == "swap":
            swapped: list[object] = []
            threads.append(self._begin(lambda: swapped.append(self._swap("2.0.0"))))
            assert self._until(lambda: swapped or self.pm.plugin("counter").phase == "draining")
        if end != "crash":
            log.with_name(log.name + ".go").touch()
            for worker in self.living:
                worker.go_on()
        assert self._until(lambda: not any(thread.is_alive() for thread in threads))
        log.with_name(log.name + ".go").unlink(missing_ok=True)
        return [*got, *swapped] if end == "swap" else got

    def _begin(self, action: Callable[[], object]) -> Any:
        thread = traffic.threading.Thread(target=action)  # a simulated one, in a simulation
        thread.start()
        return thread

    def _swap(self, version: str) -> object:
        with self._swapping() as outcome:
            report = self.pm.swap("counter", source=self._folder / version)
            outcome.append("unchanged" if report.unchanged else report.to_version)
        return outcome[0]

    def _rollback(self) -> object:
        with self._swapping() as outcome:
            report = self.pm.rollback("counter")
            outcome.append("unchanged" if report.unchanged else report.to_version)
        return outcome[0]

    @contextlib.contextmanager
    def _swapping(self) -> Iterator[list[object]]:
        outcome: list[object] = []
        try:
            yield outcome
        except bh.SwapFailed as error:
            outcome.append(f"SwapFailed {error.phase}")

    def _load(self, version: str) -> object:
        try:
            return self.pm.load("counter", source=self._folder / version).version
        except bh.LoadFailed:
            return "LoadFailed"

    def _unload(self) -> None:
        self.pm.unload("counter")

    def _snapshot(self) -> object:
        try:
            snapshot = self.pm.export_state("counter")
        except Exception:
            return "not kept"
        return "not kept" if snapshot is None else snapshot.data["count"]

    def _wait(self, seconds: float) -> None:
        assert self._simulated is not None, "real time is not waited for"
        self._simulated.scheduler.advance(seconds)

    def audit(self, log: Path) -> None:
        """No accepted call is lost or run twice unless its error says so."""
        runs = Counter(map(int, log.read_text().split())) if log.exists() else Counter()
        allowed = {"yes": (1,), "no": (0,), "unknown": (0, 1)}
        wrong = {call: (outcome, runs[call]) for call, outcome in self._calls.items() if runs[call] not in allowed[outcome]}
        assert wrong == {}


@contextlib.contextmanager
def _world(folder: Path, seed: int | None) -> Iterator[World]:
    """Give a world with real workers, or with simulated ones whose order ``seed`` decides."""
    with tempfile.TemporaryDirectory() as own, contextlib.ExitStack() as stack:
        log = Path(own, "log")
        config = {
            "restart": POLICY,
            "poison_deaths": 0,
            "probation": 0,
            "sandbox": "off",
            "plugins": {"counter": {"config": {"log": str(log)}}},
        }
        simulated = stack.enter_context(simulation(seed, candidates(1), SOURCES, config)) if seed is not None else None
        with simulated.pm if simulated is not None else bh.PluginManager("histories", config=config) as pm:
            pm.add_hookspecs(_Specs)
            world = World(pm, folder, simulated, log)
            yield world
            world.audit(log)
        assert not world.living, "a worker is left after the end of the host"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write every version."""
    folder = tmp_path_factory.mktemp("versions")
    for version, source in SOURCES.items():
        (folder / version).mkdir()
        (folder / version / "counter_plugin.py").write_text(source)
        manifest = f"name: counter\nversion: {version}\nentry: counter_plugin:Plugin\nisolation: process\nstate: {{version: 1}}\n"
        (folder / version / "plugin.yaml").write_text(manifest)
    return folder


#: What Hypothesis draws from.
SEED: Final = int(os.environ.get("HISTORIES_SEED", "0"))
#: How many times as many histories as in the usual run, which takes some ten seconds.
TIMES: Final = int(os.environ.get("HISTORIES", "1"))


@seed(SEED)
@settings(max_examples=30 * TIMES, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(history=[("swap", "2.0.0"), ("unload",), ("load", "1.0.0"), ("rollback",)], order=0)  # to what served before the load
@example(history=[("call", "no"), ("snapshot",), ("crash",)], order=0)  # the state that was kept
@given(history=st.lists(st.sampled_from(STEPS), min_size=12, max_size=40), order=st.integers(0, 2**32))
def test_every_history_is_as_the_model_says(history: list[Step], order: int, folder: Path) -> None:
    """F27-F31, S-04 … S-06, S-12: one version serves at most, no accepted call is lost or run twice, state and phase are the model's, restarts stay within the intensity."""
    with _world(folder, order) as world:
        for step in history:
            world.do(step)


@pytest.mark.parametrize("number", range(4 * TIMES))
def test_real_workers_do_the_same(number: int, folder: Path) -> None:
    """The same steps with processes that are killed lead to the same."""
    steps = [step for step in STEPS if step[0] != "wait"]
    history = [*random.Random(SEED + number).choices(steps, k=11), ("together", 3, ("go on", "crash", "swap")[number % 3])]
    for order in (number, None):
        with _world(folder, order) as world:
            for step in history:
                world.do(step)


#: Steps of everything beside everything; what is there several times comes so much more often.
BESIDE: Final = st.one_of(
    *[st.tuples(st.just("call"), st.sampled_from(("no",) * 6 + HOW + ("poison",)))] * 5,
    *[st.tuples(st.just("run"), st.integers(1, 60))] * 2,
    st.tuples(st.just("wait"), st.sampled_from((0.1, 1.0, 6.0, 31.0, 61.0))),
    st.tuples(st.just("signal"), st.sampled_from((signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT))),
    *[st.tuples(st.just("swap"), st.sampled_from((*VERSIONS, *["1.0.0", "2.0.0"] * 4)))] * 2,
    st.tuples(st.just("load"), st.sampled_from((*VERSIONS, *["1.0.0", "2.0.0"] * 4))),
    st.tuples(st.just("among"), st.sampled_from(("1.0.0", "2.0.0", "5.0.0")), st.sampled_from((1, 8, 20))),
    st.sampled_from(
        (("rollback",), ("rollback",), ("snapshot",), ("snapshot",), ("unload",), ("release",), ("force", "1.0.0"), ("force", "2.0.0"))
    ),
    st.tuples(st.just("narrow"), st.sampled_from((64, 300, 65536))),
)


@seed(SEED)
@settings(max_examples=80 * TIMES, deadline=None, print_blob=True)
@example(history=[("call", "no"), ("among", "2.0.0", 8)], order=0, threads=1)  # who gave its state away answers no more
@example(history=[("call", "poison"), ("wait", 6.0)] * 4, order=0, threads=1)  # the fourth is refused
@example(history=[("call", "hang"), ("run", 30), ("call", "no"), ("wait", 31.0)], order=0, threads=1)  # what nobody waits for is withdrawn
@given(history=st.lists(BESIDE, min_size=10, max_size=40), order=st.integers(0, 2**32), threads=st.integers(1, 2))
def test_everything_beside_everything(history: list[Step], order: int, threads: int) -> None:
    """F01-F08, F27-F31, S-01 … S-13: whatever happens beside whatever, each call is told the truth of how often it ran, by a version that served then; no state is lost; all comes to rest."""
    note(f"HISTORIES_SEED={SEED}; play({history!r}, {order}, {threads})")
    played = play(history, order, threads)
    assert not played.faults, "\n".join(played.faults)


def test_the_same_seed_is_the_same_history() -> None:
    """A failure can be played again."""
    history: list[Step] = [
        ("call", "no"),
        ("swap", "2.0.0"),
        ("call", "after"),
        ("call", "no"),
        ("run", 20),
        ("signal", 9),
        ("call", "late"),
    ]
    first, second, other = (play(history, order) for order in (5, 5, 6))
    assert (first.told, first.decisions) == (second.told, second.decisions)
    assert first.decisions != other.decisions
