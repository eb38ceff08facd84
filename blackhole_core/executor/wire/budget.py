"""What a worker may say unasked, per second. Pure: the time comes in as an argument.

Answers are asked for, one for each request. Log records, lines of output and calls to the host are not, and a worker that makes nothing but these would
keep its host busy. Each costs a unit from a bucket that fills at a fixed rate; who has overdrawn it is read no further for a moment, and what it wrote
to its log meanwhile is thrown away unread and counted. So the host does a bounded amount of work for each worker, and the worker is slowed, never blocked:
the rest ends by itself, whatever the host's own calls wait for.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BURST", "RATE", "REST", "Budget"]

#: Units per second: a record or line costs the host some 5 µs, so this is a tenth of one core.
RATE: Final = 20_000.0
#: Units that may be used at once: the longest burst of output of a test run or a traceback storm, twice what the log's queue holds.
BURST: Final = 20_000.0
#: Part of the bucket that must have filled before one who has overdrawn is heard again: else it would be heard a little all the time, and slowed a lot.
_AGAIN: Final = 0.1
#: Seconds for which one who has overdrawn is not read. Then a pipe of 1 MiB is full again, so 200 MB a second get through, at a tenth of a core.
REST: Final = 0.005


class Budget:
    """One worker's bucket. Not locked: who reads owns it."""

    __slots__ = ("_at", "_burst", "_left", "_rate", "_wanted")

    def __init__(self, now: float, *, rate: float = RATE, burst: float = BURST) -> None:
        self._rate: Final = rate
        self._burst: Final = burst
        self._left = burst
        self._wanted = 0.0  # units that must be there: none, or after it was overdrawn so many that it pays to go on
        self._at = now

    def spend(self, units: float) -> None:
        """Take units out; there need not be so many. The debt is bounded: who floods for an hour is not deaf for the next."""
        self._left = max(self._left - units, -self._burst)

    def overdrawn(self, now: float) -> bool:
        """Whether more was taken than there was, up to ``now``."""
        if self._left > self._wanted:
            return False  # what came in since need not be counted
        self._left = min(self._left + (now - self._at) * self._rate, self._burst)
        self._at = now
        overdrawn = self._left <= self._wanted
        self._wanted = self._burst * _AGAIN if overdrawn else 0.0
        return overdrawn
