"""Private memory of the host for large arrays that it copies out of a worker's, in pages that were touched before.

A fresh object of 100 MB costs a quarter more than copying into memory that is there, and one of 1 GB several times as much where the machine is itself
a guest and gets its own memory only then. So what one array leaves behind is used for the next one.

Invariants:

* A region is busy from when it is taken until the last array, slice or view of it is gone. Its byte in ``_busy`` says so; a finaliser clears it
  without a lock, and the books (:mod:`.regions`) follow under ``_lock``.
* Pages of which nothing is in use stay only until the next :meth:`trim`, which whoever copies here calls after a while. What is let go of after that, and
  before the next copy, gives its pages back itself, before its byte is cleared.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
import weakref
from typing import Any, Final

from blackhole_core.executor.regions import PAGE, Regions

__all__ = ["Landing"]

#: Arrays that are in use at once.
_SLOTS: Final = 256
#: ``MAP_NORESERVE`` of Linux: address space, not memory.
_NORESERVE: Final = 0x4000
#: ``memmove`` by ctypes, as :func:`ctypes.memmove`, lets other threads have the interpreter meanwhile.
_copy: Final = ctypes.memmove


class Landing:
    """Room for ``capacity`` bytes of arrays, a multiple of the size of a page.

    :raises OSError: there is not that much address space.
    """

    def __init__(self, capacity: int) -> None:
        self._mapping = mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        with contextlib.suppress(OSError):  # a wish: a kernel may have no huge pages
            self._mapping.madvise(mmap.MADV_HUGEPAGE)
        self._lock = threading.Lock()
        self._regions = Regions(capacity, _SLOTS)
        self._busy = bytearray(_SLOTS)
        self._leases: dict[int, weakref.ref[Any]] = {}
        self._process = os.getpid()
        self._warm = False

    def copy(self, address: int, length: int) -> memoryview | None:
        """Return a read-only copy of the ``length`` bytes at ``address``, None when there is no room."""
        if os.getpid() != self._process:  # first: another thread may have held the lock at the fork
            return None
        with self._lock:
            self._regions.sweep(self._busy.__getitem__)
            region = self._regions.take(length)
            if region is None:
                return None
            slot, start = region.slot, region.start
            self._busy[slot] = 1
            self._warm = True
        try:
            exporter = (ctypes.c_ubyte * length).from_buffer(self._mapping, start)
            self._leases[slot] = weakref.ref(exporter, lambda _: self._end(slot, start, length))
            _copy(ctypes.addressof(exporter), address, length)
        except BaseException:  # Ctrl-C
            if slot not in self._leases:  # else the exporter's end frees it
                self._busy[slot] = 0
            raise
        return memoryview(exporter).cast("B").toreadonly()

    def trim(self) -> None:
        """Give the pages that nothing lies on back to the system."""
        with self._lock:
            self._warm = False
            self._regions.sweep(self._busy.__getitem__)
            touched, self._regions.touched = self._regions.touched, self._regions.end
            for start, end in self._regions.gaps():
                self._discard(start, min(end, touched))

    def _end(self, slot: int, start: int, length: int) -> None:
        self._leases.pop(slot, None)
        if not self._warm:
            self._discard(start, start + -(-length // PAGE) * PAGE)
        self._busy[slot] = 0  # last: from here on somebody else may have it

    def _discard(self, start: int, end: int) -> None:
        if end > start:
            with contextlib.suppress(OSError):  # a wish: locked pages (mlockall) cannot go, and are used again as they are
                self._mapping.madvise(mmap.MADV_DONTNEED, start, end - start)
