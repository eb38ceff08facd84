"""F-01 … F-09: workers that die and threads that hang, and what the host does about it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from tests.integration.managed import Callers, Log, manager, released, wheel
from tests.plugins.build import plugin_dir

#: Restarts at once, and no walls: some of these plugins look at files of the test.
FAST = {"restart": {"intensity": 3, "period": 60, "delay": 0.01, "max_delay": 0.02}, "sandbox": "off"}


def _kill(pm: bh.PluginManager, name: str = "counter") -> None:
    pid = pm.plugin(name).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_worker_that_ends_unasked_is_started_again(tmp_path: Path) -> None:
    """F-01, F04: the running call is told how it ended; the plugin answers again, in a new process; its neighbour noticed nothing."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("faulty", source=wheel("faulty", "1.0.0", tmp_path), isolation="process")
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="process")
        before = pm.plugin("faulty").pid
        with Callers(2, lambda: pm.hook.transform(text="hi")) as callers:
            with pytest.raises(bh.WorkerDied, match="exited with status 3") as caught:
                pm.hook.fail(kind="os_exit_3")
            assert (caught.value.exit, caught.value.executed) == (3, "unknown")
            log.wait("worker.restarted")
        assert callers.failures == []
        assert pm.hook.fail(kind="none") == ["well"]
        faulty = pm.plugin("faulty")
        assert faulty.pid not in {None, before}
        assert (faulty.restarts, faulty.phase, faulty.last_error) == (1, bh.Phase.RUNNING, None)
        assert (pm.plugin("upper").restarts, [event.plugin for event in log.of("worker.died")]) == (0, ["faulty"])
        assert log.of("worker.died")[0].data["exit"] == 3


def test_a_restart_for_which_there_is_no_thread_is_made_when_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F19: nothing is forgotten, and the end of the host does not stumble over it."""
    log = Log()
    refused: list[str] = []
    start = threading.Thread.start

    def scarce(thread: threading.Thread) -> None:
        if thread.name.startswith("blackhole-restart") and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    with manager(log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        monkeypatch.setattr(threading.Thread, "start", scarce)
        _kill(pm)
        log.wait("worker.restarted")
        assert refused == ["blackhole-restart-counter"]
        assert pm.plugin("counter").pid is not None


def test_calls_left_behind_on_a_replaced_version_end_with_its_worker(tmp_path: Path) -> None:
    """F-02, S-02: they began on the old version, whose worker nobody starts again: what waits there is told at once that it did not run, not at its deadline."""
    for version in ("1.0.0", "2.0.0"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "sleepy.py").write_text(
            "import time\nfrom notes_api import hookimpl\nclass Plugin:\n"
            "    @hookimpl\n    def slow(self, seconds: float) -> str:\n        time.sleep(seconds)\n        return 'slept'\n"
        )
        manifest = f"name: sleepy\nversion: {version}\nentry: sleepy:Plugin\nisolation: process\n"
        (tmp_path / version / "plugin.yaml").write_text(manifest)
    with manager() as pm:
        pm.load("sleepy", source=tmp_path / "1.0.0")
        old: Any = pm.parts.supervisor.member("sleepy").instance.runner  # type: ignore[union-attr]  # there is one
        outcomes: list[Any] = []

        def call(seconds: float) -> None:
            try:
                outcomes.append(pm.hook.slow(seconds=seconds))
            except bh.PluginError as error:
                outcomes.append(error)

        threads = []
        for number, seconds in enumerate((60.0, 0.0)):
            threads.append(threading.Thread(target=call, args=(seconds,)))
            threads[-1].start()
            while len(old._traffic.outstanding) <= number:
                time.sleep(0.001)
        assert pm.swap("sleepy", source=tmp_path / "2.0.0").retiring
        os.kill(old.pid, signal.SIGKILL)
        for thread in threads:
            thread.join(30)
        running, waiting = sorted(outcomes, key=lambda outcome: type(outcome) is bh.PluginBroken)
        assert (type(running), running.executed) == (bh.WorkerDied, "unknown")
        assert "another version has taken its place" in str(waiting)
        assert pm.hook.slow(seconds=0.0) == ["slept"]
        assert (pm.plugin("sleepy").phase, pm.plugin("sleepy").restarts) == (bh.Phase.RUNNING, 0)


def test_queued_calls_go_to_the_next_worker_and_it_is_started_once(tmp_path: Path) -> None:
    """F-02, F-05: one runs and dies with the worker, five wait and succeed; all of them meet one restart."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("full", source=wheel("full", "1.0.0", tmp_path), isolation="process")
        runner: Any = pm.parts.supervisor.member("full").instance.runner  # type: ignore[union-attr]  # there is one
        outcomes: list[Any] = []

        def call(seconds: float) -> None:
            try:
                outcomes.append(pm.hook.slow(seconds=seconds))
            except bh.WorkerDied as error:
                outcomes.append(error)

        threads = [threading.Thread(target=call, args=(60.0,))]
        threads[0].start()
        while runner.drained(0):
            time.sleep(0.001)
        threads += [threading.Thread(target=call, args=(0.0,)) for _ in range(5)]
        for thread in threads[1:]:
            thread.start()
        while len(runner._traffic.outstanding) < 6:
            time.sleep(0.001)
        _kill(pm, "full")
        for thread in threads:
            thread.join(30)
        died = [outcome for outcome in outcomes if isinstance(outcome, bh.WorkerDied)]
        assert [(error.exit, error.executed) for error in died] == [(-9, "unknown")]
        assert [outcome for outcome in outcomes if outcome not in died] == [["1.0.0"]] * 5
        log.wait("worker.restarted")
        assert len(log.of("worker.restarted")) == len(log.of("worker.died")) == 1


