"""One thread calls functions later, in order, and ends with its owner."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from blackhole_core.executor.timers import Timers


@pytest.fixture
def timers() -> Iterator[Timers]:
    timers = Timers()
    yield timers
    timers.close()


def test_calls_come_when_they_are_due(timers: Timers) -> None:
    """The earlier due time comes first, equal ones in the order they were given."""
    called: list[int] = []
    done = threading.Event()
    timers.after(0.06, done.set)
    timers.after(0.04, lambda: called.append(3))
    for number in (1, 2):
        timers.after(0.0, lambda number=number: called.append(number))  # type: ignore[misc]  # a default binds the loop's value
    assert done.wait(10)
    assert called == [1, 2, 3]


def test_cancelled_calls_do_not_come(timers: Timers) -> None:
    """A cancelled call is never made; cancelling twice is once."""
    called: list[int] = []
    done = threading.Event()
    timer = timers.after(0.01, lambda: called.append(1))
    timer.cancel()
    timer.cancel()
    timers.after(0.03, done.set)
    assert done.wait(10)
    assert called == []


def test_a_call_that_raises_does_not_end_the_others(timers: Timers, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged with its traceback and the next call is made."""
    done = threading.Event()
    with caplog.at_level(logging.ERROR):
        timers.after(0, lambda: 1 // 0)
        timers.after(0.01, done.set)
        assert done.wait(10)
    assert "ZeroDivisionError" in caplog.text


def test_never_is_a_time(timers: Timers) -> None:
    """A timer that is due in infinity does not hurt those before it."""
    done = threading.Event()
    timers.after(float("inf"), lambda: None)
    timers.after(0.01, done.set)
    assert done.wait(10)


def test_after_close_nothing_is_called() -> None:
    """Closing drops what is pending, waits for what runs, and starts no thread again."""
    timers = Timers()
    called: list[int] = []
    began, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        go_on.wait(10)
        called.append(1)

    timers.after(0, slow)
    timers.after(0.05, lambda: called.append(2))
    assert began.wait(10)
    threading.Timer(0.05, go_on.set).start()
    timers.close()
    assert called == [1]
    timers.after(0, lambda: called.append(3))
    timers.close()
    assert called == [1]


def test_a_timer_may_close_its_own_thread() -> None:
    """Closing from inside a call does not wait for itself."""
    timers = Timers()
    done = threading.Event()
    timers.after(0, lambda: (timers.close(), done.set()))
    assert done.wait(10)


def test_the_first_call_for_which_there_is_no_thread_is_refused_and_the_next_one_is_not(
    timers: Timers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F19: what could not be promised is not made later behind the caller's back either."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    called: list[str] = []
    done = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            timers.after(0.0, lambda: called.append("refused"))
    timers.after(0.0, done.set)
    assert done.wait(10)
    assert not called
