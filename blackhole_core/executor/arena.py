"""Memory that a host and one worker both map, for values too large for a message.

Two halves, one for each direction. In each the sender keeps the books (:mod:`.regions`) and copies values in; the receiver looks at them there
or copies them out, and clears one byte when it is done, so giving a region back is neither a message nor a lock::

    half      SLOTS bytes   1: the region of that slot is in use; set by the sender, cleared by the receiver
              SLOTS bytes   1: it is on its way back; set by the receiver, cleared by the sender
              capacity      what is sent, in regions of whole pages

Who received something and sends it back as it is (a filter that passes on what it got) copies nothing: it says where that lies, in the half of the one
who sent it, who copies it out from there. What lies there may have been changed meanwhile, so it is a copy like any other's.

Invariants:

* The host makes the memory, sealed against growing and shrinking: no access of its own can fault, whatever the worker does. It belongs to one
  worker and is never given to another.
* What the worker says of a region (slot, offset, length) is checked against the half before anything is read. The host believes nothing that
  lies in the memory: a flag that is cleared too early, or never, costs the worker its own values, or its room.
* A region is used again only after its flag was cleared: by the receiver when the last that looks there is gone, or by the sender when it was
  not sent. The books change under ``_lock``; a flag is cleared without it, since finalisers run anywhere.
* On its way back a region is in use by its second flag, set while the first one was, and never while it is set: the first may be cleared before the
  sender has its value again. So the sender looks at the first flag first.
* A flag is cleared after the last look; stores and loads must not pass each other there. They do not on x86; elsewhere there is no arena
  (:data:`~blackhole_core.executor.lane.UNAVAILABLE`), and everything travels inside the messages.
* A forked child of either side maps the same memory, clears no flags and sends nothing there: its books are a copy that nobody keeps up to date.

Nobody ever waits for room: a value that finds none travels inside the message.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from blackhole_core.executor.lane import UNAVAILABLE
from blackhole_core.executor.regions import PAGE, Region, Regions
from blackhole_core.executor.timers import Timer, Timers

if TYPE_CHECKING:
    from blackhole_core.executor.landing import Landing

__all__ = ["UNAVAILABLE", "Arena", "MappedShelf"]

#: Regions in use in one direction; a plugin that keeps more received arrays than that gets the next ones inside messages.
SLOTS: Final = 256
#: Times the limit of one message that fit into each direction: one is being sent while another one is still looked at.
_ROOM: Final = 2
#: Bytes copied at once: a tenth of a millisecond, after which another thread may have the interpreter.
_CHUNK: Final = 1024 * 1024
#: Bytes from which a copy asks for huge pages: two of them. The kernel clears one of 2 MiB in the time of some ten small ones.
_HUGE: Final = 4 * 1024 * 1024
#: Seconds without large values after which unused pages go back to the system.
_IDLE: Final = 10.0


class MappedShelf:
    """One side's view of the memory behind ``descriptor``, which stays the caller's. ``first`` is who sends in the first half: the host."""

    def __init__(self, descriptor: int, *, first: bool, limit: int, in_place: bool) -> None:
        size = os.fstat(descriptor).st_size
        half = size // 2
        self.limit = limit
        self.in_place: Final = in_place
        self._mapping = mmap.mmap(descriptor, size)
        self._memory = memoryview(self._mapping)
        self._ours, self._theirs = (0, half) if first else (half, 0)
        self._capacity = half - PAGE
        self._lock = threading.Lock()
        self._regions = Regions(self._capacity, SLOTS)
        self._leases: dict[int, tuple[weakref.ref[Any], int, int]] = {}  # slot → who looks there, offset, length
        self._begin: int | None = None  # address of what is received, once somebody asked
        self._process = os.getpid()
        self._closed = False

    # --- sending -----------------------------------------------------------------------------------------------------

    def put(self, data: memoryview) -> tuple[int, int] | None:
        length = data.nbytes
        if os.getpid() != self._process:  # first: another thread may have held the lock at the fork
            return None
        slots: tuple[int, ...] = ()
        try:
            with self._lock:
                if self._closed or length > self.limit:
                    return None
                self._regions.sweep(self._in_use)
                region = self._regions.take(length)
                if region is None:
                    return None
                slots = (region.slot,)
                self._memory[self._sent_flag(region.slot)] = 1
            self._used()
            self._fill(region, data)
        except BaseException:  # Ctrl-C: it will not be sent
            self.take_back(slots)
            raise
        return region.slot, region.start

    def _fill(self, region: Region, data: memoryview) -> None:
        begin = self._ours + PAGE + region.start
        for done in range(0, data.nbytes, _CHUNK):
            part = data[done : done + _CHUNK]
            self._memory[begin + done : begin + done + len(part)] = part

    def send_back(self, row: memoryview) -> tuple[int, int] | None:
        if not self._leases or os.getpid() != self._process or sys.implementation.name != "cpython":
            return None
        offset = self._offset_of(row)
        for slot, (_, start, length) in self._leases.copy().items():  # a finaliser may take some away meanwhile, but not that of this row
            if slot < SLOTS and start <= offset and offset + row.nbytes <= start + length:
                return (slot + SLOTS, offset) if self._mark_returned(slot + SLOTS) else None
        return None

    def _offset_of(self, row: memoryview) -> int:
        from blackhole_core.executor.addresses import address_of

        if self._begin is None:
            self._begin = address_of(self._memory) + self._theirs + PAGE
        return address_of(row) - self._begin

    def _mark_returned(self, slot: int) -> bool:
        flag = self._sent_flag(slot)
        with self._lock:
            if self._closed or self._memory[flag]:  # it is on its way back already: there is one flag, not a count
                return False
            self._memory[flag] = 1
        self._used()
        return True

    def take_back(self, slots: tuple[int, ...]) -> None:
        if os.getpid() == self._process:
            for slot in slots:
                self._memory[self._sent_flag(slot)] = 0

    def _sent_flag(self, slot: int) -> int:
        return (self._ours if slot < SLOTS else self._theirs) + slot

    def sent(self, slot: int, offset: int, length: int) -> memoryview:
        return self._part(self._ours if slot < SLOTS else self._theirs, offset, length)

    def in_flight(self) -> int:
        """Return how many regions of ours are in use."""
        with self._lock:
            self._regions.sweep(self._in_use)
            return len(self._regions)

    def trim(self) -> None:
        """Give the pages that nothing lies on back to the system."""
        with self._lock:
            self._regions.sweep(self._in_use)
            touched = self._regions.touched
            self._regions.touched = self._regions.end
            for start, end in self._regions.gaps():
                self._discard(self._ours, start, min(end, touched))
                if end >= touched:
                    break

    def _in_use(self, slot: int) -> int:
        return self._memory[self._ours + slot] or self._memory[self._ours + SLOTS + slot]  # in this order, see above

    # --- receiving ---------------------------------------------------------------------------------------------------

    def holds(self, slot: int, offset: int, length: int) -> bool:
        return slot < 2 * SLOTS and (slot >= SLOTS or offset % PAGE == 0) and offset + length <= self._capacity

    def received(self, slot: int, offset: int, length: int) -> memoryview:
        self._used()
        return self._part(self._received_half(slot), offset, length)

    def lease(self, slot: int, offset: int, length: int) -> memoryview:
        self._used()
        # A memoryview knows its exporter, not the other memoryviews of it: the exporter's end is the end of the last of them.
        exporter = _row_of(length).from_buffer(self._mapping, self._received_half(slot) + PAGE + offset)
        self._leases[slot] = weakref.ref(exporter, lambda _: self._end_lease(slot)), offset, length
        return memoryview(exporter).cast("B").toreadonly()

    def copy(self, slot: int, offset: int, length: int) -> bytes:
        self._used()
        if length >= _HUGE and sys.implementation.name == "cpython":
            from blackhole_core.executor.hugebytes import copy_out

            return copy_out(self._mapping, self._received_half(slot) + PAGE + offset, length)
        return bytes(self.received(slot, offset, length))

    def keep(self, slot: int, offset: int, length: int) -> memoryview:
        return memoryview(self.copy(slot, offset, length))

    def release(self, slots: tuple[int, ...]) -> None:
        if os.getpid() == self._process:
            for slot in slots:
                self._memory[self._received_half(slot) + slot] = 0

    def _received_half(self, slot: int) -> int:
        return self._theirs if slot < SLOTS else self._ours

    def _end_lease(self, slot: int) -> None:
        self._leases.pop(slot, None)  # first: the slot may be used again as soon as it is released
        self.release((slot,))

    # --- both --------------------------------------------------------------------------------------------------------

    def _part(self, half: int, offset: int, length: int) -> memoryview:
        start = half + PAGE + offset
        return self._memory[start : start + length].toreadonly()

    def _discard(self, half: int, start: int, end: int) -> None:
        if end > start:
            with contextlib.suppress(OSError):  # a wish: locked pages (mlockall) cannot go, and are used again as they are
                self._mapping.madvise(mmap.MADV_REMOVE, half + PAGE + start, end - start)

    def _used(self) -> None:
        """Called whenever something large goes one way or the other; not from finalisers."""


class Arena(MappedShelf):
    """The host's side, which makes the memory. ``descriptor`` is for the worker, which must be started with it; then :meth:`launched`, once it ended :meth:`close`."""

    def __init__(self, limit: int, *, in_place: bool, timers: Timers) -> None:
        self.descriptor = _new_memory(limit)
        try:
            super().__init__(self.descriptor, first=True, limit=limit, in_place=in_place)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._timers = timers
        self._tell_worker: Callable[[], object] | None = None
        self._timer: Timer | None = None
        self._recently = False
        self._landing: Landing | None = None

    def keep(self, slot: int, offset: int, length: int) -> memoryview:
        if length >= _HUGE and sys.implementation.name == "cpython" and not self._closed:
            self._used()
            kept = self._land(slot, offset, length)
            if kept is not None:
                return kept
        return super().keep(slot, offset, length)

    def _land(self, slot: int, offset: int, length: int) -> memoryview | None:
        from blackhole_core.executor.addresses import address_of

        with self._lock:
            if self._landing is None:
                self._landing = _new_landing(self._capacity)
            landing = self._landing
        return landing.copy(address_of(self.received(slot, offset, length)), length) if landing is not None else None

    def trim(self) -> None:
        super().trim()
        if self._landing is not None:
            self._landing.trim()

    def launched(self) -> None:
        """Close what only the worker needs."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def discard(self) -> None:
        """There will be no worker: let go of everything at once."""
        self.launched()
        self._memory.release()
        self._mapping.close()

    def tidy_with(self, tell_worker: Callable[[], object]) -> None:
        """Have ``tell_worker`` called when nothing large has come or gone for a while, so that it gives its pages back, too."""
        self._tell_worker = tell_worker

    def close(self) -> None:
        """The worker has ended: nothing is sent any more. What it sent stays until the last who has a part of it lets go of the shelf."""
        self.launched()
        with self._lock:
            self._closed = True
            timer, self._timer = self._timer, None
            self._tell_worker = None
        if timer is not None:
            timer.cancel()
        self.trim()

    def _used(self) -> None:
        self._recently = True
        if self._timer is None and not self._closed:
            self._timer = self._timers.after(_IDLE, self._tidy)

    def _tidy(self) -> None:
        with self._lock:
            self._timer = None
            if self._closed:
                return
        if self._recently:
            self._recently = False
            self._timer = self._timers.after(_IDLE, self._tidy)
            return
        self.trim()
        tell_worker = self._tell_worker  # read once: close() may be taking it away
        if tell_worker is not None:
            tell_worker()


def _new_landing(capacity: int) -> Landing | None:
    """Return memory to copy large arrays to, None where there is no address space for it: then each has memory of its own."""
    from blackhole_core.executor.landing import Landing

    try:
        return Landing(capacity)
    except OSError:
        return None


def _new_memory(limit: int) -> int:
    import fcntl

    half = PAGE + _ROOM * -(-limit // PAGE) * PAGE
    descriptor = os.memfd_create("blackhole-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, 2 * half)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@functools.lru_cache(maxsize=64)  # a type takes as long to make as copying a hundred KB
def _row_of(length: int) -> Any:
    import ctypes

    return ctypes.c_ubyte * length
