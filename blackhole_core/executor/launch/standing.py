"""What a new process takes over from the thread that forks it, beside what is set for each worker.

A zygote took it over when it was started. When the host has changed since (it gave up its privileges, went into a cgroup, a
namespace or a jail of its own), a worker from the old zygote would have rights that the host has given away: the zygote must
then be replaced.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

__all__ = ["Origin", "Standing", "read_standing"]

#: Lines of ``/proc/thread-self/status`` (``proc(5)``) that a child inherits and that nobody sets for a worker.
_LINES: Final = (
    b"Uid:", b"Gid:", b"Groups:", b"CapInh:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"CapAmb:", b"NoNewPrivs:", b"Seccomp:", b"Seccomp_filters:",
    b"Cpus_allowed:", b"Mems_allowed:",
)  # fmt: skip
#: Files whose whole text is inherited: the cgroups, the security label, how soon it is killed when memory is short, and what a core dump holds (which
#: is a file of the process, not of the thread).
_FILES: Final = ("cgroup", "attr/current", "oom_score_adj", "../../coredump_filter")
_NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "user", "uts")
#: All limits there are: a worker that was forked must have the host's of now, not the zygote's.
_LIMITS: Final = tuple(sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}))
#: These mean that the system has run short, not that it lacks a file.
_SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

#: Variables that the loader, the C library or the interpreter reads when a program starts, by their beginnings: a fork comes too late for them.
_AT_START: Final = ("LD_", "LC_", "LANG", "LOCPATH", "GLIBC_", "MALLOC_", "PYTHON")


@attrs.frozen
class Standing:
    """``inherited`` can only be compared; the others may be set for each worker: ``umask``, and ``limits`` as (resource, soft, hard).

    A hard limit may only be lowered, so the hard ones are part of ``inherited`` as well.
    """

    inherited: tuple[object, ...]
    umask: int = attrs.field(eq=False)
    limits: tuple[tuple[int, int, int], ...] = attrs.field(eq=False)


@attrs.frozen
class Origin:
    """What every worker takes over from its host now. ``environment`` is the one that a worker without grants gets."""

    standing: Standing
    environment: Mapping[str, str]

    def same_zygote(self, other: Origin) -> bool:
        """Whether a zygote of the one may fork the workers of the other."""
        return self.standing == other.standing and self.too_late(other.environment) is None and other.too_late(self.environment) is None

    def too_late(self, more: Mapping[str, str]) -> str | None:
        """Return the first variable of ``more`` that is not so here, and takes effect only when a program starts; None when there is none."""
        here = self.environment
        return next((name for name in sorted(more) if name.startswith(_AT_START) and here.get(name) != more[name]), None)


def read_standing() -> Standing:
    """Return the standing of the calling thread.

    :raises OSError: there is no ``/proc``, it does not tell the umask (gVisor's), or there are no more descriptors.
    """
    status = dict(line.partition(b"\t")[::2] for line in _read("status").splitlines())
    if b"Umask:" not in status:
        raise OSError(errno.ENODATA, "/proc does not tell the umask")
    limits = tuple((number, *resource.getrlimit(number)) for number in _LIMITS)
    root = Path("/").stat()  # another one after chroot or pivot_root
    inherited = (
        tuple(status.get(name) for name in _LINES),
        tuple(map(_text, _FILES)),
        tuple(map(_namespace, _NAMESPACES)),
        (root.st_dev, root.st_ino),
        (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)),
        tuple(hard for _, _, hard in limits),
    )
    return Standing(inherited, int(status[b"Umask:"], 8), limits)


def _read(name: str) -> bytes:
    with open(f"/proc/thread-self/{name}", "rb", buffering=0) as file:  # noqa: PTH123 - a fifth of the time of pathlib, at every start
        return file.read()


def _text(name: str) -> bytes | None:
    try:
        return _read(name)
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        return None  # this kernel has none


def _namespace(name: str) -> int | None:
    try:
        return os.stat(f"/proc/thread-self/ns/{name}").st_ino  # noqa: PTH116 - likewise
    except OSError:
        return None  # this kernel has none
