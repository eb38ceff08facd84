"""Histories of a plugin, compared with a model after every step: thousands without processes and without time, some of them with real workers."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import blackhole_core as bh
from tests.integration.lifecycle_model import FAULTS, POLICY, Model
from tests.integration.scripted import Clock, ScriptedRunner, script
from tests.stage import eventually

SOURCE: Final = """
import os, signal
import blackhole_core as bh
hookimpl = bh.HookimplMarker("histories")
FAULT = "<fault>"

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Plugin:
    def __init__(self):
        self.count = 0

    @bh.hookimpl
    def plugin_start(self, context):
        self.log = context.config["log"]
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
)


class World:
    """A host with the plugin, driven step by step beside a model. ``living`` are the scripted workers, None with real ones."""

    def __init__(self, pm: bh.PluginManager, folder: Path, clock: Clock | None) -> None:
        self.pm, self.model, self._folder, self._clock = pm, Model(), folder, clock
        self.living: set[ScriptedRunner] | None = None if clock is None else script(pm, SOURCES, clock)
        self._calls: dict[int, str] = {}
        self.do(("load", "1.0.0"))

    def do(self, step: Step) -> None:
        """Do one step in both, and compare."""
        name, *arguments = step
        wanted = self.model.die() if name == "crash" else getattr(self.model, name)(*arguments)
        got = getattr(self, f"_{name}")(*arguments)
        assert got == wanted, f"{step}: got {got!r}, the model says {wanted!r}"
        self._compare(step)

    def _compare(self, step: Step) -> None:
        plugin = self.pm.plugin("counter")
        if self._clock is None:
            assert eventually(lambda: plugin.phase == self.model.phase), f"{step}: {plugin.phase}, the model says {self.model.phase}"
        else:
            self._clock.advance(0.0)
        instance = self.pm.parts.supervisor.member("counter").instance
        assert (plugin.phase, plugin.version if instance else None) == (self.model.phase, self.model.version), step
        implementations = self.pm.hook.add.get_hookimpls()
        assert len(implementations) == (self.model.version is not None), f"{step}: {implementations} serve"
        if self.living is not None:
            assert len(self.living) == (self.model.phase == "running"), f"{step}: {len(self.living)} workers live"
            assert [runner.plugin.count for runner in self.living] == [self.model.count] * len(self.living), f"{step}: the state is another"

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
        if self.living is not None:
            for runner in list(self.living):
                runner.die()
            return
        pid = self.pm.plugin("counter").pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        plugin = self.pm.plugin("counter")
        assert eventually(lambda: plugin.restarts > restarts or plugin.phase == "broken")

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
        assert self._clock is not None, "real time is not waited for"
        self._clock.advance(seconds)

    def audit(self, log: Path) -> None:
        """No accepted call is lost or run twice unless its error says so."""
        runs = Counter(map(int, log.read_text().split())) if log.exists() else Counter()
        allowed = {"yes": (1,), "no": (0,), "unknown": (0, 1)}
        wrong = {call: (outcome, runs[call]) for call, outcome in self._calls.items() if runs[call] not in allowed[outcome]}
        assert wrong == {}


@contextlib.contextmanager
def _world(folder: Path, clock: Clock | None) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as own:
        log = Path(own, "log")
        config = {
            "restart": POLICY,
            "poison_deaths": 0,
            "probation": 0,
            "sandbox": "off",
            "plugins": {"counter": {"config": {"log": str(log)}}},
        }
        with bh.PluginManager("histories", config=config) as pm:
            pm.add_hookspecs(_Specs)
            world = World(pm, folder, clock)
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


@settings(max_examples=100, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(history=[("swap", "2.0.0"), ("unload",), ("load", "1.0.0"), ("rollback",)])  # to what served before the load
@example(history=[("call", "no"), ("snapshot",), ("crash",)])  # the state that was kept
@given(history=st.lists(st.sampled_from(STEPS), min_size=12, max_size=40))
def test_every_history_is_as_the_model_says(history: list[Step], folder: Path) -> None:
    """F27-F31, S-04 … S-06, S-12: one version serves at most, no accepted call is lost or run twice, state and phase are the model's, restarts stay within the intensity."""
    with _world(folder, Clock()) as world:
        for step in history:
            world.do(step)


@pytest.mark.parametrize("seed", range(10))
def test_real_workers_do_the_same(seed: int, folder: Path) -> None:
    """The same steps with processes that are killed lead to the same."""
    steps = [step for step in STEPS if step[0] != "wait"]
    history = random.Random(seed).choices(steps, k=12)
    with _world(folder, None) as world:
        for step in history:
            world.do(step)
