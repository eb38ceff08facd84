"""Level thread beyond what all levels share: what a call leaves behind, interruptions, and platforms without eventfd."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import notes_api
import pytest

import blackhole_core as bh
from blackhole_core.errors import CallTimeout, PluginUnloaded
from blackhole_core.executor.thread import ThreadRunner
from blackhole_core.executor.threadbatch import ThreadBatch
from blackhole_core.messages import Calls
from tests.stage import Stage, eventually, in_threads

_PLUGIN = """
from notes_asking import Asking
class Plugin(Asking):
    @hookimpl
    def raw(self, value):
        return value() if callable(value) else value
    @hookimpl
    def ask(self, text: str) -> str:
        depth = int(text)
        return f"{depth}>" + ("end" if depth == 0 else "|".join(self.hook.ask(text=str(depth - 1))))
"""


class _Argument:
    """Something that can be watched."""


def test_without_eventfd_it_works_the_same(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, nested calls and deadlines need no eventfd; it is faster with them, that is all."""
    monkeypatch.delattr(os, "eventfd")
    plugin = stage.start("adhoc", "thread", threads=2, **stage.write(tmp_path, _PLUGIN))
    assert in_threads(4, lambda number: [plugin("raw", number) for _ in range(50)]) == [[number] * 50 for number in range(4)]
    assert plugin("ask", "3") == "3>2>1>0>end"
    with bh.deadline(0.5), pytest.raises(CallTimeout, match="still running"):
        plugin("raw", lambda: notes_api.release.wait(10))
    notes_api.release.set()
    assert plugin.runner.drained(10)


def test_a_call_leaves_nothing_to_collect(stage: Stage, tmp_path: Path) -> None:
    """Arguments, results and errors are gone with their last user, not with the next garbage collection."""
    plugin = stage.start("adhoc", "thread", **stage.write(tmp_path, _PLUGIN))
    argument = _Argument()
    watch = weakref.ref(argument)

    def fail(argument: _Argument = argument) -> None:
        raise ValueError(argument)

    plugin("raw", 1)
    gc.collect()
    gc.disable()
    try:
        plugin("raw", argument)
        with pytest.raises(ValueError, match="_Argument") as caught:
            plugin("raw", fail)
        del caught
        del argument, fail
        assert eventually(lambda: watch() is None)
    finally:
        gc.enable()


def test_a_kept_error_keeps_no_descriptor(stage: Stage, tmp_path: Path) -> None:
    """The traceback of a failed call may live long; the stopped plugin's descriptors do not live with it."""
    before = len(os.listdir("/proc/self/fd"))
    plugin = stage.start("adhoc", "thread", **stage.write(tmp_path, _PLUGIN))
    kept: list[BaseException] = []

    def fail() -> None:
        raise ValueError

    with bh.deadline(0.02):
        for action in (fail, lambda: notes_api.release.wait(10)):
            with pytest.raises((ValueError, CallTimeout)) as caught:
                plugin("raw", action)
            kept.append(caught.value)
    notes_api.release.set()
    plugin.runner.stop()
    with pytest.raises(PluginUnloaded) as refused:
        plugin("raw", 1)
    kept.append(refused.value)
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) == before)  # who rang last may still stand in the ring


def test_ctrl_c_ends_the_wait_and_nothing_else(stage: Stage, tmp_path: Path) -> None:
    """An interrupted caller gets its KeyboardInterrupt; the plugin answers the next call, and counts as drained when the first has ended."""
    plugin = stage.start("adhoc", "thread", **stage.write(tmp_path, _PLUGIN))

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        notes_api.release.wait(10)

    with pytest.raises(KeyboardInterrupt):
        plugin("raw", interrupt)
    assert not plugin.runner.drained(0)
    notes_api.release.set()
    assert plugin("raw", "next") == "next"
    assert plugin.runner.drained(10)


def test_a_call_whose_deadline_has_passed_does_not_begin(stage: Stage, tmp_path: Path) -> None:
    """It is told so at once."""
    plugin = stage.start("adhoc", "thread", **stage.write(tmp_path, _PLUGIN))
    ran: list[int] = []
    with bh.deadline(-1.0), pytest.raises(CallTimeout, match="executed: no"):
        plugin("raw", lambda: ran.append(1))
    assert ran == []


def test_callers_that_gave_up_are_not_answered_later(stage: Stage, tmp_path: Path) -> None:
    """A late answer to one call never becomes that of the next one, which waits on the same bell."""
    plugin = stage.start("adhoc", "thread", **stage.write(tmp_path, _PLUGIN))

    def call(number: int) -> list[Any]:
        answers: list[Any] = []
        for turn in range(60):
            try:
                with bh.deadline(0.002 if turn % 3 else 10):  # every third waits for its answer, after one that may come late
                    answers.append(plugin("raw", lambda turn=turn: (time.sleep(turn % 3 / 1000), (number, turn))[1]) == (number, turn))
            except CallTimeout:
                continue
        return answers

    outcomes = in_threads(6, call)
    assert all(isinstance(answers, list) and len(answers) >= 20 and all(answers) for answers in outcomes)
    assert any(len(answers) < 60 for answers in outcomes), "nobody gave up"
    assert plugin.runner.drained(10)


