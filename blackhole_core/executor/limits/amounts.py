"""Limits as the kernel wants to be told them: from the units of a manifest to bytes, microseconds and tasks. Pure."""

from __future__ import annotations

import math
import resource
from typing import Final

__all__ = [
    "DEFAULT_PERIOD",
    "LEAST_CPU",
    "MB",
    "OWN_TASKS",
    "cpu_quota",
    "descriptors",
    "megabytes",
    "memory_bytes",
    "rlimits",
    "task_limit",
]

#: Bytes of one MB of a manifest.
MB: Final = 2**20

#: Microseconds of one period of the kernel's bandwidth control: its default. A shorter one costs more switches, a longer one more latency.
DEFAULT_PERIOD: Final = 100_000
#: Microseconds: the longest period that the kernel takes.
_LONGEST_PERIOD: Final = 1_000_000
#: Microseconds: the least quota that the kernel takes.
_LEAST_QUOTA: Final = 1_000
#: % of one core: the least share that can be told to the kernel.
LEAST_CPU: Final = 100 * _LEAST_QUOTA / _LONGEST_PERIOD

#: Processes and threads that a worker has before its plugin has any: its main thread and the one that reads, and what a sandbox puts around
#: them (a keeper outside, an init inside, and one more while they come up). They come on top of what a plugin is allowed.
OWN_TASKS: Final = 5

#: Bytes that RLIMIT_DATA allows on top of a memory limit: it counts the whole stack of every thread, 8 MB each, of which hardly any is ever used.
_STACKS: Final = 64 * MB


#: Descriptors that a worker may have fewer than its host. The kernel counts those that are under way in sockets by user, not by process, and refuses whoever sends more when there are more than the
#: sender's own limit: so a worker that lets its own pile up stops itself first. It may overshoot by what one message holds, 253.
_OWN_DESCRIPTORS: Final = 512


def memory_bytes(megabytes: float) -> int:
    """Return a memory limit in bytes, whole pages of any size up to 64 KiB."""
    page = 64 * 1024
    return max(page, math.floor(megabytes * MB / page) * page)


def megabytes(size: float) -> float:
    """Return bytes as MB, to one decimal, as messages show them."""
    return round(size / MB, 1)


def cpu_quota(percent: float) -> tuple[int, int]:
    """Return the microseconds of processor time per period, and the period, for a share in % of one core.

    :raises ValueError: the kernel cannot be told so small a share.
    """
    if percent < LEAST_CPU:
        raise ValueError(f"{percent:g} % of one core is less than {LEAST_CPU:g} %, the least that the kernel takes")
    period = DEFAULT_PERIOD
    if percent / 100 * period < _LEAST_QUOTA:
        period = min(_LONGEST_PERIOD, math.ceil(_LEAST_QUOTA * 100 / percent))
    return max(_LEAST_QUOTA, round(percent / 100 * period)), period


def descriptors(soft: int) -> int:
    """Return how many descriptors a worker may have at most, whose host has the soft limit ``soft``."""
    return max(soft // 2, soft - _OWN_DESCRIPTORS)


def task_limit(pids: int) -> int:
    """Return how many tasks a worker may have, whose plugin may have ``pids``."""
    return pids + OWN_TASKS


def rlimits(*, memory: float | None, disk: float | None) -> tuple[tuple[int, int], ...]:
    """Return resource limits, as number and most, for MB of memory and of each single file. RLIMIT_AS would count what is only reserved."""
    data = () if memory is None else ((resource.RLIMIT_DATA, memory_bytes(memory) + _STACKS),)
    size = () if disk is None else ((resource.RLIMIT_FSIZE, int(disk * MB)),)
    return data + size
