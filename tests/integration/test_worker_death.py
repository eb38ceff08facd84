"""Workers die in every way there is: callers learn what is known, queued calls go on, nothing runs twice, nothing is left."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.errors import CallTimeout, CannotCross, LimitExceeded, LoadFailed, PluginBroken, WorkerDied
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.lane import UNAVAILABLE, HostLane
from blackhole_core.messages import Calls
from tests.stage import Running, Stage, eventually, in_threads


@pytest.fixture(params=["zygote", "exec"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(zygote=request.param == "zygote")
    yield stage
    stage.close()


class Deaths:
    """Listens to the deaths of one plugin's workers; restarts on demand, or by itself as a supervisor without back-off would."""

    def __init__(self, running: Running, *, restart: bool = False) -> None:
        self.ends: list[Ended] = []
        self._running = running
        self._threads: list[threading.Thread] = []
        self._restart = restart
        running.remote.watch(self._died)

    def _died(self, ended: Ended) -> None:
        if self._restart:
            thread = threading.Thread(target=self.bring_back)
            self._threads.append(thread)
            thread.start()
        self.ends.append(ended)  # last: whoever waits for it may join the thread

    def bring_back(self) -> None:
        while True:
            try:
                self._running.remote.restart(lambda via: None)
            except LoadFailed:
                continue  # killed again while it came up
            return

    def wait(self, count: int = 1) -> Ended:
        assert eventually(lambda: len(self.ends) >= count)
        return self.ends[count - 1]

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)


_HOOKS = """
import os, signal, sys, time
class Plugin:
    @hookimpl
    def slow(self, seconds: float) -> str:
        print("about to be slow", flush=True)
        time.sleep(seconds)
        return "slept"
    @hookimpl
    def transform(self, text: str) -> str:
        return text
    @hookimpl
    def blob(self, size: int) -> bytes:
        return b"x" * size
    @hookimpl
    def total(self) -> int:
        return os.getpid()
"""


