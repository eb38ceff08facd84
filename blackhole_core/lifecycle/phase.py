"""Where a plugin stands in its life. Pure: the table is the machine.

* FOUND: its declaration was read; ADMITTED: it may be started (allowed, dependencies there).
* STARTING: its code is being brought up, the first time or after a crash; calls wait.
* RUNNING: it serves. DRAINING: it serves what is begun, new calls wait at the gate.
* STOPPED: it was unloaded. FAILED: it could not be started and may be tried again.
* BROKEN: it failed more often than its restart intensity allows; only an operator starts it again, by a swap or a reload.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["TRANSITIONS", "IllegalTransition", "Phase", "advance"]


class Phase(enum.StrEnum):
    """The phases of a plugin. Never called "state": that word is the plugin's own data."""

    FOUND = "found"
    ADMITTED = "admitted"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"
    BROKEN = "broken"


#: From each phase, the phases that may follow.
TRANSITIONS: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.FOUND: frozenset({Phase.ADMITTED, Phase.FAILED}),
    Phase.ADMITTED: frozenset({Phase.STARTING, Phase.FAILED}),
    Phase.STARTING: frozenset({Phase.RUNNING, Phase.FAILED, Phase.BROKEN, Phase.STOPPED}),
    Phase.RUNNING: frozenset(
        {Phase.STARTING, Phase.DRAINING, Phase.BROKEN, Phase.STOPPED, Phase.FAILED}
    ),  # the last: its load was interrupted
    Phase.DRAINING: frozenset({Phase.RUNNING, Phase.STARTING, Phase.STOPPED, Phase.BROKEN}),
    Phase.STOPPED: frozenset({Phase.FOUND}),
    Phase.FAILED: frozenset({Phase.FOUND, Phase.STOPPED}),
    Phase.BROKEN: frozenset({Phase.FOUND, Phase.STOPPED, Phase.RUNNING}),
}


class IllegalTransition(RuntimeError):
    """A step the table does not have: a fault of this library, never of a plugin."""


def advance(current: Phase, to: Phase) -> Phase:
    """Return ``to`` if it may follow ``current``.

    :raises IllegalTransition: it may not.
    """
    if to not in TRANSITIONS[current]:
        raise IllegalTransition(f"a plugin cannot go from {current} to {to}")
    return to
