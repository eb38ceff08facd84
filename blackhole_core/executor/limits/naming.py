"""Whose a directory of control groups is: the host's, told by process id, start time and process namespace.

A process id alone is given to somebody else some day, and means nothing in another namespace: with the other two a leftover can be told from what a
living host uses, and from what a host in a container has made, whose processes have other numbers here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, Self

import attrs

__all__ = ["Owner", "alive", "myself"]

_NAME: Final = re.compile(r"blackhole-(\d{1,10})-(\d{1,20})-(\d{1,20})")


@attrs.frozen
class Owner:
    """A host process: its id, when it started (clock ticks since boot, field 22 of ``/proc/PID/stat``), and the inode of its process namespace."""

    pid: int
    started: int
    namespace: int

    @property
    def directory(self) -> str:
        """The name of its directories."""
        return f"blackhole-{self.pid}-{self.started}-{self.namespace}"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return whose directory that is, None when it is none of ours."""
        match = _NAME.fullmatch(name)
        return cls(*map(int, match.groups())) if match is not None else None


def myself() -> Owner:
    """Return this process."""
    stat = _stat(os.getpid())
    assert stat is not None, "this process runs"
    return Owner(os.getpid(), int(stat[19]), Path("/proc/self/ns/pid").stat().st_ino)


def alive(owner: Owner, me: Owner) -> bool:
    """Whether ``owner`` may still run: whatever cannot be found out counts as alive."""
    if owner.namespace != me.namespace:
        return True
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's; it runs
    stat = _stat(owner.pid)
    if stat is None:
        return True  # hidden, or gone in this very moment: the next host sweeps it
    return int(stat[19]) == owner.started and stat[0] not in "ZX"


def _stat(pid: int) -> list[str] | None:
    """Return the fields of ``/proc/PID/stat`` after the program's name, which begin with number 3 of proc(5); None when there is none to see."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