def test_queued_calls_survive_the_worker(stage: Stage, tmp_path: Path) -> None:
    """F-02: SIGKILL with 1 running and 5 queued calls: the running one is told all that is known, the 5 succeed on the next worker."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _HOOKS))
    deaths = Deaths(plugin)

    def act(number: int) -> Any:
        if number == 0:
            return plugin("slow", 60)
        if number <= 5:
            assert eventually(lambda: len(plugin.remote._traffic.outstanding) >= 1)
            return plugin("transform", str(number))
        assert eventually(lambda: len(plugin.remote._traffic.outstanding) == 6)
        assert eventually(lambda: "about to be slow" in plugin.remote._traffic.worker.connection._records.tail.lines())  # type: ignore[union-attr]  # there is one
        os.kill(plugin.pid, signal.SIGKILL)
        deaths.wait()
        return deaths.bring_back()

    running, *queued, _ = in_threads(7, act)
    assert queued == ["1", "2", "3", "4", "5"]
    assert isinstance(running, WorkerDied)
    assert (running.exit, running.executed) == (-9, "unknown")
    assert "about to be slow" in running.tail
    assert "was killed by SIGKILL" in str(running)
    assert f"plugin adhoc@1.0.0, hook slow, level {stage.level}" in running.__notes__


@pytest.mark.parametrize(
    ("kind", "exit"),
    [("os_exit_3", 3), ("os_exit_0", 0), ("sigkill_self", -9), ("sigterm_self", -15), ("segfault", -11), ("abort", -6)],
)
def test_how_a_worker_ended_is_told(stage: Stage, kind: str, exit: int) -> None:
    """F-01, F-03, F02, F04: exit status or signal reach the caller, whose deadline is far, and a crash brings its traceback."""
    faulty = stage.start("faulty")
    deaths = Deaths(faulty)
    with pytest.raises(WorkerDied) as caught:
        faulty("fail", kind)
    assert (caught.value.exit, caught.value.executed) == (exit, "unknown")
    assert deaths.wait().exit == exit
    assert faulty.remote.pid is None
    if kind == "segfault":
        assert "Fatal Python error: Segmentation fault" in caught.value.tail
        assert any("in segfault" in line for line in caught.value.tail)
    deaths.bring_back()
    assert faulty("fail", "none") == "well"


def test_an_idle_worker_s_death_is_seen_by_itself(stage: Stage) -> None:
    """F-01: the death of an idle worker is told though nobody calls it, and the other plugins serve on."""
    counter, full = stage.start("counter"), stage.start("full")
    deaths = Deaths(counter)
    os.kill(counter.pid, signal.SIGKILL)
    deaths.wait()
    assert full("version") == "1.0.0"


def test_a_death_nobody_watched_yet_is_told_later(stage: Stage) -> None:
    """A worker that dies between start and watch is not overlooked."""
    counter = stage.start("counter")
    os.kill(counter.pid, signal.SIGKILL)
    assert eventually(lambda: counter.remote.pid is None)
    assert Deaths(counter).wait().exit == -9


def test_calls_wait_for_the_next_worker_with_their_own_deadline(stage: Stage) -> None:
    """While there is no worker, calls wait; one that gives up was not executed; giving up on the plugin refuses the others."""
    counter = stage.start("counter")
    deaths = Deaths(counter)
    os.kill(counter.pid, signal.SIGKILL)
    deaths.wait()
    with bh.deadline(0.1), pytest.raises(CallTimeout, match="executed: no, its worker is being restarted"):
        counter("add", 1)
    outcomes: list[Any] = []

    def wait() -> None:
        try:
            outcomes.append(counter("add", 1))
        except PluginBroken as error:
            outcomes.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert eventually(lambda: counter.remote._traffic._waiting)
    counter.remote.give_up("three deaths in a minute")
    waiting.join(10)
    assert isinstance(outcomes[0], PluginBroken)
    assert "three deaths in a minute" in str(outcomes[0])
    with pytest.raises(PluginBroken):
        counter("total")


def test_twenty_threads_at_a_dead_worker_mean_one_restart(tmp_path: Path) -> None:
    """F-05: whoever finds the worker dead waits for the one restart that is under way."""
    from tests.plugins.build import plugin_dir

    with bh.PluginManager("notes", config={"plugins": {"counter": {"isolation": "process"}}}) as pm:
        import notes_api

        pm.add_hookspecs(notes_api.NotesSpecs)
        events: list[str] = []
        pm.on_event(lambda event: events.append(event.name))
        handle = pm.load("counter", source=plugin_dir("counter", "1.0.0", tmp_path))
        before = handle.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        answers = in_threads(20, lambda _: pm.hook.add(amount=1))
        assert eventually(lambda: handle.pid not in (None, before))
        assert events.count("worker.restarted") == 1
        # A call may have been written to the dead worker before its death was seen: that one is told that it is not known.
        counted = sorted(answer[0] for answer in answers if isinstance(answer, list))
        assert counted == list(range(1, len(counted) + 1))
        assert all(isinstance(answer, list | WorkerDied) for answer in answers)
        assert len(counted) >= 19


@pytest.mark.parametrize("moment", ["argument", "result"])
def test_a_death_in_the_middle_of_a_frame(stage: Stage, moment: str, tmp_path: Path) -> None:
    """F03: SIGKILL while a large frame is on its way, in either direction, is a death like any other; the next worker is not confused."""
    # Text: a block of memory of that size would not be in the frame.
    source = _HOOKS + "    @hookimpl\n    def raw(self, value):\n        return 'x' * value if isinstance(value, int) else len(value)\n"
    plugin = stage.start("adhoc", **stage.write(tmp_path, source))
    for delay in (0.0, 0.004, 0.012):
        deaths = Deaths(plugin)
        pid = plugin.pid

        def kill(pid: int = pid, delay: float = delay) -> None:
            if moment == "argument":
                assert eventually(lambda: plugin.remote._traffic.worker and plugin.remote._traffic.worker.connection._outbox)
            time.sleep(delay)  # where in the frame it strikes is chance, and meant to be
            os.kill(pid, signal.SIGKILL)

        if moment == "argument":
            os.kill(pid, signal.SIGSTOP)  # so that the frame is certainly not read to its end
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            answer = plugin("raw", "x" * 30_000_000 if moment == "argument" else 60_000_000)
            assert moment == "result"
            assert len(answer) == 60_000_000
        except WorkerDied as error:
            assert error.exit == -9  # noqa: PT017 - it need not be raised
        killer.join()
        deaths.wait()
        deaths.bring_back()
        assert plugin("transform", "next") == "next"


def test_large_values_and_their_limit(stage: Stage) -> None:
    """60 MB go there and back; a byte more than max_message is refused by name, in both directions, and the worker lives."""
    full = stage.start("full")
    data = bytes(60_000_000)
    assert full("raw", data) == data
    with pytest.raises(LimitExceeded, match="max_message"):
        full("raw", bytes(68_000_000))
    small = stage.start("counter", max_message=1000)
    assert small("add", 1) == 1
    faulty = stage.start("faulty", max_message=10_000_000)
    with pytest.raises(LimitExceeded, match="max_message"):
        faulty("fail", "big")
    assert faulty("fail", "none") == "well"


@pytest.mark.parametrize("kind", ["unserialisable", "lambda", "generator", "cyclic", "deep", "surrogate", "huge_int", "wrong_type", "nan"])
def test_results_that_cannot_cross(stage: Stage, kind: str) -> None:
    """F-22: the caller gets CannotCross that names hook and type, and the worker lives."""
    faulty = stage.start("faulty")
    pid = faulty.pid
    with pytest.raises(CannotCross, match="the result of hook 'fail'") as caught:
        faulty("fail", kind)
    assert caught.value.hook == "fail"
    assert faulty("fail", "none") == "well"
    assert faulty.pid == pid


@pytest.mark.parametrize(
    ("kind", "type_name"),
    [("private_error", "notes_faulty.raises.PrivateError"), ("unprintable", "notes_faulty.raises.unprintable.<locals>.UnprintableError")],
)
def test_exceptions_that_cannot_cross(stage: Stage, kind: str, type_name: str) -> None:
    """F-22: an exception of a type only the plugin has arrives by name, text and traceback; the worker lives."""
    faulty = stage.start("faulty")
    with pytest.raises(bh.RemoteError) as caught:
        faulty("fail", kind)
    assert caught.value.type_name == type_name
    assert "Traceback (most recent call last)" in caught.value.traceback
    assert any("traceback in the worker of plugin faulty@1.0.0" in note for note in caught.value.__notes__)
    assert faulty("fail", "none") == "well"


def test_texts_of_exceptions_are_cut_and_escaped(stage: Stage) -> None:
    """A12: ten megabytes of message are cut, and nothing in a note can repaint a terminal."""
    faulty = stage.start("faulty")
    with pytest.raises(Exception, match="xxx") as huge:
        faulty("fail", "huge_message")
    assert sum(map(len, huge.value.__notes__)) < 300_000
    with pytest.raises(ValueError, match="forged") as caught:
        faulty("fail", "ansi")
    assert all(character.isprintable() or character in "\n\t" for note in caught.value.__notes__ for character in note)


def test_a_worker_without_descriptors(stage: Stage) -> None:
    """A plugin that closes every descriptor cuts itself off: its worker is ended within a moment, and its caller is told, if the answer did not come."""
    faulty = stage.start("faulty")
    with contextlib.suppress(WorkerDied):  # through shared memory an answer still gets out
        faulty("fail", "close_fds")
    assert eventually(lambda: faulty.runner.pid is None)


def test_what_a_worker_started_ends_with_it(stage: Stage) -> None:
    """A grandchild is killed with its worker, whether the worker was stopped or died."""
    for end in ("stop", "kill"):
        faulty = stage.start("faulty")
        grandchild = int(faulty("fail", "fork_child"))
        os.kill(grandchild, 0)
        faulty.runner.stop() if end == "stop" else os.kill(faulty.pid, signal.SIGKILL)
        assert eventually(lambda pid=grandchild: not _runs(pid))  # type: ignore[misc]  # a default binds the loop's value
        stage.hooks.unregister(name="faulty")


def _runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_host_code_that_reaps_every_child(stage: Stage) -> None:
    """F26: where the host's own code takes the exit status first, it is unknown, and nothing hangs."""
    counter = stage.start("counter")
    deaths = Deaths(counter)
    pid = counter.pid
    stop, ready = threading.Event(), threading.Event()

    def reap() -> None:
        while not stop.is_set():
            os.waitpid(-1, os.WNOHANG)
            ready.set()

    thread = threading.Thread(target=reap)
    thread.start()
    assert ready.wait(10)
    os.kill(pid, signal.SIGKILL)
    assert deaths.wait().exit in (None, -9)  # whoever of the two was first
    stop.set()
    thread.join(10)
    deaths.bring_back()
    assert counter("add", 1) == 1


