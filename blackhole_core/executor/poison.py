"""Which call it is that kills the workers of a plugin. Pure.

A call that was running when a worker died is a *suspect* of that death. A suspect of ``deaths`` deaths within ``period``, not one of which it has an alibi for, is
*convicted*: the very same call (hook and arguments) is not run any more. Two things are an alibi: that it was answered once since, and that another call is a suspect of as
many deaths, so that nobody can tell which of them it was.

What is kept is bounded, whatever callers and workers do.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Final

import attrs

__all__ = ["Fingerprint", "PoisonPolicy", "Quarantine", "after_answer", "after_death", "fingerprint", "recent"]

#: Deaths remembered, calls remembered of each, and calls convicted at once. A plugin that runs more calls side by side than this gives no evidence against any.
_MOST_DEATHS: Final = 64
_MOST_SUSPECTS: Final = 64
_MOST_CONVICTED: Final = 256


@attrs.frozen
class PoisonPolicy:
    """How many deaths convict a call."""

    deaths: int = 3  #: as many as chance seldom makes; below the five restarts that a plugin has, so that it outlives one bad call. 0: none is ever convicted
    period: float = 600.0  #: seconds; longer than the period of restarts, for a caller that tries again every minute


@attrs.frozen
class Fingerprint:
    """Names a call without keeping its arguments."""

    hook: str
    digest: bytes

    def __str__(self) -> str:
        return f"{self.hook}:{self.digest.hex()}"


@attrs.frozen
class Quarantine:
    """What is known of one instance: its deaths with their suspects, newest last, and who was convicted."""

    deaths: tuple[tuple[float, frozenset[Fingerprint]], ...] = ()
    convicted: tuple[Fingerprint, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to look out for."""
        return bool(self.deaths or self.convicted)

    def suspects(self, call: Fingerprint) -> bool:
        return any(call in suspects for _, suspects in self.deaths)


def fingerprint(hook: str, space: str, index: int, args: bytes) -> Fingerprint:
    """Return the fingerprint of a call; ``args`` as they are encoded, which is the same for the same arguments."""
    digest = hashlib.blake2b(f"{space}\0{hook}\0{index}\0".encode(), digest_size=16)
    digest.update(args)
    return Fingerprint(hook, digest.digest())


def recent(quarantine: Quarantine, now: float, policy: PoisonPolicy) -> Quarantine:
    """Return what still counts at ``now``."""
    return attrs.evolve(quarantine, deaths=tuple(death for death in quarantine.deaths if now - death[0] <= policy.period))


def after_death(
    quarantine: Quarantine, now: float, suspects: Iterable[Fingerprint], policy: PoisonPolicy
) -> tuple[Quarantine, Fingerprint | None]:
    """Take in a death at ``now`` (seconds of any clock); return what is known from now on, and who was convicted by it, if anybody."""
    if not policy.deaths:
        return quarantine, None
    here = frozenset(suspects)
    deaths = (*recent(quarantine, now, policy).deaths, (now, here if len(here) <= _MOST_SUSPECTS else frozenset()))[-_MOST_DEATHS:]
    counts = Counter(call for _, those in deaths for call in those)
    most = max(counts.values(), default=0)
    leaders = [call for call, count in counts.items() if count == most]
    if most < policy.deaths or len(leaders) > 1:
        return attrs.evolve(quarantine, deaths=deaths), None
    [found] = leaders
    others = (known for known in quarantine.convicted if known != found)
    return after_answer(Quarantine(deaths, (*others, found)[-_MOST_CONVICTED:]), found), found


def after_answer(quarantine: Quarantine, call: Fingerprint) -> Quarantine:
    """Return what is known after ``call`` was answered: no death is its doing; one that nobody is left to be suspected of is forgotten."""
    deaths = tuple((at, suspects - {call}) for at, suspects in quarantine.deaths)
    return attrs.evolve(quarantine, deaths=tuple(death for death in deaths if death[1]))
