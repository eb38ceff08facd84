"""The context's leases: everything a plugin registers through it is undone at the end, in reverse order, whatever fails."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blackhole_core.executor.context import PluginContext
from blackhole_core.executor.leases import Leases, PluginStopped
from tests.unit.executor.contexts import AMPLE, SHORT, Running

# --- the stack -------------------------------------------------------------------------------------------------------


def test_leases_are_undone_youngest_first(context: Running) -> None:
    """What was taken last goes first: it may build on what was taken before."""
    order: list[int] = []
    for number in range(3):
        context.lease(lambda number=number: order.append(number))
    assert context.end() == ()
    assert order == [2, 1, 0]


def test_an_undo_that_raises_is_reported_and_stops_no_other(context: Running) -> None:
    """A failing undo becomes a sentence with plugin, generation, what and why; the others are undone."""
    done: list[str] = []
    context.lease(lambda: done.append("first"))
    context.lease(lambda: 1 / 0, what="the connection")
    context.lease(lambda: (_ for _ in ()).throw(SystemExit(3)), what="the exit")
    context.lease(lambda: done.append("last"))
    problems = context.end()
    assert done == ["last", "first"]
    assert sorted(problems) == [
        "plugin acme@1.0, generation 1: undoing the connection failed with ZeroDivisionError: division by zero",
        "plugin acme@1.0, generation 1: undoing the exit failed with SystemExit: 3",
    ]


def test_a_lease_is_undone_once(context: Running) -> None:
    """Ending a lease early, twice, and stopping afterwards undoes it once."""
    done: list[int] = []
    lease = context.lease(lambda: done.append(1))
    lease.end()
    lease.end()
    assert lease.ended
    context.end()
    assert context.end() == ()
    assert done == [1]


def test_an_early_end_raises_what_the_undo_raises(context: Running) -> None:
    """Who ends a lease itself gets the exception itself."""
    lease = context.lease(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lease.end()


def test_an_undo_that_hangs_keeps_none_of_the_others(context: Running) -> None:
    """One that does not return is left to its thread and named; the rest is undone by another."""
    done, release = [], threading.Event()
    context.lease(lambda: done.append("others"))
    context.lease(release.wait, what="the socket")
    try:
        problems = context.end(SHORT)
        assert done == ["others"]
        assert problems == ("plugin acme@1.0, generation 1: undoing the socket did not end within 0.3 s; it goes on by itself",)
    finally:
        release.set()


def test_leases_are_undone_where_the_plugin_lives() -> None:
    """A level may say on which thread leases are undone: a plugin's connections may belong to its own."""
    leases, where = Leases("plugin acme@1.0, generation 1"), []
    leases.add("x", lambda: where.append(threading.current_thread()))
    leases.end(AMPLE, lambda run: run())
    assert where == [threading.current_thread()]


def test_a_lease_that_comes_too_late_is_undone_at_once() -> None:
    """What was made while the plugin stopped is undone, and the plugin is told."""
    leases, done = Leases("plugin acme@1.0, generation 1"), []
    leases.end(AMPLE)
    with pytest.raises(PluginStopped):
        leases.add("a door", lambda: done.append(1))
    assert done == [1]


LATE: dict[str, Callable[[PluginContext], object]] = {
    "lease": lambda context: context.lease(print),
    "enter": lambda context: context.enter(threading.Lock()),
    "subscribe": lambda context: context.subscribe(pytest.fail, pytest.fail),
    "thread": lambda context: context.thread(pytest.fail),
    "timer": lambda context: context.timer(0, pytest.fail),
    "every": lambda context: context.every(1, pytest.fail),
    "executor": lambda context: context.executor(1),
    "add_log_handler": lambda context: context.add_log_handler("acme.late", logging.NullHandler()),
    "add_log_filter": lambda context: context.add_log_filter("acme.late", logging.Filter()),
    "patch": lambda context: context.patch(json, "dumps", pytest.fail),
    "signal": lambda context: context.signal(signal.SIGUSR1, pytest.fail),
    "temp_dir": lambda context: context.temp_dir(),
    "task": lambda context: context.task(asyncio.new_event_loop(), asyncio.sleep(0)),
}