def test_callers_of_a_dead_worker_meet_one_restart(tmp_path: Path) -> None:
    """F-05: twenty threads at once."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="process")

        def call() -> Any:
            try:
                return pm.hook.transform(text="hi")
            except bh.WorkerDied:
                return None

        with Callers(20, call) as callers:
            _kill(pm, "upper")
            log.wait("worker.restarted")
        assert callers.failures == []
        assert pm.plugin("upper").restarts == 1


def test_a_plugin_that_dies_too_often_is_broken_until_somebody_acts(tmp_path: Path) -> None:
    """F-06, F27: visible with its reason, refused at once, not restarted; ``reload`` brings it back with its newest state."""
    log = Log()
    with manager(FAST, log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        pm.hook.add(amount=5)
        pm.export_state("counter")
        for number in range(1, 4):
            _kill(pm)
            log.wait("worker.restarted", number)
        _kill(pm)
        broken = log.wait("plugin.broken")
        assert "at most 3 are allowed; the last time its worker was killed by SIGKILL" in broken.data["reason"]
        counter = pm.plugin("counter")
        assert (counter.phase, counter.pid, counter.restarts) == (bh.Phase.BROKEN, None, 3)
        assert isinstance(counter.last_error, bh.PluginBroken)
        with pytest.raises(bh.PluginBroken, match="reload it to try again"):
            pm.hook.total()
        report = pm.reload("counter")
        assert report is not None
        assert report.ok
        assert (counter.phase, counter.last_error, pm.hook.total()) == (bh.Phase.RUNNING, None, [5])
        _kill(pm)  # it has its whole intensity again
        log.wait("worker.restarted", 4)


def test_a_broken_plugin_can_be_replaced_by_a_better_version(tmp_path: Path) -> None:
    """A swap needs nothing of the dead version: the new one gets the newest snapshot, migrated."""
    log = Log()
    with manager({"restart": {"intensity": 0}}, log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        pm.hook.add(amount=5)
        pm.export_state("counter")
        _kill(pm)
        log.wait("plugin.broken")
        assert pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path)).ok
        assert (pm.hook.total(), pm.hook.version(), pm.plugin("counter").phase) == ([5], ["2.0.0"], bh.Phase.RUNNING)
        assert log.of("plugin.stop_failed") == []


def test_a_broken_plugin_can_be_unloaded(tmp_path: Path) -> None:
    """At once: there is nobody to ask."""
    log = Log()
    with manager({"restart": {"intensity": 0}}, log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        _kill(pm)
        log.wait("plugin.broken")
        pm.unload("counter")
        assert pm.plugin("counter").phase is bh.Phase.STOPPED
        assert pm.hook.total() == []


def _crashes_when_told(tmp_path: Path, how: str) -> tuple[Path, Path]:
    """Return a counter that, once the file is there, does ``how`` when it is imported."""
    tree, flag = plugin_dir("counter", "1.0.0", tmp_path), tmp_path / "flag"
    code = tree / "notes_counter" / "__init__.py"
    text = code.read_text("utf-8")
    code.write_text(text.replace("import blackhole_core as bh\n", f"import os\n\nimport blackhole_core as bh\n\nif os.path.exists({str(flag)!r}):\n    {how}\n"), "utf-8")  # fmt: skip
    return tree, flag


def test_a_plugin_that_crashes_on_every_start_is_broken(tmp_path: Path) -> None:
    """F-06: the history of attempts is kept across them."""
    log = Log()
    tree, flag = _crashes_when_told(tmp_path, "os._exit(9)")
    with manager(FAST, log=log) as pm:
        pm.load("counter", source=tree, isolation="process")
        flag.touch()
        _kill(pm)
        reason = log.wait("plugin.broken").data["reason"]
        assert "exited with status 9 before it was ready" in reason
        assert len(log.of("worker.restart_failed")) == 3
        flag.unlink()
        pm.reload("counter")
        assert pm.hook.add(amount=1) == [1]


def test_what_a_restart_cannot_change_is_not_retried(tmp_path: Path) -> None:
    """F-09: a dependency that vanished is not looked for again and again."""
    log = Log()
    tree, flag = _crashes_when_told(tmp_path, "import no_such_module")
    with manager(FAST, log=log) as pm:
        pm.load("counter", source=tree, isolation="process")
        flag.touch()
        _kill(pm)
        reason = log.wait("plugin.broken").data["reason"]
        assert "cannot be imported" in reason
        assert "no_such_module" in reason
        assert len(log.of("worker.restart_failed")) == 1


def test_one_that_keeps_dying_below_its_intensity_is_pointed_out(tmp_path: Path) -> None:
    """F-07: every tenth restart is told as such."""
    log = Log()
    with manager({"restart": {"intensity": 100, "delay": 0, "max_delay": 0}}, log=log) as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="process")
        for number in range(1, 11):
            _kill(pm, "upper")
            log.wait("worker.restarted", number)
        assert log.wait("plugin.flapping").data["restarts"] == 10


def test_the_newest_state_is_given_to_the_next_worker(tmp_path: Path) -> None:
    """The event tells how old it is."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        for amount in (5, 1):
            pm.hook.add(amount=amount)
            snapshot = pm.export_state("counter")
        pm.hook.add(amount=1)
        _kill(pm)
        restored = log.wait("state.restored")
        log.wait("worker.restarted")
        assert pm.hook.total() == [6]
        assert snapshot is not None
        assert restored.data["snapshot"] == snapshot.id
        assert 0 <= restored.data["age"] < 60


