"""A call to a thread of the plugin: its caller sleeps until the outcome is there, and runs nested jobs meanwhile."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from blackhole_core.callcontext import chain, get_deadline
from blackhole_core.errors import PluginUnloaded, RemoteError
from blackhole_core.executor.bell import new_bell
from blackhole_core.executor.mailbox import Job, MailboxTimeout
from blackhole_core.executor.threadbatch import ThreadBatch
from blackhole_core.executor.threadcall import ThreadCall
from blackhole_core.messages import Calls
from tests.stage import in_threads

_RUNNER = SimpleNamespace(plugin="p@1")


def _call(function: Callable[..., Any] = lambda: None, *args: Any) -> ThreadCall:
    return ThreadCall(_RUNNER, threading.get_ident(), "transform", function, args, new_bell())


def _batch(function: Callable[..., Any], *columns: list[Any]) -> ThreadBatch:
    """Return calls of ``function``: with the values of each argument, or, where it takes none, a single one."""
    calls = Calls("transform", columns, len(columns[0]) if columns else 1, 0)
    return ThreadBatch(_RUNNER, threading.get_ident(), calls, function, new_bell())


def _never() -> None:
    raise AssertionError("must not happen")


def _end(call: ThreadCall) -> None:
    call.run()
    call.tell()


def test_the_outcome_comes() -> None:
    """Whether the call ended before or after its caller began to wait."""
    call = _call(lambda a, b: a + b, 1, 2)
    _end(call)
    call.wait()
    assert (call.result, call.error) == (3, None)
    later = _call(lambda: "later")
    threading.Timer(0.02, _end, [later]).start()
    later.wait()
    assert later.result == "later"


def test_a_call_runs_in_a_copy_of_its_context() -> None:
    """It sees the caller's variables, its own place in the chain and its deadline; what it sets is gone with it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    def look() -> tuple[str, Any, float | None]:
        found = variable.get()
        variable.set("changed")
        return found, chain.get(), get_deadline()

    variable.set("the caller's")
    call = _call(look)
    call.own_deadline = 7.0
    _end(call)
    assert call.result == ("the caller's", (call,), 7.0)
    assert (variable.get(), chain.get(), get_deadline()) == ("the caller's", (), None)


class _Unprintable(SystemExit):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class _Odd:
    """Refuses to be compared."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        raise SystemExit("compared")

    __hash__ = None  # type: ignore[assignment]  # this is how Python says that there is none


def test_each_call_of_a_batch_begins_in_the_callers_context() -> None:
    """Also behind one that set a variable, whether or not its old and new value can be compared."""
    variable: contextvars.ContextVar[_Odd] = contextvars.ContextVar("variable")
    variable.set(_Odd("the caller's"))

    def look(name: str) -> tuple[str, Any]:
        found = variable.get().name
        if name:
            variable.set(_Odd(name))
        return found, chain.get()

    batch = _batch(look, ["", "first", "second", ""])
    _end(batch)
    assert batch.replies().results == [("the caller's", (batch,))] * 4
    assert variable.get().name == "the caller's"


@pytest.mark.parametrize("columns", [[], [[(1, 2)]], [[(1, 2), (3,)]], [[(1, 2), (3,)], [4, 5]]], ids=["none", "one call", "one", "two"])
def test_each_call_of_a_batch_gets_its_own_arguments(columns: list[list[Any]]) -> None:
    """None, one, which may be a tuple itself, or several."""
    batch = _batch(lambda *args: args, *columns)
    _end(batch)
    assert batch.replies().results == (list(zip(*columns, strict=True)) or [()])


def test_a_stop_iteration_of_one_call_of_a_batch_is_its_failure() -> None:
    """The calls are taken from an iterator, which a plugin's exception must not end."""
    endings = [iter("a"), iter(""), iter("c")]
    batch = _batch(next, endings)
    _end(batch)
    replies = batch.replies()
    assert replies.results == ["a", None, "c"]
    assert isinstance(replies.failures[1], StopIteration)