def test_only_a_thread_that_still_hangs_is_quarantined(stage: Stage, tmp_path: Path) -> None:
    """Of two threads that hung in one batch, the one that ends while the other is reported stays with the plugin."""
    plugin = stage.start("adhoc", "thread", threads=2, hang_grace=0.02, **stage.write(tmp_path, _PLUGIN))
    runner, looked = plugin.runner, threading.Event()
    assert isinstance(runner, ThreadRunner)
    threads = list(runner._crew.threads.values())

    class Events(list[tuple[str, dict[str, Any]]]):
        def append(self, event: tuple[str, dict[str, Any]]) -> None:
            super().append(event)
            if len(self) == 1:
                notes_api.release.set()
                assert runner.drained(10)
                stage.timers.after(0.0, looked.set)  # behind the one that quarantines

    stage.events = Events()
    both = threading.Barrier(2)

    def hang() -> None:
        if both.wait(10) == 0:
            [call] = runner._expiry.waiting
            assert isinstance(call, ThreadBatch)
            call.give_up()
        notes_api.release.wait(10)

    index = next(place for place, known in enumerate(plugin.surface.implementations) if known.hook == "raw")
    replies = runner.call_many(Calls("raw", [[hang] * 2], 2, index))
    assert [type(error) for error in replies.failures.values()] == [CallTimeout] * 2
    assert looked.wait(10)
    [(event, facts)] = stage.events
    assert event == "plugin.quarantined"
    [kept] = set(threads) & set(runner._crew.threads.values())
    assert kept.name != facts["thread"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_the_parent_alone(stage: Stage, tmp_path: Path) -> None:
    """There the plugin counts as unloaded: calls are refused, also while a lock is held here, and the end finds nothing to wait for."""
    plugin = stage.start("adhoc", "thread", **stage.write(tmp_path, _PLUGIN))
    runner = plugin.runner
    assert isinstance(runner, ThreadRunner)
    begun, held = threading.Event(), threading.Event()

    def hold() -> None:
        with runner._crew._changed, stage.timers._changed:
            held.set()
            notes_api.release.wait(10)

    others = [
        threading.Thread(target=lambda: plugin("raw", lambda: (begun.set(), notes_api.release.wait(10)))),
        threading.Thread(target=hold),
    ]
    for thread, at_work in zip(others, (begun, held), strict=True):
        thread.start()
        assert at_work.wait(10)
    index = next(place for place, known in enumerate(plugin.surface.implementations) if known.hook == "raw")

    def act() -> None:
        for call in (lambda: plugin("raw", 1), lambda: runner.plugin_object().raw(1)):
            with bh.deadline(5.0), pytest.raises(PluginUnloaded):  # nearer than any alarm that is set
                call()
        assert isinstance(runner.call_many(Calls("raw", [[1, 2]], 2, index)).failures[0], PluginUnloaded)
        runner.stop()
        assert runner.drained(0)

    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends a child that hangs
        signal.alarm(5)
        failed = 1
        try:
            act()
            failed = 0
        finally:
            os._exit(failed)
    assert os.waitpid(pid, 0)[1] == 0
    notes_api.release.set()
    for thread in others:
        thread.join(10)
    assert plugin("raw", "here") == "here"


@pytest.mark.usefixtures("fast_switching")
def test_every_call_has_one_fate_when_the_plugin_stops(stage: Stage, tmp_path: Path) -> None:
    """Callers race with the end: each call either ran and was answered, or did not run and was refused."""
    source = stage.write(tmp_path, _PLUGIN)
    for _ in range(10):
        runner = stage.make("adhoc", "thread", **source)
        runner.start()
        stub = runner.plugin_object().raw
        ran: list[tuple[int, int]] = []

        def call(number: int, runner: Any = runner, stub: Any = stub, ran: list[tuple[int, int]] = ran) -> Any:
            if number == 0:
                assert eventually(lambda: len(ran) > 20)
                return runner.stop()
            answered = []
            for turn in range(10_000):
                try:
                    stub(lambda turn=turn: ran.append((number, turn)))
                except PluginUnloaded:
                    return answered
                answered.append((number, turn))
            return answered

        _stopped, *answered = in_threads(5, call)
        assert sorted(ran) == sorted(pair for some in answered for pair in some)
        assert runner.drained(0)
