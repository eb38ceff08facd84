"""Hold a share of the processor by stopping: how long a worker that used too much must rest. A value; time comes in as an argument.

For where the kernel does not hold the share. A worker that does little is never stopped; one that spins is stopped for the rest of each turn. What it
did not use it may use later, but only a little of it.
"""

from __future__ import annotations

from typing import Final, Self

import attrs

__all__ = ["Duty"]

#: Seconds whose share may be saved up while a worker does nothing: one period of the kernel's own control.
_SAVED: Final = 0.1
#: Seconds: the shortest rest worth the signals, and the shortest turn between two looks. Shorter ones cost more than they regulate.
_LEAST: Final = 0.01
#: Seconds: the longest turn between two looks at a worker that does nothing.
_IDLE: Final = 0.05
#: Seconds: the longest rest without a look, so that a worker with a small share still answers its host.
_LONGEST_REST: Final = 1.0


@attrs.frozen
class Duty:
    """``share`` is of one core. ``level`` is the processor time it may still use, below 0 what it must rest for; seconds."""

    share: float = attrs.field(validator=attrs.validators.gt(0))
    used: float  #: processor time at ``at``, seconds
    at: float  #: seconds of a monotonic clock
    level: float = 0.0

    def looked(self, used: float, now: float) -> Self:
        """Return it after a look: ``used`` seconds of processor time so far. A process that ended takes its time with it: less counts as none."""
        gained = self.share * max(0.0, now - self.at)
        level = min(self.share * _SAVED, self.level + gained - max(0.0, used - self.used))
        return attrs.evolve(self, used=used, at=now, level=level)

    @property
    def rest(self) -> float:
        """Seconds that it must be stopped from now on, 0 when it may run."""
        seconds = -self.level / self.share
        return 0.0 if seconds < _LEAST else min(seconds, _LONGEST_REST)

    @property
    def turn(self) -> float:
        """Seconds until one should look again, when it runs."""
        return _IDLE if self.level >= self.share * _SAVED else _LEAST
