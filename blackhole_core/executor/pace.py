"""How many calls one request to a worker should carry. Pure.

Quick calls are sent together, because a request costs more than they do. Slow ones are not: a request is answered as a whole, so what is in it waits for
the slowest, and is uncertain as a whole when the worker dies or the deadline passes.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Pace"]

#: Seconds that the calls of one request should take together: some twenty times what a request costs to a worker that sleeps, and no long wait for a drain.
_TOGETHER: Final = 0.002
#: Calls in one request, at most.
_MOST: Final = 256
#: Weight of the latest request in the mean.
_WEIGHT: Final = 0.25


class Pace:
    """The mean time of the calls of one implementation, and what follows from it. Not locked: a lost update does no harm."""

    __slots__ = ("_mean",)

    def __init__(self) -> None:
        self._mean = _TOGETHER  # seconds per call; nothing is known yet, so the first one goes alone

    def count(self) -> int:
        """Return how many calls to send with one request."""
        return max(1, min(_MOST, int(_TOGETHER / self._mean)))

    def took(self, calls: int, seconds: float) -> None:
        """Learn that so many calls took so long, the request and its answer included."""
        each = max(seconds / calls, 1e-7)
        # Slower is believed at once: one request too many with slow calls costs more than one too many with quick ones.
        self._mean = each if each > self._mean else self._mean + _WEIGHT * (each - self._mean)
