"""What there is of a host at a quiet moment: what must not grow."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
import time
from pathlib import Path

import attrs

from blackhole_core.executor.limits.detect import abilities_here
from blackhole_core.executor.limits.naming import myself
from tests.leaks import take_census

__all__ = ["Counted", "grown", "settled"]

#: Bytes that a host may have more, or this part of what it had. Measured: 2 MB after 30 s, 6 after 150 s, 10 after 300 s, of which the allocations of Python (``tracemalloc``) are
#: some 0.1 MB a minute, all of it this ledger's; the rest is pages of C's allocator.
ROOM = 24 * 2**20
PART = 0.1
#: Seconds in which a host comes to rest: a worker that was just killed is reaped, and a spare one forked.
_REST = 10.0


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
