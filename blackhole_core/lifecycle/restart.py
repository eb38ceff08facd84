"""Whether and when a plugin that died is started again. Pure.

OTP's rule: at most ``intensity`` restarts within ``period`` seconds, then the plugin is given up. In between, each restart
within the period waits longer than the one before it: the first is immediate, then ``delay``, doubled each time, up to
``max_delay``. A plugin that lived longer than the period begins from the start.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

__all__ = ["GiveUp", "Restart", "RestartPolicy", "decide"]


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


def decide(deaths: Sequence[float], now: float, policy: RestartPolicy) -> Restart | GiveUp:
    """Decide after a death. ``deaths`` are the times of all deaths so far, this one included; ``now`` is on the same clock."""
    recent = sum(1 for death in deaths if now - death <= policy.period)
    if recent > policy.intensity:
        return GiveUp(f"it died {recent} times within {policy.period:g} s, more than {policy.intensity} restarts are not allowed")
    delay = 0.0 if recent <= 1 else min(policy.max_delay, policy.delay * 2 ** (recent - 2))
    return Restart(delay, recent)