def test_state_of_another_version_is_migrated_or_passed_over(tmp_path: Path) -> None:
    """A snapshot that the running version cannot read is told, and the plugin starts without."""
    log = Log()
    with manager(log=log, state_dir=tmp_path / "state") as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        pm.hook.add(amount=5)
        pm.export_state("counter")
        pm.unload("counter")
        pm.load("counter", source=wheel("counter", "2.0.0", tmp_path), isolation="process")
        _kill(pm)
        log.wait("worker.restarted", 1)
        assert pm.hook.total() == [5]
        pm.export_state("counter")
        pm.unload("counter")
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        _kill(pm)
        log.wait("worker.restarted", 2)
        assert "state version 2" in log.wait("state.skipped").data["reason"]
        assert pm.hook.total() == [0]


def test_a_worker_that_user_code_reaped_is_still_restarted(tmp_path: Path) -> None:
    """F26: ``os.waitpid(-1)`` of the host's own code takes the exit status away, not the plugin."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="process")
        pid = pm.plugin("upper").pid
        stopped = threading.Event()
        pm.on_event(lambda event: stopped.set() if event.name == "worker.died" else None)
        _kill(pm, "upper")
        with contextlib.suppress(ChildProcessError):  # the product was quicker
            while not stopped.is_set() and os.waitpid(-1, os.WNOHANG)[0] != pid:
                time.sleep(0)  # reap whatever child of the host has ended, as careless code does
        died = log.wait("worker.died")
        assert died.data["exit"] in {None, -9}
        log.wait("worker.restarted")
        assert pm.hook.transform(text="hi") == ["HI"]


def test_unloading_a_plugin_that_just_died_leaves_nothing(tmp_path: Path) -> None:
    """F30: before anybody noticed; the leak check looks."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="process")
        _kill(pm, "upper")
        pm.unload("upper")
        assert pm.plugin("upper").phase is bh.Phase.STOPPED


