"""Durations in buckets that grow with them: bounded memory, and the same relative precision for 1 µs and for 100 s.

A bucket is an eighth of an octave of ticks of 8 ns: [8, 9), [9, 10), …, [15, 16), [16, 18), [18, 20), … ticks. So the middle of a bucket is
within 6.25 % of everything in it; below 64 ns, where the clock's own noise is more than that, buckets are 8 ns wide. That is the layout
of Prometheus' native histograms and OpenTelemetry's exponential ones, with straight lines between the powers of two, which need no
logarithm.
"""

from __future__ import annotations

import threading
from typing import Final

from blackhole_core.hooks.counting import Counter, new_counter, steps

__all__ = ["BUCKETS", "Histogram", "bounds_of", "bucket_of"]

#: A tick as the power of two, nanoseconds.
_TICK: Final = 3
#: Buckets per octave, as the power of two: 8 keep a percentile within 6.25 %.
_FINE: Final = 3
#: Ticks; everything longer (73 minutes) falls into the last bucket.
_LONGEST: Final = 2 ** (42 - _TICK) - 1


def bucket_of(nanoseconds: int) -> int:
    """Return the bucket of a duration; negative ones (no clock should give them) count as 0."""
    ticks = min(max(nanoseconds >> _TICK, 0), _LONGEST)
    octave = max(0, ticks.bit_length() - _FINE - 1)
    return (octave << _FINE) + (ticks >> octave)


def bounds_of(bucket: int) -> tuple[int, int]:
    """Return the nanoseconds from which (inclusive) and below which a bucket holds durations."""
    octave = max(0, (bucket >> _FINE) - 1)
    low = (bucket - (octave << _FINE)) << octave
    return low << _TICK, (low + (1 << octave)) << _TICK


#: How many buckets there are. A histogram takes 2.5 kB, and 60 bytes for each bucket that was ever hit.
BUCKETS: Final = bucket_of(_LONGEST << _TICK) + 1

#: The bucket of every duration below 16 µs, by ticks: reading a list is five times as quick as computing.
_QUICK: Final = tuple(bucket_of(ticks << _TICK) for ticks in range(2048))


class Histogram:
    """Durations of one thing. :meth:`add` may run in any number of threads, and inside of itself; nothing is lost."""

    __slots__ = ("_counters", "_lock", "_locked", "longest")

    def __init__(self, *, locked: bool) -> None:
        self._counters: list[Counter | None] = [None] * BUCKETS
        self._lock = threading.RLock()  # re-entrant: a finaliser that runs inside may call a hook
        self._locked = locked
        #: Nanoseconds of the longest duration so far, 0 when there was none.
        self.longest = 0

    def add(self, nanoseconds: int) -> None:
        """Count one duration."""
        ticks = nanoseconds >> _TICK
        bucket = _QUICK[ticks] if 0 <= ticks < len(_QUICK) else bucket_of(nanoseconds)
        counter = self._counters[bucket]
        next(self._first(bucket) if counter is None else counter)
        if nanoseconds > self.longest:  # of n durations in no order, some ln(n) are
            with self._lock:
                self.longest = max(self.longest, nanoseconds)

    def _first(self, bucket: int) -> Counter:
        fresh = new_counter(locked=self._locked)
        with self._lock:
            counter = self._counters[bucket]  # another thread, or a finaliser of this one, may have been quicker
            if counter is None:
                counter = self._counters[bucket] = fresh
            return counter

    def counts(self) -> dict[int, int]:
        """Return how many durations lie in each bucket that has any, ascending."""
        return {bucket: steps(counter) for bucket, counter in enumerate(self._counters) if counter is not None}
