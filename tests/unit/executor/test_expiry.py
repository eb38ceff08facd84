"""Callers are woken at their deadlines, by one alarm for all of them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator

import pytest

from blackhole_core.executor.expiry import Expiry
from blackhole_core.executor.timers import Timer, Timers
from tests.stage import eventually, in_threads


class _Call:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.expired_at: float | None = None

    def expire(self) -> None:
        self.expired_at = time.monotonic()


class _ByHand(Timers):
    """Alarms that come when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.alarms: list[Timer] = []

    def after(self, seconds: float, action: Callable[[], object]) -> Timer:
        self.alarms.append(Timer(time.monotonic() + seconds, action))
        return self.alarms[-1]

    def ring(self) -> None:
        """Let the earliest one come."""
        alarm = self.alarms.pop(0)
        assert alarm.action is not None
        alarm.action()


@pytest.fixture
def timers() -> Iterator[Timers]:
    timers = Timers()
    yield timers
    timers.close()


def _join(expiry: Expiry, call: _Call) -> _Call:
    expiry.add(call)
    return call


def test_each_is_expired_at_its_deadline(timers: Timers) -> None:
    """Neither before nor never, in whatever order the deadlines come; one that is over already is expired at once."""
    expiry = Expiry(timers)
    now = time.monotonic()
    calls = [_join(expiry, _Call(now + seconds)) for seconds in (0.05, 0.02, 0.08, -1.0, 0.02)]
    assert eventually(lambda: all(call.expired_at for call in calls))
    assert all(call.expired_at is not None and call.expired_at >= call.deadline for call in calls)


def test_who_was_answered_or_has_time_is_left_alone() -> None:
    """A discarded call and one without end are not expired, when another one is."""
    timers = _ByHand()
    expiry, now = Expiry(timers), time.monotonic()
    answered, endless, late = (_join(expiry, _Call(deadline)) for deadline in (now, math.inf, now))
    expiry.waiting.discard(answered)
    timers.ring()
    assert late.expired_at
    assert (answered.expired_at, endless.expired_at) == (None, None)


def test_a_deadline_that_moved_is_kept() -> None:
    """Who gets more time before the alarm gets another alarm."""
    timers = _ByHand()
    expiry = Expiry(timers)
    call = _join(expiry, _Call(time.monotonic()))
    call.deadline += 300
    timers.ring()
    assert call.expired_at is None
    [alarm] = timers.alarms
    assert alarm.due > call.deadline - 1
    call.deadline = time.monotonic()
    timers.ring()
    assert call.expired_at


def test_far_deadlines_set_one_alarm(timers: Timers) -> None:
    """A call whose deadline is later than the alarm costs no alarm, also when nearer ones came and went between."""
    expiry = Expiry(timers)
    for _ in range(5):
        expiry.waiting.discard(_join(expiry, _Call(time.monotonic() + 300)))
        near = _join(expiry, _Call(time.monotonic() + 0.01))
        assert eventually(lambda near=near: near.expired_at)  # type: ignore[misc]  # a default binds the loop's value
        expiry.waiting.discard(near)
    assert len(expiry._alarms) == 1


def test_closing_forgets_the_alarms_nobody_needs(timers: Timers) -> None:
    """A stopped runner leaves no alarm, unless somebody still waits."""
    expiry = Expiry(timers)
    call = _join(expiry, _Call(time.monotonic() + 0.05))
    expiry.close()
    assert eventually(lambda: call.expired_at)
    expiry.waiting.discard(call)
    _join(expiry, _Call(time.monotonic() + 300))
    expiry.waiting.clear()
    expiry.close()
    assert expiry._alarms == []


@pytest.mark.usefixtures("fast_switching")
def test_no_deadline_is_missed_among_many_threads(timers: Timers) -> None:
    """Joining races with the alarm: every call that is not answered is expired."""
    expiry = Expiry(timers)
    order = random.Random(0)
    deadlines = [[order.uniform(0.0, 0.05) for _ in range(50)] for _ in range(6)]
    calls = in_threads(6, lambda number: [_join(expiry, _Call(time.monotonic() + seconds)) for seconds in deadlines[number]])
    assert eventually(lambda: all(call.expired_at for some in calls for call in some))
