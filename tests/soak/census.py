"""What there is of a host at a quiet moment: what must not grow."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.limits.detect import abilities_here
from blackhole_core.executor.limits.naming import myself
from tests.leaks import take_census

__all__ = ["Counted", "grown", "rising", "settled"]

#: Bytes that a host may have more after all, or this part of what it had. Measured: 6 MB. They are what many threads need at once, once: memory that C's allocator keeps for each
#: of them, pages of Python's that many small objects shared, of which few are left, and names in the interpreter's cache of attributes (4096 at most).
ROOM: Final = 12 * 2**20
PART: Final = 0.1
#: Bytes that the second half of a run may add, when the first half was at least so many seconds long: a process has all of that after two minutes of this load. Measured from the third
#: minute to the tenth: 0.1 MB up and down.
LEVEL: Final = 2 * 2**20
LEVEL_AFTER: Final = 120.0
#: Seconds in which a host comes to rest: a worker that was just killed is reaped, and a spare one forked.
_REST: Final = 10.0


@attrs.frozen
class Counted:
    """Numbers of things; ``memory`` in bytes."""

    threads: int
    descriptors: int
    processes: int
    files: int
    groups: int
    modules: int
    memory: int


def _count() -> Counted:
    gc.collect()
    with contextlib.suppress(AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)  # what it keeps for later in the arenas of many threads is no growth
    census = take_census()
    return Counted(
        threads=threading.active_count(),
        descriptors=len(census.descriptors),
        processes=_descendants(),
        files=sum(1 for file in census.files for _ in (file, *file.rglob("*"))),
        groups=_groups(),
        modules=len(sys.modules),
        memory=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
    )


def settled(limit: Counted | None = None) -> Counted:
    """Return what there is when two looks are the same and, if there is a ``limit``, nothing has grown over it; after :data:`_REST` what there is then."""
    deadline, last = time.monotonic() + _REST, _count()
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = _count()
        if attrs.evolve(now, memory=0) == attrs.evolve(last, memory=0) and (limit is None or not grown(limit, now)):
            return now
        last = now
    return last


def grown(before: Counted, after: Counted) -> list[str]:
    """Name what has grown."""
    found = []
    for name, had in attrs.asdict(before).items():
        has, room = getattr(after, name), max(ROOM, int(had * PART)) if name == "memory" else 0
        if has > had + room:
            found.append(f"{name}: {had} before, {has} after")
    return found


def rising(memory: Sequence[int], seconds: float) -> list[str]:
    """Say that memory does not level off: ``memory`` are bytes, taken at equal distances over so many seconds."""
    middle = len(memory) // 2
    if seconds * middle / max(1, len(memory) - 1) < LEVEL_AFTER or memory[-1] <= memory[middle] + LEVEL:
        return []
    return [f"memory still rises: {', '.join(f'{size / 2**20:.1f}' for size in memory)} MB"]


def _descendants() -> int:
    """Return how many processes descend from this one, whatever group or session they are in. What has ended counts until it is reaped."""
    parents: dict[int, int] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return len(family) - 1


def _groups() -> int:
    """Return how many control groups are ours."""
    places = [tree.directory / myself().directory for tree in abilities_here().trees]
    return sum(len(list(place.rglob("cgroup.procs"))) for place in places if place.is_dir())
