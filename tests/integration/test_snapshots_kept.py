"""State that the host saves by itself: by the clock, after changes, and what a worker that dies gets back."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.lifecycle import snapshots
from tests.integration.managed import LEVELS, Callers, Log, manager

_PLUGIN = """
import threading
import blackhole_core as bh
hookimpl = bh.HookimplMarker("notes")
class Plugin:
    def __init__(self):
        self.count, self.exports, self.may_export = 0, 0, threading.Event()
        self.may_export.set()
    @bh.hookimpl
    def plugin_start(self, context):
        self.context = context
    @hookimpl
    def add(self, amount: int) -> int:
        self.count += amount
        if amount:
            for _ in range(1000):
                self.context.state_changed()
        return self.count
    @hookimpl
    def total(self) -> int:
        return self.exports
    @bh.hookimpl
    def plugin_export_state(self):
        self.exports += 1
        if self.count == 666:
            return object()
        return {"count": self.count}
    @bh.hookimpl
    def plugin_import_state(self, state):
        self.count = state["count"]
"""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "CHANGE_PAUSE", 0.1)


def _plugin(directory: Path, snapshot: str, *, threads: int = 1) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "keeper.py").write_text(_PLUGIN, "utf-8")
    (directory / "plugin.yaml").write_text(
        f"name: keeper\nversion: 1.0.0\nentry: keeper:Plugin\nthreads: {threads}\nstate: {{snapshot: {snapshot}}}\n", "utf-8"
    )
    return directory


@pytest.mark.parametrize("level", LEVELS)
def test_a_change_is_saved_soon_and_once(level: str, tmp_path: Path) -> None:
    """A thousand words on one change lead to one snapshot, and a second change to a second one."""
    log = Log()
    with manager(log=log) as pm:
        keeper = pm.load("keeper", source=_plugin(tmp_path / "a", "{on_change: true}"), isolation=level)
        assert keeper.snapshot_age is None
        pm.hook.add(amount=5)
        kept = log.wait("state.kept")
        assert pm.state.get("keeper", kept.data["snapshot"]).data == {"count": 5}
        assert pm.hook.total() == [1]
        assert keeper.snapshot_age is not None
        assert 0 <= keeper.as_dict()["snapshot_age"] < 60
        pm.hook.add(amount=1)
        kept = log.wait("state.kept", 2)
        assert pm.state.get("keeper", kept.data["snapshot"]).data == {"count": 6}
        assert pm.hook.total() == [2]


def test_by_the_clock_and_not_more_than_it_keeps(tmp_path: Path) -> None:
    """The snapshot of a swap, which a rollback needs, is not pushed out by those that come every second."""
    log = Log()
    with manager({"keep_snapshots": 3}, log=log) as pm:
        pm.load("keeper", source=_plugin(tmp_path / "a", "{every: 1}"), isolation="thread")
        mine = pm.export_state("keeper")
        log.wait("state.kept", 3)
        assert mine is not None
        reasons = [info.reason for info in pm.state.versions("keeper")]
        assert reasons == ["periodic", "periodic", "export"]


def test_a_worker_that_died_gets_the_newest_state_and_its_age_is_told(tmp_path: Path) -> None:
    """What was not saved is lost, and the event says how much that can be."""
    log = Log()
    with manager(log=log) as pm:
        keeper = pm.load("keeper", source=_plugin(tmp_path / "a", "{on_change: true}"), isolation="process")
        pm.hook.add(amount=5)
        log.wait("state.kept")
        assert keeper.pid is not None
        os.kill(keeper.pid, signal.SIGKILL)
        restarted = log.wait("worker.restarted")
        assert 0 <= restarted.data["state_age"] < 60
        assert pm.hook.add(amount=0) == [5]
        pm.hook.add(amount=1)  # the next worker is kept as well
        kept = log.wait("state.kept", 2)
        assert pm.state.get("keeper", kept.data["snapshot"]).data == {"count": 6}


def test_without_a_snapshot_the_next_worker_has_no_state_and_no_age(tmp_path: Path) -> None:
    """``state_age`` is null, not 0."""
    log = Log()
    with manager(log=log) as pm:
        keeper = pm.load("keeper", source=_plugin(tmp_path / "a", "{every: 3600}"), isolation="process")
        pm.hook.add(amount=5)
        assert keeper.pid is not None
        os.kill(keeper.pid, signal.SIGKILL)
        assert log.wait("worker.restarted").data["state_age"] is None
        assert pm.hook.add(amount=0) == [0]


def test_no_operation_fails_because_a_snapshot_is_taken(tmp_path: Path) -> None:
    """A swap in the middle of one waits, and its own snapshot stays the newest."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("keeper", source=_plugin(tmp_path / "a", "{on_change: true}"), isolation="none")
        supervisor = pm.parts.supervisor
        member = supervisor.member("keeper")
        inside, go = threading.Event(), threading.Event()
        outcome: list[Any] = []

        def hold() -> None:
            with supervisor.claim(member, "a snapshot", in_background=True):
                inside.set()
                go.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        assert inside.wait(30)
        swapper = threading.Thread(target=lambda: outcome.append(pm.swap("keeper", source=_plugin(tmp_path / "b", "{every: 3600}"))))
        swapper.start()
        with pytest.raises(bh.SwapInProgress, match="a snapshot is in progress"), supervisor.claim(member, "another", in_background=True):
            pass
        go.set()
        swapper.join(30)
        holder.join(30)
        assert outcome[0].ok


def test_a_replaced_version_is_kept_no_longer(tmp_path: Path) -> None:
    """Its timer ends with it; the new one is kept as its own manifest says."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("keeper", source=_plugin(tmp_path / "a", "{every: 3600}"), isolation="thread")
        pm.swap("keeper", source=_plugin(tmp_path / "b", "{on_change: true}"))
        pm.hook.add(amount=7)
        kept = log.wait("state.kept")
        assert pm.state.get("keeper", kept.data["snapshot"]).data == {"count": 7}
        pm.unload("keeper")
        assert "SnapshotKeeper" not in str([timer.action for _, _, timer in pm.parts.timers._heap])


def test_state_that_cannot_be_kept_is_told_and_tried_again(tmp_path: Path) -> None:
    """The plugin serves on."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("keeper", source=_plugin(tmp_path / "a", "{on_change: true}"), isolation="none")
        pm.hook.add(amount=666)
        assert "state" in log.wait("state.not_kept").data["error"]
        pm.hook.add(amount=1)
        kept = log.wait("state.kept")
        assert pm.state.get("keeper", kept.data["snapshot"]).data == {"count": 667}


def test_calls_flow_while_snapshots_are_taken(tmp_path: Path) -> None:
    """At level none, where they run beside the export: none fails, and each snapshot is one that was true."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("keeper", source=_plugin(tmp_path / "a", "{on_change: true}"), isolation="none")
        with Callers(4, lambda: pm.hook.add(amount=1)) as callers:
            log.wait("state.kept", 2)
        assert callers.failures == []
        assert log.of("state.not_kept") == []
