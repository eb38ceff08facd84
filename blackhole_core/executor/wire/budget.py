"""What a worker may say unasked, per second. Pure: the time comes in as an argument.

Answers are asked for, one for each request. Log records, lines of output and calls to the host are not, and a worker that makes nothing but these would
keep its host busy. Each costs a unit from a bucket that fills at a fixed rate: what is logged from one, what else comes through the channel from another. Who has
overdrawn the first has its log thrown away unread and counted; who has overdrawn the second is read no further for a moment. So the host does a bounded amount of work
for each worker, and the worker is slowed, never blocked: the rest ends by itself, whatever the host's own calls wait for.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BURST", "LOG_BURST", "LOG_RATE", "RATE", "REST", "Budget"]

#: Units per second, and at once: calls to the host, pieces of messages, records that are thrown away. One costs the host some 5 µs, so this is a tenth of one core.
RATE: Final = 20_000.0
BURST: Final = 20_000.0
#: Units per second of what is logged: lines and records, each some 15 µs with a handler of ``logging``, so a thirtieth of the interpreter, which everybody shares. (journald lets a
#: service log 10,000 in 30 s.)
LOG_RATE: Final = 2_000.0
#: Units of it at once: a test run or a storm of tracebacks, and what the log's queue holds.
LOG_BURST: Final = 10_000.0
#: Part of the bucket that must have filled before one who has overdrawn is heard again: else it would be heard a little all the time, and slowed a lot.
_AGAIN: Final = 0.1
#: Part of the bucket below which there is little left.
_LOW: Final = 0.75
#: Seconds for which one who has overdrawn is not read, and then only a little: 10 MB a second get through.
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

    @property
    def low(self) -> bool:
        """Whether much of a bucket was used at once, as far as was counted."""
        return self._left < self._burst * _LOW

    def overdrawn(self, now: float) -> bool:
        """Whether more was taken than there was, up to ``now``."""
        if self._left > self._wanted:
            return False  # what came in since need not be counted
        self._left = min(self._left + (now - self._at) * self._rate, self._burst)
        self._at = now
        overdrawn = self._left <= self._wanted
        self._wanted = self._burst * _AGAIN if overdrawn else 0.0
        return overdrawn
