"""What the supervisor knows of one plugin, whatever version runs."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from blackhole_core.ids import Isolation
from blackhole_core.lifecycle.claim import Claim
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.phase import Phase
from blackhole_core.lifecycle.settings import Settings
from blackhole_core.lifecycle.turnstile import Turnstile
from blackhole_core.registry.candidate import Candidate

__all__ = ["Member", "Previous", "Replaced"]


@attrs.frozen
class Previous:
    """The version that served before the last swap, for a rollback. ``snapshot`` is the id of the state it handed over."""

    candidate: Candidate
    isolation: Isolation
    snapshot: str | None


@attrs.frozen
class Replaced:
    """What served before a swap that can still be undone, and how it stood then."""

    instance: Instance
    phase: Phase
    error: BaseException | None
    attempts: tuple[float, ...]
    probation: float | None
    kept: list[Callable[[], object]] = attrs.field(factory=list)  #: what became of it meanwhile, and happens when it is put back; in order


@attrs.define(eq=False)
class Member:
    """One plugin by name. Owned by the supervisor, changed under its lock."""

    name: str
    settings: Settings
    phase: Phase = Phase.FOUND
    candidate: Candidate | None = None
    instance: Instance | None = None
    started: int = 0  #: versions started so far; numbers the generations
    previous: Previous | None = None
    replaced: Replaced | None = None  #: while a swap has switched and can still be undone
    error: BaseException | None = None
    claim: Claim | None = None  #: of the operation that has it to itself
    isolation: Isolation | None = None  #: the level that was asked for when it was loaded or swapped, over configuration and manifest
    attempts: tuple[float, ...] = ()  #: when it was, or will be, started again, seconds of the supervisor's clock; those that still count
    restarts: int = 0
    probation: float | None = None  #: until when what serves is on probation, on the supervisor's clock; None: it is not
    turnstile: Turnstile = attrs.field(factory=Turnstile)

    @property
    def label(self) -> str:
        """The printed id, of what runs or else of what was last tried."""
        instance = self.instance  # once: another thread may unload it between two looks
        if instance is not None:
            return str(instance.id)
        return str(self.candidate.id) if self.candidate is not None else self.name
