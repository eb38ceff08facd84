"""When calls to a plugin that keeps failing are refused untried. Pure.

A circuit breaker is *closed* while the plugin is well. ``failures`` failures within ``period`` seconds *open* it: calls are refused. After ``open`` seconds it is
*half-open*: one call is let through on trial. When that is answered the breaker is closed again, when it fails it is open again.

A trial that never ends would keep it half-open for ever; after another ``open`` seconds the next call is the trial.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

__all__ = ["Breaker", "BreakerPolicy", "Standing", "after_call", "before_call"]

Standing: TypeAlias = Literal["closed", "open", "half-open"]


@attrs.frozen
class BreakerPolicy:
    """How much failing is too much, and for how long."""

    failures: int = 5  #: within the period; one that fails for a moment stays reachable
    period: float = 60.0  #: seconds
    open: float = 30.0  #: seconds for which calls are refused before one is tried

    def __attrs_post_init__(self) -> None:
        if self.failures < 1 or self.period <= 0 or self.open <= 0:
            raise ValueError(f"a breaker needs failures >= 1, period > 0 and open > 0, got {self}")


@attrs.frozen
class Breaker:
    """One plugin's. ``failures`` are the instants of those that may still count while it is closed, ``opened`` when it opened last, ``trial`` when
    the call was let through that is on trial; all seconds of one clock that never goes back.
    """

    failures: tuple[float, ...] = ()
    opened: float | None = None
    trial: float | None = None

    def standing(self, now: float, policy: BreakerPolicy) -> Standing:
        """Return how it stands at ``now``."""
        if self.opened is None:
            return "closed"
        return "open" if now < self.opened + policy.open else "half-open"


def before_call(breaker: Breaker, now: float, policy: BreakerPolicy) -> tuple[Breaker, float | None]:
    """Ask for a call at ``now``: return the breaker after that, and None when it may be made, else the seconds after which asking again is worth it."""
    if breaker.opened is None:
        return breaker, None
    waits_for = max(breaker.opened, breaker.trial if breaker.trial is not None else breaker.opened)
    left = waits_for + policy.open - now
    return (breaker, left) if left > 0 else (attrs.evolve(breaker, trial=now), None)


def after_call(breaker: Breaker, now: float, policy: BreakerPolicy, *, begun: float, failed: bool | None) -> Breaker:
    """Return the breaker after a call that was let through at ``begun`` ended at ``now``.

    ``failed`` None: it was interrupted by its caller, which says nothing of the plugin.
    """
    if breaker.opened is None:
        if not failed:
            return breaker
        failures = (*(at for at in breaker.failures if now - at <= policy.period), now)[-policy.failures :]
        return Breaker(opened=now) if len(failures) == policy.failures else Breaker(failures)
    if breaker.trial != begun:
        return breaker  # it had begun before it opened, or is a trial that was given up
    if failed is None:
        return attrs.evolve(breaker, trial=None)
    return Breaker(opened=now) if failed else Breaker()
