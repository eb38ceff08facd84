"""One hierarchy of control groups in which directories for workers can be made, and what its files are called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import attrs

from blackhole_core.executor.limits.amounts import DEFAULT_PERIOD, cpu_quota, memory_bytes, task_limit
from blackhole_core.manifest.model import Resources

__all__ = ["CONTROLLERS", "Abilities", "Setting", "Tree", "cpu_settings", "settings"]

#: The controllers that hold limits of ours, by the names that the kernel and a manifest give them: ``resources.pids`` is ``pids``.
CONTROLLERS: Final = ("cpu", "memory", "pids")


@attrs.frozen
class Tree:
    """``directory`` is where the host may make its own; ``controllers`` are those that hold limits there; ``kills`` says whether ``cgroup.kill`` works."""

    directory: Path
    version: Literal[1, 2]
    controllers: frozenset[str] = frozenset()
    kills: bool = False


@attrs.frozen
class Abilities:
    """What control groups can do for us on this machine: the hierarchies that were proven, and why a controller is in none of them."""

    trees: tuple[Tree, ...] = ()
    why_not: tuple[tuple[str, str], ...] = ()

    def holds(self, controller: str) -> bool:
        """Whether the kernel holds a limit of that controller."""
        return any(controller in tree.controllers for tree in self.trees)

    def reason(self, controller: str) -> str:
        """Say why it does not."""
        return dict(self.why_not).get(controller, "there are no control groups")

    @property
    def kills(self) -> bool:
        """Whether a worker and everything it ever started can be ended at once."""
        return any(tree.kills for tree in self.trees)


@attrs.frozen
class Setting:
    """A file of a group and what to write to it; ``optional``: the file may be missing (no accounting of swap, an older kernel)."""

    file: str
    text: str
    optional: bool = False


def settings(tree: Tree, resources: Resources) -> Iterator[Setting]:
    """Yield what to write to a new group of ``tree``, in this order.

    :raises ValueError: a limit is too small to be told.
    """
    if resources.memory is not None and "memory" in tree.controllers:
        size = str(memory_bytes(resources.memory))
        if tree.version == 1:
            yield Setting("memory.limit_in_bytes", size)
            yield Setting("memory.memsw.limit_in_bytes", size, optional=True)  # may not be lower than the one before
        else:
            yield Setting("memory.max", size)
            yield Setting("memory.swap.max", "0", optional=True)
            yield Setting("memory.oom.group", "1", optional=True)  # a worker is ended as a whole, not crippled
    if resources.cpu is not None and "cpu" in tree.controllers:
        yield from cpu_settings(tree, resources.cpu)
    if resources.pids is not None and "pids" in tree.controllers:
        yield Setting("pids.max", str(task_limit(resources.pids)))


def cpu_settings(tree: Tree, percent: float | None) -> Iterator[Setting]:
    """Yield what to write so that a group of ``tree`` gets so many % of one core, or as much as it wants (None), in this order.

    :raises ValueError: the share is too small to be told.
    """
    quota, period = cpu_quota(percent) if percent is not None else (None, DEFAULT_PERIOD)
    if tree.version == 1:
        yield Setting("cpu.cfs_period_us", str(period))
        yield Setting("cpu.cfs_quota_us", str(-1 if quota is None else quota))
    else:
        yield Setting("cpu.max", f"{'max' if quota is None else quota} {period}")
