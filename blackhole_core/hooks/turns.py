"""Which calls of a generated body are timed, and how many calls there were. Exact, with any number of threads in it.

Three ways to the same: :class:`EveryTurn` times each call; :class:`SkippingTurns` one in so many, and the others pass without
a Python function being called; :class:`LockedTurns` does that on interpreters where steps in C are not indivisible.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Final, Protocol

from blackhole_core.hooks.counting import new_counter, steps

__all__ = ["EveryTurn", "Laps", "LockedTurns", "SkippingTurns", "Turns", "skipped", "turns"]

#: So many calls are all timed at first.
_AT_FIRST: Final = 16

#: The clock at the begin of a call, with index -1, and after each step, with the index of the implementation; nanoseconds.
Laps = list[tuple[int, int]]


def skipped(calls: int, sample: int) -> int:
    """Return how many calls pass until the next is timed, after ``calls`` of them: none at first, then more and more, up to ``sample - 1``.

    So a hook that is seldom called has percentiles, too, and one that is called often does not pay for it.
    """
    return min(sample - 1, calls // _AT_FIRST)


class Turns(Protocol):
    """Counts calls and tells which of them are timed. The first is."""

    def turn(self) -> Laps | None:
        """Count a call; return the begin of its laps if it is to be timed."""

    def calls(self) -> int:
        """Return how many calls were counted."""

    def quiet(self, publish: Callable[[Iterator[None]], None]) -> Iterator[None]:
        """Return what counts the calls that do not come to :meth:`turn`; ``publish`` puts another one into its place."""


class EveryTurn:
    """Times each call."""

    def __init__(self, *, locked: bool) -> None:
        self._calls = new_counter(locked=locked)

    def turn(self) -> Laps:
        next(self._calls)
        return [(-1, time.perf_counter_ns())]

    def calls(self) -> int:
        return steps(self._calls)

    def quiet(self, publish: Callable[[Iterator[None]], None]) -> Iterator[None]:
        """Return what has ended: every call comes here."""
        return repeat(None, 0)


class LockedTurns:
    """Times one call in ``sample``; each takes a lock."""

    def __init__(self, sample: int) -> None:
        self._sample = sample
        self._lock = threading.RLock()  # re-entrant: a finaliser that runs inside may call the hook
        self._calls = 0
        self._due = 1

    def turn(self) -> Laps | None:
        with self._lock:
            self._calls += 1
            if self._calls < self._due:
                return None
            self._due = self._calls + 1 + skipped(self._calls, self._sample)
        return [(-1, time.perf_counter_ns())]

    def calls(self) -> int:
        return self._calls

    def quiet(self, publish: Callable[[Iterator[None]], None]) -> Iterator[None]:
        """Return what has ended: every call comes here."""
        return repeat(None, 0)


class SkippingTurns:
    """Times one call in ``sample``; only that one comes here.

    The others advance ``quiet``, an iterator that ends when the next call is due; the call that finds it ended comes here and puts a new
    one into its place. Invariant, under the lock: an iterator is replaced only when it has ended, and then it stays so. Therefore
    whoever still holds an old one is timed as well, and no step is forgotten.
    """

    def __init__(self, sample: int) -> None:
        self._sample = sample
        self._lock = threading.RLock()
        self._quiet = repeat(None, 0)
        self._publish: Callable[[Iterator[None]], None] | None = None
        self._counted = 0  # calls that came here, and the steps of every iterator before this one plus all those of this one

    def quiet(self, publish: Callable[[Iterator[None]], None]) -> Iterator[None]:
        self._publish = publish
        return self._quiet

    def turn(self) -> Laps:
        with self._lock:
            self._counted += 1
            ended = self._quiet
            if not operator.length_hint(ended):
                passing = skipped(self._counted, self._sample)
                fresh = repeat(None, passing)
                # A finaliser or signal handler of this thread may have got here first; between these lines none can run.
                if self._quiet is ended:
                    self._quiet = fresh
                    self._counted += passing
                    assert self._publish is not None
                    self._publish(fresh)
        return [(-1, time.perf_counter_ns())]

    def calls(self) -> int:
        with self._lock:
            counted, quiet = self._counted, self._quiet  # one instant, see above
            return counted - operator.length_hint(quiet)


def turns(sample: int, *, locked: bool) -> Turns:
    """Return the turns that suit."""
    if sample == 1:
        return EveryTurn(locked=locked)
    return LockedTurns(sample) if locked else SkippingTurns(sample)