def test_restart_refuses_code_that_offers_something_else(stage: Stage, tmp_path: Path) -> None:
    """More than its text decides what it offers, and that has changed: a restart would bring up another plugin, so it is refused and says what to do."""
    flag = tmp_path / "flag"
    more = f"    if os.path.exists({str(flag)!r}):\n        @hookimpl\n        def version(self) -> str:\n            return 'new'\n"
    options = stage.write(tmp_path, f"import os\n{_HOOKS}{more}")
    plugin = stage.start("adhoc", **options)
    deaths = Deaths(plugin)
    flag.touch()
    os.kill(plugin.pid, signal.SIGKILL)
    deaths.wait()
    with pytest.raises(LoadFailed, match="offers other hooks than the one that died; reload it instead"):
        plugin.remote.restart(lambda via: None)


def test_stop_while_a_worker_comes_up_leaves_nothing(stage: Stage) -> None:
    """Stopping during a restart ends the new worker too, whenever in its life it strikes."""
    for delay in (0.0, 0.01, 0.03, 0.06, 0.1):
        runner = stage.make("counter", "process")
        counter = Running(runner, runner.start())
        deaths = Deaths(counter)
        os.kill(counter.pid, signal.SIGKILL)
        deaths.wait()
        errors: list[BaseException] = []

        def restart(counter: Running = counter, errors: list[BaseException] = errors) -> None:
            try:
                counter.remote.restart(lambda via: None)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=restart)
        thread.start()
        time.sleep(delay)  # where it strikes is chance, and meant to be
        runner.stop()
        assert counter.remote.pid is None
        thread.join(10)
        assert not thread.is_alive()