def test_unloading_a_plugin_that_is_being_restarted_ends_the_restart(tmp_path: Path) -> None:
    """F30: the restart belongs to the instance; that it comes to nothing is no failure of the plugin."""
    log = Log()
    tree, flag = _crashes_when_told(tmp_path, "import time; time.sleep(60)")
    with manager({"stop_grace": 0.2}, log=log) as pm:
        pm.load("counter", source=tree, isolation="process")
        flag.touch()
        before = pm.plugin("counter").pid
        _kill(pm)
        log.wait("worker.died")
        while pm.plugin("counter").pid in {None, before}:
            time.sleep(0.001)
        pm.unload("counter")
        assert pm.plugin("counter").phase is bh.Phase.STOPPED
    assert len(log.of("worker.died")) == 1  # now that whatever was on its way has ended
    assert log.of("worker.restart_failed") == log.of("worker.restarted") == []


def test_dependants_are_not_disturbed(tmp_path: Path) -> None:
    """F33: what needs the dead plugin stays as it is."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        pm.load("needs_counter", source=wheel("needs_counter", "1.0.0", tmp_path), isolation="process")
        pid = pm.plugin("needs_counter").pid
        _kill(pm)
        log.wait("worker.restarted")
        needs = pm.plugin("needs_counter")
        assert (needs.phase, needs.pid, needs.restarts) == (bh.Phase.RUNNING, pid, 0)


@pytest.mark.leaks("the quarantined thread ends only when the test lets it go")
def test_a_hung_thread_is_put_aside_and_later_calls_are_served(tmp_path: Path) -> None:
    """F-10 at level thread: reported with the stack that shows where it hangs."""
    log = Log()
    with released(), manager({"hang_grace": 0.05, "stop_grace": 0.3, "drain_timeout": 0.3}, log=log) as pm:
        pm.load("faulty", source=wheel("faulty", "1.0.0", tmp_path), isolation="thread")
        with pytest.raises(bh.CallTimeout, match="still running"), bh.deadline(0.5):
            pm.hook.fail(kind="hang")
        quarantined = log.wait("plugin.quarantined")
        assert "hang" in quarantined.data["stack"]
        assert pm.hook.fail(kind="none") == ["well"]
        assert pm.plugin("faulty").phase is bh.Phase.RUNNING


def test_a_hung_worker_is_killed_and_started_again(tmp_path: Path) -> None:
    """F06, F07: ``hang_grace`` after its caller gave up."""
    log = Log()
    with manager({"hang_grace": 0.1}, log=log) as pm:
        pm.load("faulty", source=wheel("faulty", "1.0.0", tmp_path), isolation="process")
        with pytest.raises(bh.CallTimeout), bh.deadline(0.5):
            pm.hook.fail(kind="spin")
        assert "after its caller gave up" in log.wait("worker.died").data["reason"]
        log.wait("worker.restarted")
        assert pm.hook.fail(kind="none") == ["well"]


def test_a_listener_that_raises_disturbs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F34: it is logged, the next listener hears the event, the plugin is restarted."""
    log = Log()
    with manager() as pm:

        def broken(event: bh.Event) -> None:
            raise RuntimeError("a listener's own fault")

        pm.on_event(broken)
        pm.on_event(log)
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="process")
        _kill(pm, "upper")
        log.wait("worker.restarted")
        assert pm.hook.transform(text="hi") == ["HI"]
    assert "a listener's own fault" in caplog.text


def test_a_listener_may_ask_the_manager_from_another_thread(tmp_path: Path) -> None:
    """F35: no lock of ours is held while a listener runs, however slow it is."""
    answers: list[Any] = []
    stuck: list[bh.Event] = []
    log = Log()
    with manager() as pm:

        def asks(event: bh.Event) -> None:
            thread = threading.Thread(target=lambda: answers.append([plugin.phase for plugin in pm.plugins()]))
            thread.start()
            thread.join(5)
            if thread.is_alive():
                stuck.append(event)

        pm.on_event(asks)
        pm.on_event(log)
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="process")
        _kill(pm, "upper")
        log.wait("worker.restarted")
    assert stuck == []
    assert len(answers) >= len(log.events)


def test_a_duty_that_never_ends_is_told_and_left() -> None:
    """F30: what a listener, or a disk, keeps beyond every deadline does not keep the host from ending; it is told where it stands."""
    log, let_go = Log(), threading.Event()

    def stuck_in_a_listener() -> None:
        let_go.wait(30)

    with manager(log=log) as pm:
        pm.parts.supervisor.on_duty("stuck", stuck_in_a_listener)  # no plugin, so no deadline of one
        pm.close()
        [left] = log.of("host.duty_left")
        assert left.data["duty"] == "blackhole-stuck"
        assert "stuck_in_a_listener" in left.data["stack"]
        let_go.set()
