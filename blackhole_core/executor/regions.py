"""Which parts of a piece of memory are in use. Pure, not locked: its owner is.

Regions are given out from the lowest place that has room, so that memory which has been touched is used again: a page that is touched for the
first time costs some microseconds, which is many times what copying it costs.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

__all__ = ["PAGE", "Region", "Regions"]

#: Bytes. Regions begin and end on pages, so that what lies between them can be given back to the system.
PAGE: Final = 4096


class Region(NamedTuple):  # they are compared at every large value, which tuples do in a tenth of the time
    """A part in use: ``start`` and ``end`` in bytes, and its slot, which no other part has meanwhile."""

    start: int
    end: int
    slot: int


class Regions:
    """``capacity`` bytes, of which at most ``slots`` parts are in use."""

    __slots__ = ("_capacity", "_live", "_slots", "touched")

    def __init__(self, capacity: int, slots: int) -> None:
        self._capacity = capacity
        self._slots = list(range(slots - 1, -1, -1))
        self._live: list[Region] = []  # by start
        #: Bytes from the start that have been in use since somebody made it less.
        self.touched = 0

    def __len__(self) -> int:
        return len(self._live)

    @property
    def end(self) -> int:
        """Bytes from the start to the last that is in use."""
        return self._live[-1].end if self._live else 0

    def take(self, length: int) -> Region | None:
        """Return a part of at least ``length`` bytes, None when there is none."""
        wanted = -(-length // PAGE) * PAGE
        if not self._slots:
            return None
        for start, end in self.gaps():
            if end - start >= wanted:
                region = Region(start, start + wanted, self._slots.pop())
                bisect.insort(self._live, region)
                self.touched = max(self.touched, region.end)
                return region
        return None

    def sweep(self, in_use: Callable[[int], object]) -> None:
        """Free every part whose slot is not ``in_use`` any more."""
        live: list[Region] = []
        freed: list[int] = []
        for region in self._live:
            if in_use(region.slot):
                live.append(region)
            else:
                freed.append(region.slot)
        self._live = live  # at once: Ctrl-C half-way through must not forget what is in use
        self._slots += freed

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield start and end of what is not in use."""
        start = 0
        for region in self._live:
            if region.start > start:
                yield start, region.start
            start = region.end
        if start < self._capacity:
            yield start, self._capacity