@pytest.mark.parametrize("method", [method for method in LATE if method != "task"])
def test_after_the_stop_every_method_refuses(context: Running, method: str) -> None:
    """A plugin that has stopped gets an error that says so, and nothing is left by the attempt."""
    context.end()
    with pytest.raises(PluginStopped, match=r"plugin acme@1\.0, generation 1 has stopped, so it cannot take .*context\.stopping"):
        LATE[method](context)
    assert not logging.getLogger("acme.late").handlers
    assert not logging.getLogger("acme.late").filters


def test_a_function_for_the_exit_is_not_called_when_it_comes_too_late(context: Running) -> None:
    """atexit after the stop: the function is called at once, as atexit itself would never, and the error says why."""
    context.end()
    called: list[int] = []
    with pytest.raises(PluginStopped):
        context.atexit(called.append, 1)
    assert called == [1]


# --- threads and time ------------------------------------------------------------------------------------------------


def test_a_thread_ends_with_the_plugin(context: Running) -> None:
    """A leased thread is asked to end through context.stopping, and has ended when the stop is over."""
    thread = context.thread(context.stopping.wait, name="poller")
    assert thread.name == "poller"
    assert thread.daemon
    assert context.end() == ()
    assert not thread.is_alive()


def test_a_thread_gets_its_arguments(context: Running) -> None:
    """The target is called with the arguments given."""
    got: list[object] = []
    context.thread(lambda *args: got.extend(args), 1, "two").join()
    assert got == [1, "two"]


def test_a_thread_that_does_not_end_is_named_with_the_line_it_stands_at(context: Running) -> None:
    """The report says which thread, where it is, and what it should have done."""
    release = threading.Event()

    def stubborn() -> None:
        release.wait()

    thread = context.thread(stubborn)
    try:
        [problem] = context.end(SHORT)
    finally:
        release.set()
        thread.join()
    assert "thread 'acme-stubborn' did not end after context.stopping was set, it stands in " in problem
    assert problem.endswith("let it wait on context.stopping")


def test_threads_that_ended_by_themselves_leave_no_lease(context: Running) -> None:
    """A plugin that starts a thread per job does not pile up leases."""
    for _ in range(20):
        context.thread(int).join()
    assert not context._leases.stack


def test_a_timer_fires_once_and_leaves_no_lease(context: Running) -> None:
    """After it fired only the timers' thread is left to end."""
    fired = threading.Event()
    lease = context.timer(0, fired.set)
    assert fired.wait(AMPLE)
    assert lease.ended
    assert context.end() == ()


def test_a_timer_is_cancelled_at_the_stop(context: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A pending timer does not fire after the plugin stopped, and its thread is gone."""
    before = threading.active_count()
    lease = context.timer(1000, lambda: pytest.fail("fired"))
    assert threading.active_count() == before + 1
    assert context.end() == ()
    assert lease.ended
    assert threading.active_count() == before


def test_a_repeated_timer_goes_on_after_an_exception_and_ends_with_its_lease(context: Running, caplog: pytest.LogCaptureFixture) -> None:
    """every() survives a function that raises, which is logged with the plugin's name."""
    calls, enough = [], threading.Event()

    def tick() -> None:
        calls.append(1)
        if len(calls) == 3:
            lease.end()
            enough.set()
        raise ValueError("tick")

    lease = context.every(0.001, tick)
    assert enough.wait(AMPLE)
    assert context.end() == ()
    assert len(calls) == 3
    assert "plugin acme@1.0, generation 1: a repeated timer (tick) raised" in caplog.text


def test_a_repeated_timer_without_a_pause_is_refused(context: Running) -> None:
    """Zero seconds would never let another timer run."""
    with pytest.raises(ValueError, match="a pause of more than 0 seconds, got 0"):
        context.every(0, print)


def test_an_executor_is_shut_down_and_its_threads_end(context: Running) -> None:
    """Work that runs is waited for, work that has not begun is cancelled."""
    pool, begun, release = context.executor(1), threading.Event(), threading.Event()
    running = pool.submit(lambda: (begun.set(), release.wait()))
    waiting = pool.submit(pytest.fail)
    waiting.add_done_callback(lambda _: release.set())
    assert begun.wait(AMPLE)
    assert context.end() == ()
    assert running.done()
    assert waiting.cancelled()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_task_gives_its_result_to_other_threads(context: Running, loop: asyncio.AbstractEventLoop) -> None:
    """task() runs a coroutine on the loop; its future is answered here, and the lease goes with it."""

    async def work(fail: bool) -> str:
        await asyncio.sleep(0)
        if fail:
            raise KeyError("no")
        return "done"

    assert context.task(loop, work(False)).result(AMPLE) == "done"
    with pytest.raises(KeyError):
        context.task(loop, work(True)).result(AMPLE)
    assert context.end() == ()


def test_a_task_is_cancelled_and_its_finally_has_run_when_the_stop_is_over(context: Running, loop: asyncio.AbstractEventLoop) -> None:
    """Cancelling a task of another thread's loop waits until the coroutine itself has ended."""
    steps, begun = [], threading.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0)
            steps.append("finally")

    future = context.task(loop, work())
    assert begun.wait(AMPLE)
    assert context.end() == ()
    assert steps == ["finally"]
    assert future.cancelled()


