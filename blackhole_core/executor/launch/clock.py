"""The pace of this machine's time stamp counter, measured.

A guest whose instructions QEMU emulates reads the very same counter. It needs to know its pace (see
:func:`~blackhole_core.executor.launch.vmcommand.kernel_arguments`), and no file of the system says it: ``/proc/cpuinfo`` has the pace of the moment.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable
from typing import Final

__all__ = ["tsc_khz"]

#: rdtsc; shl rdx,32; or rax,rdx; ret
_READ_COUNTER: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")
#: Seconds between two readings, and tries for each of them, of which the quickest counts: together 1 part in 100,000.
_BETWEEN: Final = 0.02
_TRIES: Final = 20


def tsc_khz() -> int:
    """Return how often the counter of an x86-64 processor counts in a millisecond; 0 where a program may not have a page of its own code."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return 0
    try:
        page.write(_READ_COUNTER)
        start = ctypes.c_char.from_buffer(page)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(start))
        first = _reading(read)
        time.sleep(_BETWEEN)
        second = _reading(read)
        del read, start
    finally:
        page.close()
    return round((second[1] - first[1]) * 1_000_000 / (second[0] - first[0]))


def _reading(read: Callable[[], int]) -> tuple[int, int]:
    """Return time (nanoseconds) and counter of one moment: of the try that was interrupted least."""
    tries = []
    for _ in range(_TRIES):
        before = time.monotonic_ns()
        counter = read()
        after = time.monotonic_ns()
        tries.append((after - before, (before + after) // 2, counter))
    _span, moment, counter = min(tries)
    return moment, counter
