"""Going back by itself from a new version that dies soon after its swap.

A version is on probation for so many seconds after the switch. When its worker ends in that time, it is started again as always, so that callers are answered, and meanwhile
the version before it is swapped in with the newest state: what the new one hands over, migrated back, or, where it cannot be asked or knows no way back, what is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from blackhole_core.errors import BlackholeError, SwapFailed, SwapInProgress
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.report import SwapReport

__all__ = ["Outdated", "go_back"]

#: Times that it is tried: the new version may die once more while it hands over, and be given up by the next time.
_ATTEMPTS: Final = 5
#: Seconds between two of them.
_PAUSE: Final = 0.2


class Outdated(Exception):
    """Another version serves by now than the one that is to be replaced."""


def go_back(member: Member, generation: int, reason: str, rollback: Callable[[], SwapReport], emit: Callable[..., object]) -> None:
    """Swap the version before back in, by ``rollback``, unless instance ``generation`` was replaced by then; tell what came of it."""
    bad = member.label
    for attempt in range(1, _ATTEMPTS + 1):
        serving = member.instance
        if serving is None or serving.generation != generation:
            return
        try:
            report = rollback()
        except BlackholeError as error:
            if isinstance(error, SwapFailed) and isinstance(error.cause, Outdated):
                return
            if attempt == _ATTEMPTS or isinstance(error, SwapInProgress):
                emit("swap.rollback_failed", member.name, reason=reason, error=f"{type(error).__name__}: {error}")
                return
            time.sleep(_PAUSE)
        else:
            emit("swap.rolled_back", member.name, bad=bad, reason=reason, report=report.as_dict())
            return