def test_each_call_of_a_batch_has_its_own_time() -> None:
    """Its caller gives up when none was begun for as long as one may take; a call that begins later has a later deadline than one before it."""
    begun: list[float | None] = []
    batch: ThreadBatch

    def look(wait: bool) -> None:
        begun.append(get_deadline())
        if wait:
            batch._until = 0.0  # as if it had been long ago
            batch.expire()

    batch = _batch(look, [False, True, False, False])
    batch.give_each(1000.0)
    assert batch.look == 10.0
    before = time.monotonic()
    _end(batch)
    first, second, third, last = begun
    assert first is not None
    assert third is not None
    assert before + 1000.0 <= first == second < third == last
    assert before < batch.deadline < third
    given_up = []
    for _ in range(2):  # calls were begun before the first of these looks, and none before the second
        batch._until = 0.0
        batch.expire()
        given_up.append(batch._expired)
    assert given_up == [False, True]


@pytest.mark.parametrize("kind", [SystemExit, _Unprintable])
def test_an_exit_of_the_plugin_is_an_error(kind: type[BaseException]) -> None:
    """A plugin that wants to end the program ends its call, no more, also when its wish cannot be printed; so in a batch."""

    def leave() -> None:
        raise kind(3)

    call = _call(leave)
    _end(call)
    assert isinstance(call.error, RemoteError)
    assert kind.__name__ in str(call.error)
    assert "in leave" in call.error.traceback
    batch = _batch(leave)
    batch.run()
    [failure] = batch.replies().failures.values()
    assert isinstance(failure, RemoteError)
    assert kind.__name__ in str(failure)


def test_a_refused_call_says_so() -> None:
    """What never ran is a PluginUnloaded."""
    call = _call(_never)
    call.refuse()
    call.wait()
    assert isinstance(call.error, PluginUnloaded)


def test_who_is_expired_gives_up() -> None:
    """The deadline ends the wait; an outcome that is there all the same counts."""
    call = _call()
    threading.Timer(0.02, call.expire).start()
    with pytest.raises(MailboxTimeout):
        call.wait()
    in_time = _call(lambda: "in time")
    _end(in_time)
    in_time.expire()
    in_time.wait()
    assert in_time.result == "in time"


def test_jobs_run_on_the_waiting_thread_in_order() -> None:
    """Nested calls run where the outer call is blocked, first come, first served; one may bring another."""
    call = _call()
    ran: list[tuple[int, int]] = []

    def run(number: int) -> None:
        ran.append((number, threading.get_ident()))
        if number == 2:
            assert call.post(Job(lambda: (run(3), _end(call)), _never))

    for number in range(3):
        assert call.post(Job(lambda number=number: run(number), _never))  # type: ignore[misc]  # a default binds the loop's value
    call.wait()
    assert ran == [(number, threading.get_ident()) for number in range(4)]


def test_after_the_wait_no_job_is_taken() -> None:
    """A job that came too late is refused."""
    call = _call()
    _end(call)
    call.wait()
    assert not call.post(Job(_never, _never))


def test_a_job_that_raises_ends_the_wait() -> None:
    """Ctrl-C in a nested call reaches the caller; later jobs are abandoned."""
    call = _call()
    abandoned: list[int] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    call.post(Job(interrupt, _never))
    call.post(Job(_never, lambda: abandoned.append(1)))
    with pytest.raises(KeyboardInterrupt):
        call.wait()
    assert abandoned == [1]


@pytest.mark.usefixtures("fast_switching")
def test_every_accepted_job_is_run_or_abandoned() -> None:
    """Posts race with the end of the wait: each job ends in exactly one of run, abandoned, refused."""
    for _ in range(200):
        call = _call()
        fates: list[str] = []

        def act(number: int, call: ThreadCall = call, fates: list[str] = fates) -> None:
            if number == 0:
                _end(call)
            elif number == 1:
                call.wait()
            elif not call.post(Job(lambda: fates.append("run"), lambda: fates.append("abandoned"))):
                fates.append("refused")

        in_threads(5, act)
        assert len(fates) == 3
