"""Find the plugins among the installed distributions, by entry point group, without importing any of them.

Every look is fresh: what ``pip install -U`` did a moment ago is seen. Who has entry points of the group is known from the discovery index; what such a distribution says of itself is
read from its files every time. Half-done installations and plugins that cannot be used are reported
beside the others and stop none of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from blackhole_core.errors import NameClash
from blackhole_core.ids import canonical_name
from blackhole_core.registry.candidate import Candidate, Discovery, Origin, Unusable
from blackhole_core.registry.distributions import is_leaving, metadata_of
from blackhole_core.registry.index import declarers

__all__ = ["installed", "without_clashes"]


def installed(group: str, *, path: Sequence[str] | None = None) -> Discovery:
    """Return the plugins of all installed distributions that have entry points of ``group``.

    ``path`` is searched in place of ``sys.path``. Of two distributions of one name the first on the path counts, as for an import.
    """
    found = Discovery()
    for declarer in declarers(group, path):
        if not is_leaving(declarer.name):
            from blackhole_core.registry.installation import plugins_of  # 40 ms; only who has plugins pays for it

            found += plugins_of(metadata_of(declarer), group)
    return without_clashes(found)


def without_clashes(discovery: Discovery) -> Discovery:
    """Return ``discovery`` with every name that two plugins claim moved to the problems: neither wins.

    Several versions of one plugin are no clash; two distributions are, and two installed entry points of one name.
    """
    claims: dict[str, list[Candidate]] = {}
    for candidate in discovery.candidates:
        claims.setdefault(canonical_name(candidate.name), []).append(candidate)
    usable: list[Candidate] = []
    problems = list(discovery.problems)
    for claimants in claims.values():
        pair = next((pair for pair in itertools.combinations(claimants, 2) if _are_rivals(*pair)), None)
        if pair is None:
            usable.extend(claimants)
            continue
        clash = NameClash(claimants[0].name, _claimant(pair[0]), _claimant(pair[1]))
        problems.extend(Unusable(claimant.name, claimant.source, clash) for claimant in claimants)
    return Discovery(tuple(usable), tuple(problems))


def _are_rivals(first: Candidate, second: Candidate) -> bool:
    if first.distribution and second.distribution and canonical_name(first.distribution) != canonical_name(second.distribution):
        return True
    return first.origin is second.origin is Origin.INSTALLED  # of these there is one version at a time


def _claimant(candidate: Candidate) -> str:
    return f"{candidate.entry} of {candidate.distribution or 'no distribution'} at {candidate.source}"
