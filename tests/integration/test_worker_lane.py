"""Calls by shared memory and calls by the channel, beside each other: in one order, each on its thread, each once, whoever is interrupted."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.executor.lane import UNAVAILABLE, HostLane
from blackhole_core.executor.remote import Connection
from blackhole_core.executor.traffic import Traffic
from tests.stage import Running, Stage, eventually, in_threads

pytestmark = pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))

# The plugin looks into its own worker, to hold it up at the point in question. ``look_again`` is what the main thread does between two calls.
_WATCHING = """
import os, sys, threading, time
from blackhole_core.executor.lane import WorkerLane

held = threading.Event()
look_again = WorkerLane.look

def look(lane):
    if not held.is_set():
        return look_again(lane)
    worker = sys._getframe(1).f_locals["self"]
    while not lane.requested() or worker._queue.empty():  # as if it had looked, and another thread had the interpreter for so long
        time.sleep(0.001)
    held.clear()
    return False

WorkerLane.look = look

class Plugin:
    def __init__(self):
        self.file = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.lock, self.told = threading.RLock(), []

    @bh.hookimpl
    def plugin_start(self, context):
        self.context = context

    def ask(self):
        time.sleep(0.2)  # until the call that began it is over; if it is not, the test is only weaker
        with self.lock:
            self.told.extend(self.context.hook.transform(text="nested"))

    @hookimpl
    def transform(self, text: str) -> str:
        os.write(self.file, text.encode() + b" ")
        if text == "hold":
            held.set()
        elif text == "ask":
            self.context.thread(self.ask)
        elif text == "fork":
            worker = next(frame.f_locals["self"] for frame in self.frames() if frame.f_code.co_name == "_serve_lane")
            while worker._queue.empty():
                time.sleep(0.001)
            child = os.fork()
            if child:
                return str(os.waitpid(child, 0)[1] != 0)
        elif text == "nested":
            free = self.lock.acquire(timeout=10)
            return f"{threading.current_thread().name} {free}"
        return text

    @hookimpl
    def total(self) -> int:
        return len(self.told)

    @hookimpl
    def version(self) -> str:
        return self.told[0]

    def frames(self):
        frame = sys._getframe()
        while frame is not None:
            yield frame
            frame = frame.f_back
"""


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


@pytest.fixture
def plugin(stage: Stage, tmp_path: Path, record: Path) -> Running:
    return stage.start("adhoc", environment={"RECORD": str(record)}, **stage.write(tmp_path / "plugin", _WATCHING))


def _one_by_lane_one_by_channel(plugin: Running, first: str, second: str) -> list[Any]:
    def act(number: int) -> Any:
        if number == 1:
            assert eventually(lambda: bool(plugin.remote._traffic.outstanding))
        return plugin("transform", (first, second)[number])

    return in_threads(2, act)


def test_the_lane_goes_first_whenever_its_request_comes(plugin: Running, record: Path) -> None:
    """A request that comes into the lane just after the worker has looked there is begun before one that was sent later and waits in the queue."""
    plugin("transform", "hold")
    assert _one_by_lane_one_by_channel(plugin, "one", "two") == ["one", "two"]
    assert record.read_text("utf-8").split() == ["hold", "one", "two"]


def test_a_nested_call_runs_on_the_thread_that_is_blocked(plugin: Running) -> None:
    """A thread of the plugin's own calls the host, which calls the plugin again: on that thread, which has the lock, though the worker is idle."""
    plugin("transform", "ask")
    assert eventually(lambda: plugin("total") == 1, 20)
    name, free = plugin("version").rsplit(" ", 1)
    assert name != "MainThread"
    assert free == "True"


def test_a_forked_child_executes_nothing_that_was_queued(plugin: Running, record: Path) -> None:
    """A child that returns from the hook ends there: it neither answers nor goes on with what waited for the worker."""
    assert _one_by_lane_one_by_channel(plugin, "fork", "two") == ["True", "two"]
    assert record.read_text("utf-8").split() == ["fork", "two"]


_PLACES = {"sent": (HostLane, "send"), "not rung": (HostLane, "knock"), "answered": (Traffic, "_wait_in_lane")}


@pytest.mark.parametrize("place", _PLACES)
def test_an_interrupted_caller_leaves_the_lane(plugin: Running, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Ctrl-C just after the request was stored, before the worker was rung, or just after the answer was taken: the worker goes on, and so does the lane."""
    pid = plugin.pid
    with monkeypatch.context() as patch:
        kind, name = _PLACES[place]
        method = getattr(kind, name)

        def interrupted(*args: Any) -> None:
            if place != "not rung":
                method(*args)
            raise KeyboardInterrupt

        patch.setattr(kind, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            plugin("transform", "x")
    assert plugin.remote.drained(10)
    assert [plugin("transform", text) for text in ("a", "b", "c")] == ["a", "b", "c"]
    assert plugin.pid == pid
    assert not plugin.remote._traffic.worker.lane.held  # type: ignore[union-attr]  # there is one


def test_a_start_that_fails_after_the_launch_leaves_no_descriptor(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection takes one more descriptor; when there is none, what the lane and the arena hold is given back."""
    stage.start("counter").runner.stop()  # what is made once per host is there
    assert eventually(lambda: stage.launcher._nursery._spare is not None)
    before = set(os.listdir("/proc/self/fd"))
    threads = threading.active_count()

    def refuse(self: Connection, child: Any, **_: Any) -> None:
        child.discard()
        raise OSError(errno.EMFILE, "no descriptor left")

    monkeypatch.setattr(Connection, "__init__", refuse)
    runner = stage.make("full", "process")
    with pytest.raises(OSError, match="no descriptor left"):
        runner.start()
    # Fewer, when something of the first worker's was only just ending.
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(before))
    assert eventually(lambda: threading.active_count() <= threads)
