"""Stamps: by what the discovery index tells that a file or directory is as it was.

* A *stamp* is what the file system says: device, inode, size, time of content, time of change. The last cannot be set by programs.
* Two changes within one tick of a file system's clock leave the same stamp. So what was read counts as *settled* only when it was read again
  :data:`SETTLED_NS` after its stamp was first seen. Both moments are on this machine's own clock, which nobody sets, so it does not matter
  what the file system's clock says or whether somebody turned it back.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["NOTHING", "SETTLED_NS", "Stamp", "settle", "stamp_at", "stamp_from_text", "stamp_of", "stamp_to_text"]

#: Nanoseconds after which a clock has ticked for sure: two ticks of the coarsest one (FAT, 2 s).
SETTLED_NS: Final = 4_000_000_000

#: Device, inode, size in bytes, time of content (ns), time of change (ns).
Stamp = tuple[int, int, int, int, int]

#: The stamp of what is not there, or not ours to see.
NOTHING: Final[Stamp] = (0, 0, 0, 0, 0)


def stamp_of(found: os.stat_result) -> Stamp:
    """Return the stamp in what ``stat`` said."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def stamp_at(path: str) -> Stamp:
    """Return the stamp of what ``path`` leads to, :data:`NOTHING` when nothing can be seen there."""
    try:
        return stamp_of(os.stat(path))  # noqa: PTH116  (asked of every plugin's file at every look)
    except OSError:
        return NOTHING


def settle(now: int, seen: int | None) -> int:
    """Return when a stamp was first seen, given what was noted of it before (None: it is new); 0 when it is settled by now.

    A moment that has not come yet was noted by another clock, and counts for nothing.
    """
    if seen is None or seen > now:
        return now
    return 0 if now - seen >= SETTLED_NS else seen


def stamp_to_text(stamp: Stamp) -> str:
    return " ".join(map(str, stamp))


def stamp_from_text(text: str) -> Stamp:
    """Return the stamp that :func:`stamp_to_text` wrote.

    :raises ValueError: this is none.
    """
    device, inode, size, written, changed = map(int, text.split(" "))
    return (device, inode, size, written, changed)
