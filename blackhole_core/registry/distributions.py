"""Installed distributions as they are on disk now: all of them, or one by its name.

A reload asks for a few distributions by name. So the names of the metadata directories in each directory of the path are remembered
(:class:`_Listing`, by directory), for as long as the directory's time of change stays the same. Two changes within one tick of a file
system's clock share that time: a listing is only used again when it was made well after it (git calls all others racy). What a
distribution says of itself is read from its files every time.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from blackhole_core.ids import canonical_name

if TYPE_CHECKING:
    from importlib_metadata import IDistribution

    from blackhole_core.registry.index import Declarer

__all__ = ["distribution", "distributions", "is_leaving", "location", "metadata_of", "version_of"]

#: Nanoseconds by which a listing must be younger than the directory's time of change: two ticks of the coarsest clock (FAT, 2 s).
_RACY_NS: Final = 4_000_000_000

#: A metadata file is a mail: its header ends with the first empty line, what follows is the project's README.
_VERSION: Final = re.compile(r"^version:[ \t]*(\S+)[ \t]*$", re.IGNORECASE | re.MULTILINE)


@attrs.frozen
class _Listing:
    """The metadata directories in one directory: canonical name → file name. ``made`` and ``changed`` are wall clock, ns."""

    names: Mapping[str, str]
    changed: int
    made: int

    def holds(self, changed: int) -> bool:
        """Say whether it is still what is there, given the directory's time of change now."""
        return self.changed == changed and self.made - changed > _RACY_NS


#: Directory → its last listing. Entries are replaced as a whole; there are as many as the path had entries.
_listings: Final[dict[str, _Listing]] = {}


def distributions(path: Sequence[str] | None = None) -> Mapping[str, IDistribution]:
    """Return canonical name → the installed distribution. Of two of one name the first on the path counts, as for an import.

    ``path`` is searched in place of ``sys.path``. Names are taken from the names of the metadata directories: reading a thousand METADATA
    files would take a second.
    """
    import importlib_metadata  # 20 ms; only who looks for plugins pays for it

    # It remembers listings by a directory's time of change, and takes no care of changes that share one.
    importlib_metadata.MetadataPathFinder.invalidate_caches()
    found: dict[str, IDistribution] = {}
    for known in importlib_metadata.distributions() if path is None else importlib_metadata.distributions(path=list(path)):
        place = location(known).name
        if not is_leaving(place):
            found.setdefault(_name_in(place), known)
    return found


def distribution(name: str, path: Sequence[str] | None = None) -> IDistribution | None:
    """Return the installed distribution called ``name``, in any spelling; None when there is none. ``path`` as above."""
    import importlib_metadata

    wanted = canonical_name(name)
    for entry in sys.path if path is None else path:
        listing = _listing(entry or os.curdir)
        if listing is not None and wanted in listing.names:
            return importlib_metadata.Distribution.at(Path(entry, listing.names[wanted]))
        if entry.endswith(".egg") or (listing is None and os.path.exists(entry)):  # noqa: PTH110  (as below)
            break  # an egg or a zip file, which comes before the rest of the path
    # It may be in one of these, or come from a finder of its own.
    return distributions(path).get(wanted)


def metadata_of(declarer: Declarer) -> IDistribution:
    """Return the distribution that the discovery index found, with its metadata as it is now."""
    import importlib_metadata

    if declarer.found is None:
        return importlib_metadata.Distribution.at(declarer.place)
    place = getattr(declarer.found, "_path", None)  # in a zip file, say; the standard library's class reads less of what is there
    return declarer.found if place is None else importlib_metadata.PathDistribution(place)


def location(distribution: IDistribution) -> Path:
    """Return the distribution's metadata directory."""
    return Path(str(getattr(distribution, "_path", distribution.locate_file(""))))


def version_of(distribution: IDistribution) -> str:
    """Return the version in the distribution's metadata. Only the header is read: parsing the README below it takes 0.5 ms."""
    header = (distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "").partition("\n\n")[0]
    found = _VERSION.search(header)
    return distribution.version if found is None else found[1]


def _listing(directory: str) -> _Listing | None:
    """Return what is in ``directory``; None when it is none that can be listed."""
    try:
        made = time.time_ns()
        changed = os.stat(directory).st_mtime_ns  # noqa: PTH116  (asked of every entry of the path at every reload)
        known = _listings.get(directory)
        if known is not None and known.holds(changed):
            return known
        names: dict[str, str] = {}
        for place in os.listdir(directory):
            if place.lower().endswith((".dist-info", ".egg-info")) and not is_leaving(place):
                names.setdefault(_name_in(place), place)
    except OSError:
        return None
    listing = _listings[directory] = _Listing(names, changed, made)
    return listing


def is_leaving(place: str) -> bool:
    """Tell whether a metadata directory is about to be removed: pip moves it to ``~ame-1.0.dist-info`` first."""
    return place.startswith("~")


def _name_in(place: str) -> str:
    return canonical_name(place.lower().removesuffix(".dist-info").removesuffix(".egg-info").partition("-")[0])
