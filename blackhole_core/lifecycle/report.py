"""What a swap did, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["PHASES", "SwapReport"]

#: The six phases of a swap in the order in which they run. The new version is loaded before the old one is asked for its state:
#: nothing slow happens while calls wait.
PHASES = ("prepare", "load", "export", "import", "switch", "cleanup")


@attrs.frozen
class SwapReport:
    """A swap that succeeded, or that had nothing to do (``unchanged``). All times are seconds.

    ``gate_seconds`` is how long new calls were held back, ``drain_seconds`` the part of it in which calls that had begun ended, ``migrate_seconds``
    the part in which state was migrated. ``state_bytes`` is the size of the state handed over, None for a stateless swap. ``phases`` maps the
    six phases to their times; drain is part of ``export``, migrate of ``import``. ``retiring`` tells that calls are still running on the old version, which
    ends when they do. ``state_lost`` is a sentence when state could not be handed over: what became of it.
    ``rolled_back`` is why the host went back to the version before by itself, None where it was told to.
    ``leaks`` has a sentence for each thing that the old version left behind in the host and that keeps its code alive; None when that is not known: it is
    ``retiring``, or the host is too busy, or too large, for the collection that would tell. The event ``plugin.leaked`` tells within a minute, if there is something.
    ``also`` has the reports of the plugins that were swapped in the same step, because they depend on this one.
    """

    plugin: str
    from_version: str | None
    to_version: str | None
    generation: int
    ok: bool = True
    unchanged: bool = False
    gate_seconds: float = 0.0
    drain_seconds: float = 0.0
    migrate_seconds: float = 0.0
    state_bytes: int | None = None
    phases: Mapping[str, float] = attrs.field(factory=dict)
    retiring: bool = False
    state_lost: str | None = None
    rolled_back: str | None = None
    leaks: tuple[str, ...] | None = None
    also: tuple[SwapReport, ...] = ()

    @property
    def status(self) -> str:
        """``unchanged``, ``rolled_back`` (by the host itself) or ``swapped``."""
        return "unchanged" if self.unchanged else "swapped" if self.rolled_back is None else "rolled_back"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        return {**attrs.asdict(self), "phases": dict(self.phases), "status": self.status}

    def __str__(self) -> str:
        if self.unchanged:
            return f"{self.plugin} {self.from_version}: nothing to do, this version and code serve already"
        state = "stateless" if self.state_bytes is None else f"{self.state_bytes} bytes of state"
        left = f", {len(self.leaks)} left behind by {self.from_version}" if self.leaks else ""
        return f"{self.plugin} {self.from_version} → {self.to_version}, gate shut {self.gate_seconds * 1000:.1f} ms, {state}{left}"
