"""Workers that hang, and workers that are only slow: which are ended, how, and what their callers learn of it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.errors import CallTimeout, PluginBroken, WorkerDied
from blackhole_core.executor import traffic
from blackhole_core.executor.wire import codec
from blackhole_core.messages import Call
from tests.integration.managed import manager
from tests.stage import Running, Stage, eventually, in_threads

#: A heartbeat quick enough for a test; silence of half a second is long beside an answer's millisecond.
QUICK = {"heartbeat": 0.05, "hung_after": 0.5}

_HOOKS = """
import ctypes, threading, time
class Plugin:
    @hookimpl
    def slow(self, seconds: float) -> str:
        print("begun", flush=True)
        if seconds < 0:  # keeps the interpreter: PyDLL does not let it go
            print("about to hold on", flush=True)
            ctypes.PyDLL(None).sleep(int(-seconds))
        time.sleep(seconds)
        return "slept"
    @hookimpl
    def transform(self, text: str) -> str:
        return self.spin(float(text))
    def spin(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        return "spun"
"""


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(zygote=getattr(request, "param", "zygote") == "zygote")
    yield stage
    stage.close()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for a worker to say where it stands: this machine may be busy."""
    monkeypatch.setattr(traffic, "_STACK_PATIENCE", 10.0)


def _has_begun(plugin: Running) -> bool:
    worker: Any = plugin.remote._traffic.worker
    return "begun" in worker.connection._records.tail.lines()


def _dies(plugin: Running, hook: str, *args: Any) -> WorkerDied:
    with pytest.raises(WorkerDied) as caught:
        plugin(hook, *args)
    return caught.value


def test_a_call_that_takes_long_is_left_alone(stage: Stage, tmp_path: Path) -> None:
    """F-11: three seconds of sleep, and of Python code, with an answer to the heartbeat wanted every half."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _HOOKS), **QUICK, threads=2)
    pid = plugin.pid
    assert in_threads(2, lambda number: plugin("slow", 3.0) if number else plugin("transform", "3.0")) == ["spun", "slept"]
    assert plugin.pid == pid


def test_a_stopped_worker_is_ended_and_its_caller_told(stage: Stage, tmp_path: Path) -> None:
    """F06: SIGSTOP. The report has the stack, though a stopped process cannot write it: it is let go on to die."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _HOOKS), **QUICK)
    pid = plugin.pid
    stopper = threading.Thread(target=lambda: eventually(lambda: _has_begun(plugin)) and os.kill(pid, signal.SIGSTOP))
    stopper.start()
    died = _dies(plugin, "slow", 60.0)
    stopper.join()
    assert died.exit == -signal.SIGABRT
    assert "no sign of life for 0.5 s (hung_after)" in str(died.reason)
    assert any(line.endswith("in slow") for line in died.stack)
    assert f"the host ended it: {died.reason}" in died.__notes__


@pytest.mark.parametrize("lane", [True, False])
def test_a_stopped_worker_begins_no_other_call(lane: bool, stage: Stage, tmp_path: Path) -> None:
    """F06: it is let go on to die. What waits behind the call that it was stopped in is not begun by it, however long the host takes from one signal to the next."""
    if not lane:
        stage.use_fall_backs()
    hooks = _HOOKS.replace("until = ", "print('begun other', flush=True); until = ")
    plugin = stage.start("adhoc", **stage.write(tmp_path, hooks), **{**QUICK, "hung_after": 1.5})
    worker: Any = plugin.remote._traffic.worker
    send, ended = worker.connection.child.signal, threading.Event()
    worker.connection.child.signal = lambda number: (send(number), ended.wait(0.5))
    plugin.remote.watch(lambda death: ended.set())
    errors: list[BaseException] = []

    def call(hook: str, argument: Any) -> None:
        with pytest.raises((WorkerDied, PluginBroken)) as caught:
            plugin(hook, argument)
        errors.append(caught.value)

    threads = [threading.Thread(target=call, args=("slow", 0.5)), threading.Thread(target=call, args=("transform", "0.0"))]
    threads[0].start()
    assert eventually(lambda: _has_begun(plugin))
    os.kill(plugin.pid, signal.SIGSTOP)
    threads[1].start()
    assert eventually(lambda: len(plugin.remote._traffic.outstanding) == 2)
    assert ended.wait(20)
    plugin.remote.give_up("nobody starts another worker here")
    for thread in threads:
        thread.join()
    assert sorted(type(error).__name__ for error in errors) == ["PluginBroken", "WorkerDied"]
    assert "begun other" not in worker.connection._records.tail.lines()


_MUTE = """
import os, time
def mute():  # who writes to the error output from now on never comes back
    end = os.pipe()[1]
    os.set_blocking(end, False)
    try:
        while os.write(end, b"x" * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(end, True)
    os.dup2(end, 2)
class Plugin:
    @hookimpl
    def slow(self, seconds: float) -> str:
        mute()
        print("begun", flush=True)
        time.sleep(seconds)
        return "slept"
    @hookimpl
    def transform(self, text: str) -> str:
        open(text, "w").close()
"""


def test_of_several_threads_none_does(stage: Stage, tmp_path: Path) -> None:
    """F06: one of them takes the signal and is long at writing where all stand. The others find that their calls are over, and begin none of those that wait in the worker."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _MUTE), **{**QUICK, "threads": 2, "hung_after": 1.5})
    worker: Any = plugin.remote._traffic.worker
    ended, begun = threading.Event(), tmp_path / "begun"
    plugin.remote.watch(lambda death: ended.set())

    def call(hook: str, argument: Any) -> None:
        with contextlib.suppress(WorkerDied, PluginBroken):
            plugin(hook, argument)

    calls = [("slow", 0.5), ("slow", 0.5), *[("transform", str(begun))] * 3]
    threads = [threading.Thread(target=call, args=one) for one in calls]
    for thread in threads[:2]:
        thread.start()
    assert eventually(lambda: worker.connection._records.tail.lines().count("begun") == 2)
    for thread in threads[2:]:
        thread.start()
    assert eventually(lambda: len(plugin.remote._traffic.outstanding) == len(calls))
    os.kill(plugin.pid, signal.SIGSTOP)
    assert ended.wait(20)
    plugin.remote.give_up("nobody starts another worker here")
    for thread in threads:
        thread.join()
    assert not begun.exists()


@pytest.mark.parametrize("stage", ["zygote", "exec"], indirect=True)
def test_code_that_keeps_the_interpreter_is_ended_with_its_stack(stage: Stage, tmp_path: Path) -> None:
    """F08, F-13: nothing in the worker can run, and still it says where it stands."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _HOOKS), **QUICK)
    died = _dies(plugin, "slow", -1000.0)
    assert died.exit == -signal.SIGABRT
    assert died.stack[0] == "Fatal Python error: Aborted"
    assert any(line.endswith("in slow") for line in died.stack)
    assert "about to hold on" in died.tail


def test_behind_walls_it_is_the_same(tmp_path: Path) -> None:
    """The worker has a keeper and a process 1 beside it; the signals reach the worker, and its end reaches the host."""
    (tmp_path / "walled.py").write_text(f"import blackhole_core as bh\nhookimpl = bh.HookimplMarker('notes')\n{_HOOKS}", "utf-8")
    (tmp_path / "plugin.yaml").write_text("name: walled\nversion: 1.0.0\nentry: walled:Plugin\n", "utf-8")
    with manager({**QUICK, "sandbox": "native", "unenforced": "allow", "restart": {"intensity": 100}}) as pm:
        pm.load("walled", source=tmp_path)
        with pytest.raises(WorkerDied) as caught:
            pm.hook.slow(seconds=-1000.0)
        assert caught.value.exit == -signal.SIGABRT
        assert caught.value.stack[0] == "Fatal Python error: Aborted"
        assert any(line.endswith("in slow") for line in caught.value.stack)
        assert pm.hook.slow(seconds=1.0) == ["slept"]


def test_a_worker_without_faulthandler_is_killed_all_the_same(stage: Stage, tmp_path: Path) -> None:
    """The last step of the ladder: SIGABRT is ignored."""
    source = _HOOKS + "import faulthandler, signal\nfaulthandler.disable()\nsignal.signal(signal.SIGABRT, signal.SIG_IGN)\n"
    plugin = stage.start("adhoc", **stage.write(tmp_path, source), **QUICK)
    died = _dies(plugin, "slow", -1000.0)
    assert (died.exit, died.stack) == (-signal.SIGKILL, ())


def test_a_worker_that_the_host_holds_still_does_not_hang(stage: Stage, tmp_path: Path) -> None:
    """A limiter stops it for longer than ``hung_after``, and says so."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _HOOKS), **QUICK)
    pid, held, looks = plugin.pid, threading.Event(), []

    def paused() -> bool:
        looks.append(held.is_set())
        return held.is_set()

    plugin.remote.paused = paused

    def hold() -> None:
        assert eventually(lambda: plugin.remote._traffic.outstanding)
        held.set()
        os.kill(pid, signal.SIGSTOP)
        assert eventually(lambda: sum(looks) >= 20)
        os.kill(pid, signal.SIGCONT)
        held.clear()

    holder = threading.Thread(target=hold)
    holder.start()
    assert plugin("slow", 1.5) == "slept"
    holder.join()
    assert plugin.pid == pid


def test_an_idle_worker_is_not_asked(stage: Stage, tmp_path: Path) -> None:
    """An idle host has no timer left."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _HOOKS), **QUICK)
    assert plugin("slow", 0.3) == "slept"
    worker: Any = plugin.remote._traffic.worker
    assert eventually(lambda: not worker.vigil.awake)
    assert worker.vigil._pings > 0
    assert [timer for _, _, timer in stage.timers._heap if timer.action is not None and "_look" in repr(timer.action)] == []
    os.kill(plugin.pid, signal.SIGSTOP)  # nobody misses it
    os.kill(plugin.pid, signal.SIGCONT)
    assert plugin("slow", 0.0) == "slept"


@pytest.mark.usefixtures("patience")
def test_who_gives_up_is_told_where_the_call_stands(stage: Stage, tmp_path: Path) -> None:
    """F-10: a Python loop; the deadline's error names the line, and so does that of the worker's end."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _HOOKS), call_timeout=0.6, hang_grace=0.2)
    ends: list[Any] = []
    plugin.remote.watch(ends.append)
    with pytest.raises(CallTimeout, match="where it stood:") as caught:
        plugin("transform", "60")
    assert any("in spin" in line for line in caught.value.stack)
    assert caught.value.stack[0].startswith("Thread MainThread")
    assert "worker.py" not in "".join(caught.value.stack)
    assert eventually(lambda: ends)
    assert (ends[0].exit, "ran on 0.2 s after its caller gave up" in ends[0].reason) == (-signal.SIGKILL, True)
    assert any("in spin" in line for line in ends[0].stack)


@pytest.mark.usefixtures("patience")
def test_a_call_that_did_not_begin_has_no_stack(stage: Stage, tmp_path: Path) -> None:
    """What stands there is another call's."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _HOOKS), call_timeout=0.6)

    def act(number: int) -> Any:
        if number == 0:
            return plugin("slow", 1.5)
        assert eventually(lambda: plugin.remote._traffic.outstanding)
        return plugin("slow", 0.0)

    running, queued = in_threads(2, act)
    assert isinstance(running, CallTimeout)
    assert isinstance(queued, CallTimeout)
    assert (bool(running.stack), queued.stack) == (True, ())


@pytest.mark.parametrize("message", [codec.Pong(1), codec.Pong(0), codec.Stacks(1, ()), codec.Stacks(0, ("x",))])
def test_an_answer_to_nothing_is_a_breach(stage: Stage, message: Any) -> None:
    """A worker that says it is alive unasked is cut off."""
    runner = stage.hostile(f"come_up(); hear(); say(codec.{message!r}); hold()")
    runner.start()
    ends: list[Any] = []
    runner.watch(ends.append)
    with pytest.raises(WorkerDied):
        runner.call(Call("transform", ("x",), index=0))
    assert eventually(lambda: ends)
    assert "it broke the protocol" in ends[0].reason
