"""S-01: swaps under load, with a ledger of every call."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from tests.integration.managed import LEVELS, Callers, manager, wheel
from tests.levels import require_level
from tests.plugins.build import plugin_dir

CALLERS = 16
SWAPS = 20


class Versions:
    """Which version may answer when: swap ``n`` leads from ``order[n]`` to ``order[n + 1]``."""

    def __init__(self) -> None:
        self.order = ["1.0.0"]
        self.begun = 0
        self.done = 0
        self._seen = threading.local()

    def swap(self, pm: bh.PluginManager, name: str, source: Path, version: str) -> bh.SwapReport:
        self.order.append(version)
        self.begun += 1
        report = pm.swap(name, source=source)
        self.done += 1
        return report

    def check(self, done: int, answer: str) -> None:
        """Assert that a caller who began after ``done`` swaps may get ``answer`` now, and never goes back."""
        generation = max(done, getattr(self._seen, "generation", 0))
        while generation <= self.begun and self.order[generation] != answer:
            generation += 1
        assert generation <= self.begun, f"{answer} after {done} of {self.begun} swaps"
        self._seen.generation = generation


def _swap_back_and_forth(pm: bh.PluginManager, name: str, tmp_path: Path, versions: Versions, swaps: int = SWAPS) -> list[bh.SwapReport]:
    wheels = {version: wheel(name, version, tmp_path) for version in ("1.0.0", "2.0.0")}
    return [versions.swap(pm, name, wheels[version], version) for version in ("2.0.0", "1.0.0") * (swaps // 2)]


def _stateful(level: str, tmp_path: Path, swaps: int = SWAPS) -> None:
    versions = Versions()
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)

        def call() -> tuple[int, ...]:
            counts = tuple(pm.hook.add(amount=1))
            done = versions.done
            [version] = pm.hook.version()
            versions.check(done, version)
            return counts

        with Callers(CALLERS, call) as callers:
            reports = _swap_back_and_forth(pm, "counter", tmp_path, versions, swaps)
        assert callers.failures == []
        # Each call counted one up and was told the count: none failed, none ran twice, no update was lost.
        assert sorted(callers.answers) == [(count,) for count in range(1, len(callers.answers) + 1)]
        assert pm.hook.total() == [len(callers.answers)]
        assert all(report.ok and report.state_bytes and report.gate_seconds > 0 for report in reports)
        assert pm.plugin("counter").generation == swaps + 1
        assert pm.plugin("counter").isolation == level


@pytest.mark.parametrize(("level", "swaps"), [*((level, SWAPS) for level in LEVELS), ("container", SWAPS // 5), ("vm", 2)])
def test_no_call_and_no_update_is_lost(level: str, swaps: int, tmp_path: Path) -> None:
    """S-01: 16 callers, 20 swaps with migration both ways: every call counted once, versions never go back for a caller. Fewer where a swap takes longer."""
    require_level(level)
    _stateful(level, tmp_path, swaps)


@pytest.mark.parametrize("level", LEVELS)
def test_no_call_and_no_update_is_lost_while_threads_switch_at_once(level: str, tmp_path: Path, fast_switching: None) -> None:
    """S-01: the same while threads are switched every 10 µs."""
    _stateful(level, tmp_path)


HANDLER = """
import threading
import blackhole_core as bh

class Upper:
    def __init__(self):
        self.count, self.lock = 0, threading.Lock()

    @bh.hookimpl
    def plugin_handle(self, request):
        with self.lock:
            self.count += 1
            return [self.count, "{version}"]

    @bh.hookimpl
    def plugin_export_state(self):
        return self.count

    @bh.hookimpl
    def plugin_import_state(self, state):
        self.count = state
"""


def _handler(version: str, tmp_path: Path) -> Path:
    """Return the source of a plugin that answers no hook, only ``execute``."""
    tree = plugin_dir("upper", version, tmp_path)
    (tree / "notes_upper" / "__init__.py").write_text(HANDLER.replace("{version}", version), "utf-8")
    return tree


@pytest.mark.parametrize("level", LEVELS)
def test_no_execute_is_lost(level: str, tmp_path: Path) -> None:
    """S-01 for calls that go through no hook: the same ledger."""
    trees = {version: _handler(version, tmp_path) for version in ("1.0.0", "2.0.0")}
    versions = Versions()
    with manager() as pm:
        pm.load("upper", source=trees["1.0.0"], isolation=level)

        def call() -> int:
            done = versions.done
            count, version = pm.execute("upper")
            versions.check(done, version)
            return int(count)

        with Callers(CALLERS, call) as callers:
            for version in ("2.0.0", "1.0.0") * 5:
                versions.swap(pm, "upper", trees[version], version)
        assert callers.failures == []
        assert sorted(callers.answers) == list(range(1, len(callers.answers) + 1))


@pytest.mark.parametrize("level", LEVELS)
def test_a_stateless_plugin_answers_every_call(level: str, tmp_path: Path) -> None:
    """S-01: without state hooks the version switches in one step, and every call has one right answer."""
    versions = Versions()
    said = {"HI": "1.0.0", "HI!": "2.0.0"}
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation=level)

        def call() -> Any:
            done = versions.done
            [answer] = pm.hook.transform(text="hi")
            versions.check(done, said[answer])
            return answer

        with Callers(CALLERS, call) as callers:
            reports = _swap_back_and_forth(pm, "upper", tmp_path, versions)
        assert callers.failures == []
        assert len(callers.answers) > SWAPS
        assert {report.state_bytes for report in reports} == {None}
