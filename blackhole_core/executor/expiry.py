"""Waking callers whose deadline passed.

A caller that sleeps on a :class:`~blackhole_core.executor.bell.Bell` does not time its own sleep: that would cost each call a second
system call. One alarm for all of them costs a call two steps on a set, because a new deadline is nearly always later than the alarm
that is set already.

Invariant, kept under ``_lock`` where ``_alarms`` changes: for every waiting call there is an alarm at its deadline or before. So an
alarm may come too early; who is looked at then and has time left gets another one.
"""

from __future__ import annotations

import bisect
import math
import threading
import time
from typing import Protocol

from blackhole_core.executor.timers import Timer, Timers

__all__ = ["Expiring", "Expiry"]


class Expiring(Protocol):
    """A call whose caller sleeps until it is answered."""

    deadline: float  #: ``time.monotonic()``

    def expire(self) -> None:
        """Wake the caller and have it give up. Called from the timers' thread; must not block."""


class Expiry:
    """The waiting calls of one runner."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._lock = threading.RLock()  # re-entrant: a finaliser may make a call while this thread sets an alarm
        self._alarms: list[Timer] = []  # by ``due``
        self._earliest = math.inf
        #: Calls that are to be expired at their deadline; a call that ended is to be discarded.
        self.waiting: set[Expiring] = set()

    def add(self, call: Expiring) -> None:
        """Have ``call`` expired at its deadline, unless it is discarded before."""
        self.waiting.add(call)
        if call.deadline < self._earliest:
            self._set_alarm(call.deadline)

    def _set_alarm(self, instant: float) -> None:
        with self._lock:
            if instant < self._earliest:
                alarm = self._timers.after(max(0.0, instant - time.monotonic()), self._look)
                bisect.insort(self._alarms, alarm, key=_due)
                self._earliest = self._alarms[0].due

    def close(self) -> None:
        """Forget the alarms, unless there are callers left who wait for a call that goes on by itself."""
        with self._lock:
            if not self.waiting:
                while self._alarms:
                    self._alarms.pop().cancel()
                self._earliest = math.inf

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            del self._alarms[: bisect.bisect_right(self._alarms, now, key=_due)]
            self._earliest = self._alarms[0].due if self._alarms else math.inf
        # From here on whoever joins sets an alarm; who joined before is in the copy.
        waiting = self.waiting.copy()
        for call in waiting:
            if call.deadline <= now:
                call.expire()
        later = min((call.deadline for call in waiting if call.deadline > now), default=math.inf)
        if later < self._earliest:
            self._set_alarm(later)


def _due(alarm: Timer) -> float:
    return alarm.due
