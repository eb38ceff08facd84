"""Find out what control groups can do for us here, by doing it: a process of our own is limited, moved, killed, and all is removed again.

In this order: the unified hierarchy (cgroup2) where our own group is ours to divide, then the old hierarchies of single controllers. What neither
holds is left to what a host can do by itself, see :mod:`~blackhole_core.executor.limits.watch`. The unified hierarchy is taken even without controllers,
for ``cgroup.kill``: it ends a worker with everything that it ever started.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.limits import cgroupfs
from blackhole_core.executor.limits.division import LEAF, divide, refused
from blackhole_core.executor.limits.group import Group
from blackhole_core.executor.limits.layout import Layout, read_layout
from blackhole_core.executor.limits.naming import myself
from blackhole_core.executor.limits.tree import CONTROLLERS, Abilities, Tree
from blackhole_core.manifest.model import Resources

__all__ = ["abilities_here", "detect"]

#: What the trial process is limited to: much more than it needs in the moment that it lives.
_TRIAL: Final = Resources(cpu=50, memory=64, pids=16)
#: Seconds for a trial group to be emptied and removed.
_END_SECONDS: Final = 2.0

_numbers = itertools.count(1)
_lock = threading.Lock()  # guards what is remembered
_remembered: dict[int, Abilities] = {}  # by process id: a forked child finds out for itself


def abilities_here() -> Abilities:
    """Return what control groups can do for this process. Found out once, which takes some 20 ms."""
    with _lock:
        here = _remembered.get(os.getpid())
        if here is None:
            here = _remembered[os.getpid()] = detect(own_layout())
        return here


def own_layout() -> Layout:
    """Return where the groups of this process are; an empty layout where there are none."""
    try:
        return read_layout(
            Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape"),
            Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"),
        )
    except OSError:
        return Layout()


def detect(layout: Layout) -> Abilities:
    """Try everything that ``layout`` names."""
    why: dict[str, list[str]] = {name: [] for name in CONTROLLERS}
    trees: list[Tree] = []
    try:
        with _trial_process() as pid:
            if layout.unified is not None:
                trees += _unified(layout.unified, pid, why)
            for name in (*CONTROLLERS, "cpuacct"):
                directory = layout.controllers.get(name)
                if directory is not None and not any(name in tree.controllers for tree in trees):
                    trees += _old(directory, name, pid, why)
            trees = [attrs.evolve(tree, kills=tree.version == 2 and _try_kill(tree, pid)) for tree in trees]
    except OSError as error:
        return Abilities((), tuple((name, f"no process could be started to try control groups with ({error})") for name in CONTROLLERS))
    held = {name for tree in trees for name in tree.controllers}
    return Abilities(
        _merged(trees),
        tuple((name, "; ".join(reasons) or "no control group of it is mounted") for name, reasons in why.items() if name not in held),
    )


@contextlib.contextmanager
def _trial_process() -> Iterator[int]:
    """Lend a process that does nothing; it never gets as far as to run Python."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        process.kill()
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


# --- the old hierarchies -----------------------------------------------------------------------------------------------


def _old(directory: Path, controller: str, pid: int, why: dict[str, list[str]]) -> list[Tree]:
    tree = Tree(directory, 1, frozenset((controller,)))
    refusal = _try(tree, pid)
    if refusal:
        why.setdefault(controller, []).append(refusal)
    return [] if refusal else [tree]


def _merged(trees: list[Tree]) -> tuple[Tree, ...]:
    """Return them with those of one directory as one: several controllers may be mounted together."""
    merged: dict[Path, Tree] = {}
    for tree in trees:
        known = merged.get(tree.directory)
        merged[tree.directory] = (
            tree if known is None else Tree(tree.directory, tree.version, known.controllers | tree.controllers, known.kills)
        )
    return tuple(merged.values())


# --- the unified hierarchy ---------------------------------------------------------------------------------------------


def _unified(directory: Path, pid: int, why: dict[str, list[str]]) -> list[Tree]:
    """Return the hierarchy with what works there: with all controllers that can be had, else with none, else not at all."""
    division = divide(directory, sorted(CONTROLLERS, key=lambda name: name != "memory"))  # what is refused most often, first
    for name, reason in division.why_not.items():
        why[name].append(reason)
    if division.controllers:
        tree = Tree(directory, 2, division.controllers)
        refusal = _try(tree, pid)
        if not refusal:
            return [tree]
        for name in division.controllers:
            why[name].append(refusal)
        division.undo()
    bare = Tree(directory, 2)
    return [] if _try(bare, pid) else [bare]


def _try_kill(tree: Tree, pid: int) -> bool:
    """Whether ``cgroup.kill`` ends what is in a group; the trial process is of no further use."""
    with contextlib.suppress(OSError), _trial_group(tree, Resources()) as directory:
        cgroupfs.enter(directory, pid)
        cgroupfs.write(directory / "cgroup.kill", "1")
        return cgroupfs.kill_all(directory, _END_SECONDS)
    return False


# --- a trial -----------------------------------------------------------------------------------------------------------


def _try(tree: Tree, pid: int) -> str:
    """Limit and move a process in ``tree`` and take it back; return what was refused, empty when nothing was."""
    try:
        with _trial_group(tree, _TRIAL) as directory:
            cgroupfs.enter(directory, pid)
            try:
                if pid not in cgroupfs.members(directory):
                    return f"a process that was moved to {directory} is not there"
            finally:
                _take_back(tree, pid)
    except OSError as error:
        return refused(tree.directory, error)
    return ""


def _take_back(tree: Tree, pid: int) -> None:
    """Move the trial process to where it came from, so that the next hierarchy has it; where that cannot be, it waits for its end in a leaf."""
    host = tree.directory / myself().directory / LEAF
    for directory in (tree.directory, host):
        with contextlib.suppress(OSError):
            cgroupfs.enter(directory, pid)
            return


@contextlib.contextmanager
def _trial_group(tree: Tree, resources: Resources) -> Iterator[Path]:
    """Lend a group with limits; it is removed, and whoever is still in it ended."""
    host, name = myself().directory, f"trial-{next(_numbers)}"
    group = Group.make((tree,), host, name, resources)
    try:
        yield tree.directory / host / name
    finally:
        group.kill()
        group.remove()