def test_cancelling_the_future_cancels_the_task(context: Running, loop: asyncio.AbstractEventLoop) -> None:
    """The future of task() is a handle on the task."""
    ended, begun = threading.Event(), threading.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(1000)
        finally:
            ended.set()

    future = context.task(loop, work())
    assert begun.wait(AMPLE)
    assert future.cancel()
    assert ended.wait(AMPLE)
    assert context.end() == ()


def test_a_task_whose_loop_does_not_run_is_reported(context: Running) -> None:
    """A loop that stands still cannot end a task; the sentence says so."""
    loop = asyncio.new_event_loop()
    started = asyncio.Event()

    async def work() -> None:
        started.set()
        await asyncio.sleep(1000)

    context.task(loop, work())
    loop.run_until_complete(started.wait())
    [problem] = context.end()
    assert "task test_a_task_whose_loop_does_not_run_is_reported.<locals>.work was cancelled, but its event loop is not running" in problem
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_task_of_a_stopped_plugin_is_refused_without_a_warning(context: Running) -> None:
    """The coroutine is closed, so nobody is told that it was never awaited."""
    context.end()
    loop = asyncio.new_event_loop()
    with pytest.raises(PluginStopped):
        context.task(loop, asyncio.sleep(0))
    loop.close()


# --- registries ------------------------------------------------------------------------------------------------------


def test_a_context_manager_is_left_at_the_stop(context: Running) -> None:
    """enter() returns what __enter__ returns; __exit__ is called without an exception."""
    seen: list[object] = []

    class Manager:
        def __enter__(self) -> str:
            return "inside"

        def __exit__(self, *exc: object) -> None:
            seen.extend(exc)

    assert context.enter(Manager()) == "inside"
    context.end()
    assert seen == [None, None, None]


def test_a_subscription_is_taken_back(context: Running) -> None:
    """subscribe() calls the one now and the other at the stop; one that fails to register is never unregistered."""
    bus: list[str] = []
    context.subscribe(lambda: bus.append("me"), lambda: bus.remove("me"))
    with pytest.raises(ZeroDivisionError):
        context.subscribe(lambda: 1 / 0, lambda: bus.append("wrong"))
    assert bus == ["me"]
    assert context.end() == ()
    assert bus == []


def test_log_handlers_and_filters_are_taken_off(context: Running) -> None:
    """A handler is removed and closed, a filter removed."""
    logger, closed = logging.getLogger("acme.leases"), []
    handler = logging.NullHandler()
    handler.close = lambda: closed.append(1)  # type: ignore[method-assign]  # this one handler alone
    context.add_log_handler("acme.leases", handler)
    context.add_log_filter(logger, lambda record: True)
    assert logger.handlers == [handler]
    assert len(logger.filters) == 1
    context.end()
    assert logger.handlers == logger.filters == []
    assert closed == [1]


def test_a_temporary_directory_is_removed_with_what_it_holds(context: Running) -> None:
    """temp_dir() is private, named after the plugin, and gone after the stop; a plugin may have removed it itself."""
    path, other = context.temp_dir(), context.temp_dir()
    assert path.name.startswith("blackhole-acme-")
    assert path.stat().st_mode & 0o077 == 0
    (path / "deep").mkdir()
    (path / "deep" / "file").write_text("x")
    other.rmdir()
    assert context.end() == ()
    assert not path.exists()


def test_exit_functions_run_at_the_stop(context: Running) -> None:
    """atexit() is a lease: called with its arguments when the plugin stops."""
    calls: list[Any] = []
    context.atexit(lambda *args, **kwargs: calls.append((args, kwargs)), 1, key=2)
    context.end()
    assert calls == [((1,), {"key": 2})]
