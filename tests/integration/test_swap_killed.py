"""S-11, S-12, F28: a worker, or the host itself, is killed in the middle of a swap."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import blackhole_core as bh
from blackhole_core.executor.limits.processes import family
from blackhole_core.executor.limits.processes import threads as threads_of
from tests.integration.managed import Log, manager, wheel
from tests.integration.swap_outcomes import NEW, OLD, OUTCOMES, points
from tests.plugins.build import NOTES_API

ROOT = Path(__file__).parents[2]


def _kill_at(pm: bh.PluginManager, phase: str, pid: int | None) -> None:
    """Kill a worker at the first sight of ``phase``; the listener runs on the swapping thread, so the swap is at that very step."""
    pending = [pid]

    def kill(event: bh.Event) -> None:
        if event.name == "swap.phase" and event.data["phase"] == phase and pending:
            victim = pending.pop()
            assert victim is not None
            os.kill(victim, signal.SIGKILL)

    pm.on_event(kill)


@pytest.mark.parametrize("phase", points("old worker killed"))
def test_the_old_worker_killed_at_a_phase(phase: str, tmp_path: Path) -> None:
    """S-12: one version serves afterwards, whole: state that was handed over is kept, else the newest snapshot is."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        pm.hook.add(amount=5)
        pm.export_state("counter")
        pm.hook.add(amount=1)
        _kill_at(pm, phase, pm.plugin("counter").pid)
        failure = None
        try:
            serving = pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path)).to_version
        except bh.SwapFailed as error:
            failure, serving = error, "1.0.0"
            log.wait("worker.restarted")
        if failure is not None:
            assert failure.phase == "export"
            assert isinstance(failure.cause, bh.WorkerDied)
        handed_over = OUTCOMES[phase, "old worker killed"] == NEW
        if handed_over:
            assert serving == "2.0.0"
        assert pm.hook.version() == [serving]
        # 6 when the state was handed over before the death, 5 from the snapshot otherwise.
        assert pm.hook.total() == [6 if handed_over else 5]
        assert pm.hook.add(amount=1) == [7 if handed_over else 6]
        assert pm.plugin("counter").phase is bh.Phase.RUNNING
        assert log.of("plugin.broken") == []


def _new_pid(before: int | None) -> int | None:
    """Return the pid of the new worker: the highest below us with a thread that reads (unlike one forked ahead, and a keeper) and not the old one."""
    below = set(family(os.getpid())) - {os.getpid(), before}
    others = [pid for pid in below if (threads_of(pid) or 0) > 1]
    return max(others, default=None)


@pytest.mark.parametrize("phase", points("new worker killed"))
def test_the_new_worker_killed_at_a_phase(phase: str, tmp_path: Path) -> None:
    """S-12, F28: before the switch the old version serves on, at once; after it the new one is restarted with the state it was given."""
    log = Log()
    with manager({"state_timeout": 300}, log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        pm.hook.add(amount=5)
        old = pm.plugin("counter").pid
        pending = [phase]

        def kill(event: bh.Event) -> None:
            if event.name == "swap.phase" and pending == [event.data["phase"]]:
                pending.clear()
                victim = _new_pid(old)
                assert victim is not None
                os.kill(victim, signal.SIGKILL)
                while sum(thread.name.startswith("blackhole-io") for thread in threading.enumerate()) > 1:
                    time.sleep(0.001)  # until its death was noticed: what is called from now on finds nobody

        pm.on_event(kill)
        if OUTCOMES[phase, "new worker killed"] == OLD:
            with pytest.raises(bh.SwapFailed, match="SIGKILL") as caught:
                pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
            assert caught.value.phase == {"export": "import"}.get(phase, phase)
            assert pm.plugin("counter").pid == old
            serving = "1.0.0"
        else:
            assert pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path)).ok
            log.wait("worker.restarted")
            serving = "2.0.0"
        assert (pm.hook.version(), pm.hook.total()) == ([serving], [5])
        assert pm.hook.add(amount=1) == [6]


def test_a_new_worker_that_dies_later_has_the_migrated_state(tmp_path: Path) -> None:
    """S-07: after an upgrade of the state version a restart finds a snapshot that the new version understands; so does one after a rollback."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        pm.hook.add(amount=5)
        for count, step in enumerate(
            (lambda: pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path)), lambda: pm.rollback("counter"))
        ):
            step()
            _end(pm)
            log.wait("worker.restarted", count + 1)
            assert pm.hook.total() == [5]
            restored = log.wait("state.restored", count + 1)
            assert 0 <= restored.data["age"] < 60
        assert log.of("state.skipped") == []


def _end(pm: bh.PluginManager) -> None:
    pid = pm.plugin("counter").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


HOST = """
import os, signal, sys
from pathlib import Path
import blackhole_core as bh
from notes_api import NotesSpecs

phase, level, old, new, state = sys.argv[1:]
pm = bh.PluginManager("notes", state_dir=state)
pm.add_hookspecs(NotesSpecs)
pm.load("counter", source=old, isolation=level)
pm.hook.add(amount=5)
pm.export_state("counter")
pm.on_event(lambda e: os.kill(os.getpid(), signal.SIGKILL) if e.data.get("phase") == phase and e.name == "swap.phase" else None)
pm.swap("counter", source=new)
"""


@pytest.mark.parametrize("level", ["none", "process"])
@pytest.mark.parametrize("phase", points("host killed"))
def test_the_host_killed_at_a_phase(phase: str, level: str, tmp_path: Path) -> None:
    """S-11: the next host loads either version from what is on disk, with whole state; no worker is left."""
    state = tmp_path / "state"
    old, new = wheel("counter", "1.0.0", tmp_path), wheel("counter", "2.0.0", tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(NOTES_API)])}
    arguments = [sys.executable, "-c", HOST, phase, level, str(old), str(new), str(state)]
    host = subprocess.run(arguments, env=environment, timeout=60, capture_output=True, text=True, check=False)
    assert host.returncode == -signal.SIGKILL, host.stderr
    log = Log()
    with manager(state_dir=state, log=log) as pm:
        assert all(info.damaged is None for info in pm.state.versions("counter"))
        for version in (old, new):
            pm.load("counter", source=version, isolation="none")
            if pm.hook.version() == ["2.0.0"] or all(info.state_version == 1 for info in pm.state.versions("counter")):
                assert pm.restore_all().ok
                assert pm.hook.total() == [5]
            pm.unload("counter")
        assert log.of("state.damaged") == []
