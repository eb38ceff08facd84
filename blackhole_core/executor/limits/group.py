"""The control groups of one worker: one directory per hierarchy, made together, removed together.

Owned by one :class:`~blackhole_core.executor.limits.worker.WorkerLimits`. Every process of the worker is in each of them: whatever a member starts is
born there, and none of them is ours to leave.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from blackhole_core.executor.limits import cgroupfs
from blackhole_core.executor.limits.tree import Tree, cpu_settings, settings
from blackhole_core.manifest.model import Resources

__all__ = ["Group"]

#: Seconds for the members of a group that was killed to be gone, and for the kernel to let it be removed: a millisecond or two, unless the machine is
#: busy. What takes longer is left to the sweep.
_END_SECONDS: Final = 2.0
#: Rounds in which the children of a process are moved after it: each round moves what was born while the one before looked.
_ROUNDS: Final = 100


class Group:
    """Directories by hierarchy. After :meth:`remove` nothing is done any more."""

    def __init__(self, directories: dict[Tree, Path]) -> None:
        self._directories = directories

    @classmethod
    def make(cls, trees: Iterable[Tree], host: str, name: str, resources: Resources) -> Group:
        """Make the groups, with their limits, below ``host`` (made where it is missing).

        :raises OSError: the kernel refused; nothing is left.
        :raises ValueError: a limit is too small.
        """
        group = cls({})
        try:
            for tree in trees:
                directory = tree.directory / host / name
                group._directories[tree] = directory  # first: what fails half-way is removed, too
                _make_below(directory, tree)
            group.limit(resources)
        except BaseException:
            group.remove()
            raise
        return group

    def limit(self, resources: Resources) -> None:
        """Set limits in groups that have none yet.

        :raises OSError: the kernel refused.
        :raises ValueError: a limit is too small.
        """
        for tree, directory in self._directories.items():
            for setting in settings(tree, resources):
                with contextlib.suppress(FileNotFoundError) if setting.optional else contextlib.nullcontext():
                    cgroupfs.write(directory / setting.file, setting.text)

    def enter(self, pid: int, family: Callable[[int], list[int]]) -> None:
        """Move a process in, and what it has started by now; ``family`` lists a process and its descendants. One that has ended is passed over.

        :raises OSError: the kernel refused.
        """
        for directory in self._directories.values():
            moved: set[int] = set()
            for _ in range(_ROUNDS):
                new = [member for member in family(pid) if member not in moved]
                if not new:
                    break
                for member in new:
                    with contextlib.suppress(ProcessLookupError):
                        cgroupfs.enter(directory, member)
                moved.update(new)

    @property
    def places(self) -> list[Path]:
        """The host's directories, which this one's are in."""
        return [directory.parent for directory in self._directories.values()]

    # --- readings, None when not known -------------------------------------------------------------------------------

    @property
    def memory(self) -> int | None:
        """Bytes in use, without what the kernel would give up at once: old pages of files."""
        directory, version = self._of("memory")
        if directory is None:
            return None
        used = cgroupfs.read_number(directory / ("memory.usage_in_bytes" if version == 1 else "memory.current"))
        idle = cgroupfs.read_field(directory / "memory.stat", "total_inactive_file" if version == 1 else "inactive_file")
        return None if used is None else max(0, used - (idle or 0))

    @property
    def peak(self) -> int | None:
        """The most bytes that were in use."""
        directory, version = self._of("memory")
        return (
            None
            if directory is None
            else cgroupfs.read_number(directory / ("memory.max_usage_in_bytes" if version == 1 else "memory.peak"))
        )

    @property
    def oom_kills(self) -> int | None:
        """How many of its processes the kernel ended because the memory limit was reached."""
        directory, version = self._of("memory")
        return (
            None
            if directory is None
            else cgroupfs.read_field(directory / ("memory.oom_control" if version == 1 else "memory.events"), "oom_kill")
        )

    @property
    def cpu(self) -> float | None:
        """Seconds of processor time of all that ever were in it."""
        for tree, directory in self._directories.items():
            if tree.version == 2:
                used = cgroupfs.read_field(directory / "cpu.stat", "usage_usec")
                if used is not None:
                    return used / 1e6
            elif "cpuacct" in tree.controllers:
                used = cgroupfs.read_number(directory / "cpuacct.usage")
                if used is not None:
                    return used / 1e9
        return None

    @property
    def throttled(self) -> int | None:
        """Periods in which it used up its share of the processor and had to wait."""
        directory, _ = self._of("cpu")
        return None if directory is None else cgroupfs.read_field(directory / "cpu.stat", "nr_throttled")

    @property
    def refused(self) -> int | None:
        """Processes and threads that it could not start because it had as many as it may."""
        directory, _ = self._of("pids")
        return None if directory is None else cgroupfs.read_field(directory / "pids.events", "max")

    @property
    def tasks(self) -> int | None:
        """Processes and threads."""
        directory, _ = self._of("pids")
        return None if directory is None else cgroupfs.read_number(directory / "pids.current")

    def members(self) -> list[int] | None:
        """The processes in it; None when there is no group."""
        directory = next(iter(self._directories.values()), None)
        return None if directory is None else [pid for pid in cgroupfs.members(directory) if pid > 0]

    # --- its rank and share ------------------------------------------------------------------------------------------

    def rank(self, *, last: bool) -> None:
        """Have it run only when nobody else wants to (``last``), or as others do.

        :raises OSError: the kernel cannot (it is older than 5.15), or there is no such group.
        """
        directory, _ = self._of("cpu")
        if directory is None:
            raise FileNotFoundError(errno.ENOENT, "there is no group that holds the processor")
        cgroupfs.write(directory / "cpu.idle", str(int(last)))

    def share(self, percent: float | None) -> None:
        """Give it so many % of one core from now on, or as much as it wants.

        :raises OSError: the kernel refused.
        """
        for tree, directory in self._directories.items():
            if "cpu" in tree.controllers:
                for setting in cpu_settings(tree, percent):
                    cgroupfs.write(directory / setting.file, setting.text)

    # --- the end -----------------------------------------------------------------------------------------------------

    def kill(self) -> bool:
        """End every member; False when one lives on."""
        pids, _ = self._of("pids")
        if pids is not None:
            with contextlib.suppress(OSError):
                cgroupfs.write(pids / "pids.max", "0")  # or what forks faster than it is killed would never end
        # The one that ends all at once first: in the others there is nobody left then, but who was moved out of it.
        first = sorted(self._directories.items(), key=lambda item: not item[0].kills)
        killed = [cgroupfs.kill_all(directory, _END_SECONDS) for _tree, directory in first]
        return all(killed)

    def dissolve(self) -> None:
        """Move its members back to the host's own group, and remove the directories."""
        for tree, directory in self._directories.items():
            for member in cgroupfs.members(directory):
                with contextlib.suppress(OSError):
                    cgroupfs.enter(tree.directory, member)
        self.remove()

    def end(self) -> None:
        """End every member and remove the directories, of processes that never became a worker; what cannot be removed is left to the sweep."""
        self.kill()
        self.remove()

    def remove(self) -> list[Path]:
        """Remove the directories, and the host's where it is empty now; return those that are still in use."""
        left: list[Path] = []
        for directory in self._directories.values():
            if not cgroupfs.remove(directory, _END_SECONDS):
                left.append(directory)
            with contextlib.suppress(OSError):
                directory.parent.rmdir()  # there are others in it, mostly
        self._directories = {}
        return left

    def _of(self, controller: str) -> tuple[Path | None, int]:
        return next(((path, tree.version) for tree, path in self._directories.items() if controller in tree.controllers), (None, 0))


def _make_below(directory: Path, tree: Tree) -> None:
    """Make ``directory`` and the host's above it, which another worker's end may remove at any moment; they have the controllers of ``tree``."""
    while True:
        with contextlib.suppress(FileExistsError):  # exist_ok would look whether it is a directory, and it may be gone by then
            directory.parent.mkdir()
        try:
            directory.mkdir()
        except FileNotFoundError:
            continue  # the host's has just been removed
        break
    if tree.version == 2 and tree.controllers:  # in an old hierarchy every group has them
        cgroupfs.write(directory.parent / "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(tree.controllers)))
