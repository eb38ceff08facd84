"""What ``/proc`` says of a worker's processes, for where no control group does. None means: not known."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["cpu_seconds", "family", "resident", "tasks", "threads"]

_KIB: Final = 1024


def family(pid: int) -> list[int]:
    """Return a process and all its descendants that can be seen, parents first; empty when it has ended."""
    found: list[int] = []
    ahead = [pid]
    while ahead:
        parent = ahead.pop(0)
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        found.append(parent)
        for thread in threads:
            with contextlib.suppress(OSError):
                ahead += map(int, Path(f"/proc/{parent}/task/{thread}/children").read_text(encoding="ascii").split())
    return found


def resident(pids: Iterable[int]) -> int | None:
    """Return the bytes of memory that processes hold and that no file gives back: their own pages and shared ones, without those of programs."""
    sizes = [_resident(pid) for pid in pids]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _resident(pid: int) -> int | None:
    fields = _status(pid)
    try:
        return (int(fields["RssAnon"].split()[0]) + int(fields["RssShmem"].split()[0])) * _KIB
    except (KeyError, ValueError, IndexError):
        return None


def threads(pid: int) -> int | None:
    """Return how many threads a process has."""
    text = _status(pid).get("Threads", "")
    return int(text) if text.isdecimal() else None


def tasks(pids: Iterable[int]) -> int | None:
    """Return how many threads processes have together: what the kernel counts as their number."""
    known = [number for number in map(threads, pids) if number is not None]
    return sum(known) if known else None


def cpu_seconds(pids: Iterable[int]) -> float | None:
    """Return the processor time of processes so far; what those that have ended used is not in it."""
    known = [seconds for seconds in map(_cpu_seconds, pids) if seconds is not None]
    return sum(known) if known else None


def _cpu_seconds(pid: int) -> float | None:
    # The clock of a process: its number is made of the process id and 2 for "scheduler time", see clock_getcpuclockid(3). /proc counts in 10 ms.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