# --- the attack ------------------------------------------------------------------------------------------------------

_RECORDING = """
import os
class Plugin:
    def __init__(self):
        self.file = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    @hookimpl
    def transform(self, text: str) -> str:
        os.write(self.file, text.encode() + b"\\n")
        return text
"""


@pytest.mark.parametrize("interval", ["usual", "fast"])
def test_no_call_is_lost_or_doubled_while_workers_are_killed(  # noqa: C901 - one ledger, filled from two sides
    stage: Stage, interval: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """F-02: 8 callers, SIGKILL at random moments: each call ends once, a result means executed once, a death at most once."""
    if interval == "fast":
        request.getfixturevalue("fast_switching")
    record = tmp_path / "record"
    options = stage.write(tmp_path / "plugin", _RECORDING)
    plugin = stage.start("adhoc", environment={"RECORD": str(record)}, threads=2 if interval == "fast" else 1, **options)
    deaths = Deaths(plugin, restart=True)
    over = threading.Event()
    results: list[list[str]] = [[] for _ in range(8)]
    failed: list[list[str]] = [[] for _ in range(8)]

    def call(caller: int) -> None:
        number = 0
        while not over.is_set():
            name = f"{caller}:{number}"
            number += 1
            try:
                assert plugin("transform", name) == name
            except WorkerDied as error:
                assert error.executed == "unknown"  # noqa: PT017 - it need not be raised
                failed[caller].append(name)
            else:
                results[caller].append(name)

    def kill(_: int) -> None:
        chance = random.Random(interval)
        while not over.is_set():
            if chance.random() < 0.8:  # else strike while it comes up
                eventually(lambda: plugin.remote._state.value == "ready", 1)
            time.sleep(chance.uniform(0.02, 0.1))
            if plugin.remote.pid is not None:
                plugin.remote._traffic.worker.connection.child.signal(signal.SIGKILL)  # type: ignore[union-attr]  # never a stranger's pid

    def end(_: int) -> None:
        met = eventually(lambda: len(deaths.ends) > 10 and sum(map(len, results)) > 100, 60)
        over.set()
        assert met, f"{len(deaths.ends)} deaths, {sum(map(len, results))} answers"

    outcomes = in_threads(10, lambda number: {8: kill, 9: end}.get(number, call)(number))
    assert outcomes == [None] * 10
    for attempt in itertools.count():  # the last death may not have been noticed yet
        name = f"last:{attempt}"
        try:
            plugin("transform", name)
        except WorkerDied:
            failed[0].append(name)
        else:
            results[0].append(name)
            break
    deaths.join()
    executed = Counter(record.read_text().split())
    answered = {name for names in results for name in names}
    unknown = {name for names in failed for name in names}
    assert [name for name, count in executed.items() if count > 1] == []
    assert answered <= executed.keys()
    assert executed.keys() - answered <= unknown
    threads = 2 if interval == "fast" else 1
    assert len(unknown) <= len(deaths.ends) * threads
    assert plugin.runner.drained(0)


@pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))
def test_an_answer_in_shared_memory_counts_when_the_worker_dies(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F-02: the call after one whose answer nobody has looked at yet had begun: it is not run again."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _HOOKS))
    deaths = Deaths(plugin, restart=True)
    answered, look_now = threading.Event(), threading.Event()

    def look(lane: HostLane) -> bool:
        assert eventually(lane.answered)
        answered.set()
        return look_now.wait(20)

    monkeypatch.setattr(HostLane, "look", look)

    def act(number: int) -> Any:
        if number == 0:
            return plugin("transform", "x")
        assert answered.wait(20)
        if number == 1:
            return plugin("slow", 60)
        assert eventually(lambda: "about to be slow" in plugin.remote._traffic.worker.connection._records.tail.lines())  # type: ignore[union-attr]  # there is one
        os.kill(plugin.pid, signal.SIGKILL)
        deaths.wait()
        return look_now.set()

    first, slow, _ = in_threads(3, act)
    deaths.join()
    assert first == "x"
    assert isinstance(slow, WorkerDied)
    assert slow.executed == "unknown"
    assert plugin.remote.drained(5)


def test_many_calls_at_once_are_not_lost_or_doubled_while_workers_are_killed(stage: Stage, tmp_path: Path) -> None:
    """F-02: what shares a request shares its fate: each of many calls has a result and ran once, or failed and ran at most once."""
    record = tmp_path / "record"
    plugin = stage.start("adhoc", environment={"RECORD": str(record)}, **stage.write(tmp_path / "plugin", _RECORDING))
    deaths = Deaths(plugin, restart=True)
    over = threading.Event()
    replied: dict[str, BaseException | None] = {}

    def call(caller: int) -> None:
        for number in itertools.count():
            if over.is_set():
                return
            names = [f"{caller}:{number}:{item}" for item in range(100)]
            replies = plugin.runner.call_many(Calls("transform", [names], len(names), _index(plugin, "transform")))
            assert len(replies.results) == len(names)
            for place, (name, result) in enumerate(zip(names, replies.results, strict=True)):
                assert result == (None if place in replies.failures else name)
                replied[name] = replies.failures.get(place)

    def kill(_: int) -> None:
        chance = random.Random(3)
        while not over.is_set():
            time.sleep(chance.uniform(0.02, 0.1))
            if plugin.remote._state.value == "ready" and plugin.remote.pid is not None:
                plugin.remote._traffic.worker.connection.child.signal(signal.SIGKILL)  # type: ignore[union-attr]  # never a stranger's pid

    def end(_: int) -> None:
        met = eventually(lambda: len(deaths.ends) > 10 and None in list(replied.values()), 60)
        over.set()
        assert met, f"{len(deaths.ends)} deaths, {len(replied)} calls have ended"

    assert in_threads(5, lambda number: {3: kill, 4: end}.get(number, call)(number)) == [None] * 5
    while True:  # the last death may not have been noticed yet
        with contextlib.suppress(WorkerDied):
            plugin("transform", "last")
            break
    deaths.join()
    ran = collections.Counter(record.read_text("utf-8").split())
    failed = {name: error for name, error in replied.items() if error is not None}
    assert failed
    assert all(isinstance(error, WorkerDied) and error.executed == "unknown" for error in failed.values())
    assert all(ran[name] == 1 for name in replied if name not in failed)
    assert all(ran[name] <= 1 for name in failed)


def _index(plugin: Running, hook: str) -> int:
    return next(index for index, implementation in enumerate(plugin.surface.implementations) if implementation.hook == hook)
