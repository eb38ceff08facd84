"""A token bucket: how much may pass now, and when the rest may. A value; time comes in as an argument."""

from __future__ import annotations

from typing import Self

import attrs

__all__ = ["Bucket", "bandwidth"]

#: Seconds of the rate that may pass at once after a pause: long enough that a thread that is scheduled late loses nothing, short enough that
#: nobody sees a burst.
_BURST_SECONDS = 0.1
#: Bytes that must fit at once, however low the rate: one read of a relay. A smaller bucket could never let one pass.
_LEAST_BURST = 16 * 1024


@attrs.frozen
class Bucket:
    """``rate`` units run into it per second, at most ``size`` stay in it, ``level`` were there at ``at`` (seconds of a monotonic clock)."""

    rate: float = attrs.field(validator=attrs.validators.gt(0))
    size: float = attrs.field(validator=attrs.validators.gt(0))
    level: float
    at: float

    @classmethod
    def full(cls, rate: float, size: float, now: float) -> Self:
        """Return one that nothing was taken from yet."""
        return cls(rate, size, size, now)

    def filled(self, now: float) -> Self:
        """Return it as it is at ``now``; a clock that went back adds nothing."""
        return attrs.evolve(self, level=min(self.size, self.level + self.rate * max(0.0, now - self.at)), at=max(self.at, now))

    def take(self, wanted: float, now: float) -> tuple[float, Self]:
        """Return how much of ``wanted`` may pass now, and the bucket without it."""
        there = self.filled(now)
        granted = max(0.0, min(wanted, there.level))
        return granted, attrs.evolve(there, level=there.level - granted)

    def wait(self, wanted: float, now: float) -> float:
        """Return the seconds until ``wanted`` (or a full bucket, if that is less) may pass; 0 when it may now."""
        missing = min(wanted, self.size) - self.filled(now).level
        return max(0.0, missing / self.rate)


def bandwidth(mbps: float, now: float) -> Bucket:
    """Return the bucket, in bytes, of a limit in megabits per second."""
    rate = mbps * 1e6 / 8
    return Bucket.full(rate, max(_LEAST_BURST, rate * _BURST_SECONDS), now)
