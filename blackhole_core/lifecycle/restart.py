"""Whether and when a plugin that died is started again. Pure.

OTP's rule: at most ``intensity`` restarts within any ``period`` seconds, then the plugin is given up. Each restart within the
period waits longer than the one before it: the first is immediate, then ``delay``, doubled each time, up to ``max_delay``. A
plugin that lived longer than the period begins from the start.

A failure that the same code will repeat, whatever the weather, is not retried at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

__all__ = ["GiveUp", "Restart", "RestartPolicy", "decide", "within_period"]

#: Doublings after which every delay has reached any sensible ``max_delay``; a bound, so that a large intensity does not overflow.
_DOUBLINGS: Final = 64


@attrs.frozen
class RestartPolicy:
    """How much dying is too much."""

    intensity: int = 5  #: restarts within the period; a deploy that flaps a few times recovers, a crash loop ends in seconds
    period: float = 60.0  #: seconds
    delay: float = 0.1  #: seconds before the second restart in a period; the first is immediate
    max_delay: float = 10.0  #: seconds

    def __attrs_post_init__(self) -> None:
        if self.intensity < 0 or self.period <= 0 or self.delay < 0 or self.max_delay < self.delay:
            raise ValueError(f"a restart policy needs intensity >= 0, period > 0 and 0 <= delay <= max_delay, got {self}")


@attrs.frozen
class Restart:
    """Start it again after ``delay`` seconds; it is restart number ``attempt`` of the period."""

    delay: float
    attempt: int


@attrs.frozen
class GiveUp:
    """Do not start it again; ``reason`` is a sentence."""

    reason: str


def within_period(restarts: Sequence[float], now: float, policy: RestartPolicy) -> tuple[float, ...]:
    """Return those of ``restarts`` that still count at ``now``."""
    return tuple(instant for instant in restarts if now - instant <= policy.period)


def decide(restarts: Sequence[float], now: float, policy: RestartPolicy, error: BaseException | None = None) -> Restart | GiveUp:
    """Decide after a death at ``now``.

    ``restarts`` are the instants for which earlier restarts were decided (the death plus its delay), on the clock of ``now``. ``error`` is why the
    last attempt to start it failed, None when it died after it had started.
    """
    if isinstance(error, ImportError | SyntaxError):
        return GiveUp("its code cannot be imported, which no restart changes")
    recent = len(within_period(restarts, now, policy))
    if recent >= policy.intensity:
        return GiveUp(f"it died again after {recent} restarts within {policy.period:g} s, at most {policy.intensity} are allowed")
    doublings = min(recent - 1, _DOUBLINGS)
    return Restart(0.0 if recent == 0 else min(policy.max_delay, policy.delay * 2**doublings), recent + 1)
