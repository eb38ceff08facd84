"""Divide our own group of the unified hierarchy: let the groups below it have controllers, and take that back.

A group that has processes of its own cannot hand memory on to groups below it ("no internal processes", cgroups(7)); and if it hands on only what it can, those
below become *threaded* and take no process. So it is emptied first: the host moves to a leaf, with what it has started, but only when nobody else is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.limits import cgroupfs
from blackhole_core.executor.limits.naming import myself
from blackhole_core.executor.limits.processes import family

__all__ = ["LEAF", "Division", "divide", "refused"]

#: Name of the group that the host moves to, in its own directory.
LEAF: Final = "host"
#: Rounds in which processes are moved: each moves what was born while the one before looked.
_ROUNDS: Final = 20


@attrs.define
class Division:
    """What the groups below ``directory`` have now, and what was done for it; ``why_not`` says why a controller that was wanted is not among them."""

    directory: Path
    controllers: frozenset[str]
    why_not: dict[str, str] = attrs.field(factory=dict)
    _added: list[str] = attrs.field(factory=list, init=False)
    _moved: bool = attrs.field(default=False, init=False)

    def undo(self) -> None:
        """Leave the group as it was found, as far as that can be."""
        for name in reversed(self._added):
            with contextlib.suppress(OSError):
                cgroupfs.write(self.directory / "cgroup.subtree_control", f"-{name}")
        if self._moved:
            _move_back(self.directory)
        self.controllers = frozenset()

    def add(self, name: str) -> None:
        """Hand one more controller on."""
        try:
            cgroupfs.write(self.directory / "cgroup.subtree_control", f"+{name}")
        except OSError as error:
            self.why_not[name] = refused(self.directory, error)
        else:
            self._added.append(name)
            self.controllers |= {name}

    def move(self) -> bool:
        """Empty the group, False when that cannot be."""
        self._moved = _move_host(self.directory)
        return self._moved


def divide(directory: Path, wanted: Iterable[str]) -> Division:
    """Hand on what of ``wanted`` can be had, moving this process to a leaf if that is what it takes."""
    there = _words(directory / "cgroup.controllers")
    handed_on = _words(directory / "cgroup.subtree_control")
    division = Division(directory, frozenset(name for name in wanted if name in there and name in handed_on))
    for name in wanted:
        if name not in there:
            division.why_not[name] = f"the unified hierarchy has no controller {name} in {directory}"
    missing = [name for name in wanted if name in there and name not in handed_on]
    if missing and _in_the_way(directory) and not division.move():
        division.why_not.update(dict.fromkeys(missing, _busy(directory)))
        return division
    for name in missing:
        division.add(name)
    return division


def refused(directory: Path, error: OSError) -> str:
    """Say in a sentence why ``directory`` cannot be used, and what to do."""
    if error.errno == errno.EBUSY:
        return _busy(directory)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"user {os.geteuid()} may not make groups in {directory} ({error.strerror}); let the host's service have Delegate=yes"
    return f"{directory} cannot be used ({error})"


def _busy(directory: Path) -> str:
    return (
        f"other programs run in {directory}, which therefore cannot be divided; start the host in a group of its own, "
        "such as with systemd-run --user --scope -p Delegate=yes"
    )


def _in_the_way(directory: Path) -> bool:
    """Whether processes of the group keep it from being divided; in the root of the hierarchy, which has no type, they do not."""
    return bool(_words(directory / "cgroup.procs")) and (directory / "cgroup.type").exists()


def _move_host(directory: Path) -> bool:
    """Move this process, and what it has started, to a leaf below; False when somebody else is there, or it may not."""
    leaf = directory / myself().directory / LEAF
    try:
        for _ in range(_ROUNDS):
            there = _words(directory / "cgroup.procs")
            if not there:
                return True
            if not there <= set(map(str, family(os.getpid()))):
                break
            leaf.mkdir(parents=True, exist_ok=True)
            for pid in there:
                with contextlib.suppress(ProcessLookupError):
                    cgroupfs.enter(leaf, int(pid))
    except OSError:
        pass  # it may not: what was moved goes back
    _move_back(directory)
    return False


def _move_back(directory: Path) -> None:
    host = directory / myself().directory
    for pid in cgroupfs.members(host / LEAF):
        with contextlib.suppress(OSError):
            cgroupfs.enter(directory, pid)
    cgroupfs.remove(host, 0.0)


def _words(file: Path) -> set[str]:
    try:
        return set(file.read_text(encoding="ascii").split())
    except OSError:
        return set()
