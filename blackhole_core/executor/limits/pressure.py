"""When a worker has to let everyone else go first: while it wants more of the processor than its limit. A value; what was measured comes in.

A limit bounds how much a worker gets, not when. One that wants more uses up its share of each of the kernel's periods as fast as it can, on all processors at once, and meanwhile who wakes up
beside it waits for milliseconds, until the scheduler thinks that its turn is over. So for as long as it is held back again and again it runs only when nobody else wants to.
"""

from __future__ import annotations

from typing import Final, Self

import attrs

__all__ = ["Pressure"]

#: Seconds between two looks at a worker that runs: a few of the kernel's periods, and one look is 50 µs.
_LOOKS: Final = 0.25
#: Seconds between two looks at a worker that does nothing, at most.
_IDLE_LOOKS: Final = 2.0
#: Seconds of processor time between two looks that are nothing: an answer to a sign of life.
_NOTHING: Final = 0.001


@attrs.frozen
class Pressure:
    """What the last look found: ``throttled`` periods in which it was held back, and ``used`` seconds of processor time, both so far."""

    throttled: int
    used: float
    yields: bool = False  #: whether it runs after everyone else from now on
    pause: float = _LOOKS  #: seconds until one should look again

    def looked(self, throttled: int, used: float) -> Self:
        """Return it after another look. It yields when it was held back since the last one, and no longer."""
        idle = used - self.used < _NOTHING
        pause = min(2 * self.pause, _IDLE_LOOKS) if idle else _LOOKS
        return attrs.evolve(self, throttled=throttled, used=used, yields=throttled > self.throttled, pause=pause)
