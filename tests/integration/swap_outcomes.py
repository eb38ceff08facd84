"""What serves after a fault in a phase of a swap: the table that the tests assert and docs/explanation/swap.md shows.

The point of a phase is its event ``swap.phase``, which is told on the swapping thread when the phase begins; the product knows nothing of faults.
"""

from __future__ import annotations

from typing import Final

from blackhole_core.lifecycle.report import PHASES

__all__ = ["FAULTS", "NEW", "OLD", "OUTCOMES", "PHASES", "points", "rendered"]

#: "either": the death may be seen before the old version is asked for its state, or after.
OLD, NEW, EITHER, NONE = "old", "new", "old or new", "none there yet"

FAULTS: Final = ("old worker killed", "new worker killed", "host killed", "exception", "disk full", "delay")

#: phase → what serves, in the order of :data:`FAULTS`. After a killed host: what the next host may load, each with whole state.
_TABLE: Final[dict[str, tuple[str, ...]]] = {
    "prepare": (EITHER, NONE, EITHER, OLD, OLD, NEW),
    "load": (EITHER, NONE, EITHER, OLD, OLD, NEW),
    "export": (EITHER, OLD, EITHER, OLD, OLD, NEW),
    "import": (NEW, OLD, EITHER, OLD, OLD, NEW),
    "switch": (NEW, OLD, EITHER, OLD, OLD, NEW),
    "cleanup": (NEW, NEW, EITHER, NEW, NEW, NEW),
}
OUTCOMES: Final = {(phase, fault): outcome for phase, row in _TABLE.items() for fault, outcome in zip(FAULTS, row, strict=True)}


def points(fault: str) -> list[str]:
    """Return the phases in which there can be such a fault, in order."""
    return [phase for phase in PHASES if OUTCOMES[phase, fault] != NONE]


def rendered() -> str:
    """Return the table in Markdown."""
    rows = [["phase", *FAULTS], ["---"] * (1 + len(FAULTS))]
    rows += [[f"`{phase}`", *(OUTCOMES[phase, fault] for fault in FAULTS)] for phase in PHASES]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
