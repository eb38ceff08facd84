"""When a worker has to stand back, so that those beside it do not wait for it: a value; what was measured comes in.

A limit bounds how much a worker gets, not what it costs others. One that wants more of the processor than its limit uses up its share of each of the kernel's periods as fast as it can,
on all processors at once, and meanwhile who wakes up beside it waits for milliseconds, until the scheduler thinks that its turn is over. So for as long as it is held back again and again it
*yields*: it runs only when nobody else wants to.

One that starts processes although it has as many as it may costs more than the time it uses: the kernel copies the whole process before it finds that there may be no more, which takes a millisecond
or two and is not interrupted for anyone. So for as long as it does that it is kept *short*: of the processor it gets next to nothing.
"""

from __future__ import annotations

from typing import Final, Self

import attrs

__all__ = ["SHORT", "Pressure"]

#: % of one core that a worker gets that is kept short: a hundredth, so that of a hundred calls beside it hardly one meets it.
SHORT: Final = 1.0
#: Seconds between two looks at a worker that runs: a few of the kernel's periods, and one look is 50 µs.
_LOOKS: Final = 0.25
#: Seconds between two looks at a worker that does nothing, at most.
_IDLE_LOOKS: Final = 1.0
#: Seconds of processor time between two looks that are nothing: an answer to a sign of life.
_NOTHING: Final = 0.001
#: Starts of processes, refused between two looks, that are no accident: forty a second.
_REFUSED: Final = 10
#: Looks without a refused one, after which a worker is kept short no longer. Even then it could have tried ten times.
_QUIET: Final = 8


@attrs.frozen
class Pressure:
    """What the last look found, so far: ``throttled`` periods in which it was held back, ``refused`` starts of processes, ``used`` seconds of processor time."""

    throttled: int
    refused: int
    used: float
    yields: bool = False  #: whether it runs after everyone else from now on
    short_for: int = 0  #: looks for which it is kept short, if nothing is refused in them
    pause: float = _LOOKS  #: seconds until one should look again

    @property
    def short(self) -> bool:
        """Whether it gets next to nothing of the processor from now on."""
        return self.short_for > 0

    def looked(self, throttled: int, refused: int, used: float) -> Self:
        """Return it after another look. It yields when it was held back since the last one, and no longer; it is kept short for some time after it was refused much."""
        idle = used - self.used < _NOTHING and not self.short
        pause = min(2 * self.pause, _IDLE_LOOKS) if idle else _LOOKS
        more = refused - self.refused
        short_for = _QUIET if more > (0 if self.short else _REFUSED) else max(0, self.short_for - 1)
        return attrs.evolve(
            self, throttled=throttled, refused=refused, used=used, yields=throttled > self.throttled, short_for=short_for, pause=pause
        )
