"""What ``importlib.metadata`` and its finders are asked, where the index does not know better."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from blackhole_core.registry.indexanswer import Declarer

__all__ = ["asked", "context", "plain_entries", "search", "searches_the_path"]


def plain_entries(path: Sequence[str] | None) -> list[str] | None:
    """Return the entries of ``path``, of ``sys.path`` when it is None; None when there are finders that have distributions elsewhere."""
    if path is None:
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")]
        if not finders or not all(map(searches_the_path, finders)):
            return None
        path = sys.path
    return [entry if type(entry) is str else os.fsdecode(entry) for entry in path]


def searches_the_path(finder: object) -> bool:
    """Tell whether a finder does nothing but search the path: the standard library's, or the backport's that takes its place."""
    return getattr(finder, "__module__", "") in ("_frozen_importlib_external", "importlib.metadata", "importlib_metadata")


def context(**searched: Any) -> Any:
    from importlib.metadata import DistributionFinder

    return DistributionFinder.Context(**searched)


def search(entry: str) -> Iterable[Any]:
    """Return the distributions at ``entry``, an egg or a zip file perhaps."""
    from importlib.metadata import MetadataPathFinder

    # It remembers listings by the directory's time of change, and takes no care of changes that share one.
    MetadataPathFinder().invalidate_caches()
    return MetadataPathFinder.find_distributions(context(path=[entry]))


def asked(distributions: Iterable[Any], group: str) -> list[Declarer]:
    """Return all ``distributions`` that have a name, with their entry points of ``group``."""
    found = []
    for known in distributions:
        try:
            name = getattr(known, "_normalized_name", None) or known.metadata["Name"]
        # Neither the directory's name has it nor a METADATA: what a removal left behind. Python 3.12 and 3.13 warn of that, and a warning may be an error.
        except (OSError, ValueError, TypeError, KeyError, DeprecationWarning):
            continue
        try:
            points = tuple((point.name, point.value) for point in known.entry_points if point.group == group)
            found.append(Declarer(name, "", points, found=known))
        except (ValueError, TypeError):  # not UTF-8, or a line that is no entry point
            found.append(Declarer(name, "", (), damaged=True, found=known))
    return found
