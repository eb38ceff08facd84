"""What holds the workers of one host to their limits: one for all of them, made with the first, closed after the last."""

from __future__ import annotations

import itertools
import logging
import resource
import threading
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from blackhole_core.errors import LoadFailed
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.limits.amounts import descriptors, rlimits
from blackhole_core.executor.limits.detect import abilities_here
from blackhole_core.executor.limits.enforcing import limit_enforcement
from blackhole_core.executor.limits.group import Group
from blackhole_core.executor.limits.naming import myself
from blackhole_core.executor.limits.processes import family
from blackhole_core.executor.limits.sweep import sweep
from blackhole_core.executor.limits.tree import Abilities
from blackhole_core.executor.limits.worker import WorkerLimits
from blackhole_core.executor.timers import Timers
from blackhole_core.ids import Isolation, PluginId
from blackhole_core.manifest.model import Resources

__all__ = ["Limiter"]

_logger: Final = logging.getLogger("blackhole.limits")

_numbers = itertools.count(1)  # several limiters of one process share a directory


class _Reapable(Protocol):
    """What is known of a worker's process: its id, when that becomes free, who clears up when the host is killed, and the groups it was put into ahead."""

    @property
    def pid(self) -> int: ...

    def before_reap(self, action: Callable[[], object]) -> None: ...

    @property
    def clear_after_host(self) -> Callable[[str], object]: ...

    @property
    def group(self) -> Group | None: ...


class Limiter:
    """Any thread. ``abilities`` says what control groups can do; it is asked once, at the first worker."""

    def __init__(self, abilities: Callable[[], Abilities] | None = None) -> None:
        self._find_out = abilities or abilities_here
        self._lock = threading.Lock()
        self._abilities: Abilities | None = None
        self._timers = Timers("blackhole-limits")

    @property
    def abilities(self) -> Abilities:
        """What control groups can do here. Finding out also removes what killed hosts left."""
        with self._lock:
            if self._abilities is None:
                self._abilities = self._find_out()
                for directory in sweep(self._abilities.trees, myself()):
                    _logger.info("%s was left over from a host that was killed; removed", directory)
            return self._abilities

    def enforcement(self, level: Isolation, confinement: Confinement) -> Mapping[str, str]:
        """Return how each limit that was named is enforced."""
        return limit_enforcement(level, confinement, lambda: self.abilities)

    def rlimits(self, confinement: Confinement) -> tuple[tuple[int, int], ...]:
        """Return the resource limits that a worker must be started with, as number and most."""
        limits = confinement.resources
        memory = limits.memory is not None and not self.abilities.holds("memory")
        files = (resource.RLIMIT_NOFILE, descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
        return (files, *rlimits(memory=limits.memory if memory else None, disk=limits.disk))

    def ahead(self, pid: int) -> Group | None:
        """Put a process that waits to become a worker into groups of its own, without limits; None where there are none.

        To move a process the kernel waits until every processor has passed a certain point, 10 ms, unless one was moved just before.
        """
        try:
            group = Group.make(self.abilities.trees, myself().directory, f"ahead-{next(_numbers)}", Resources())
            try:
                group.enter(pid, family)
            except BaseException:
                group.dissolve()
                raise
        except OSError as error:
            _logger.debug("a worker that waits is in no control group: %s", error)
            return None
        return group

    def attach(self, child: _Reapable, plugin: PluginId, generation: int, confinement: Confinement) -> WorkerLimits:
        """Put a worker, and what it has started by now, under its limits. It has not been told anything yet.

        :raises LoadFailed: that was refused; nothing is left but the worker itself.
        """
        abilities = self.abilities
        name = f"{plugin.name}-{generation}-{next(_numbers)}"
        ahead = child.group
        try:
            group = ahead or Group.make(abilities.trees, myself().directory, name, confinement.resources)
            try:
                if ahead is not None:
                    ahead.limit(confinement.resources)
                else:
                    group.enter(child.pid, family)
                for directory in group.places:
                    child.clear_after_host(str(directory))
                return self._watched(child, group, confinement, abilities)
            except BaseException:
                group.dissolve()
                raise
        except (OSError, ValueError) as error:
            if confinement.resources != Resources():
                raise LoadFailed(str(plugin), f"its limits could not be put in force: {error}") from error
            _logger.warning(
                "the worker of plugin %s is in no control group of its own: %s", plugin, str(error)
            )  # the error itself would keep what called us
            return self._watched(child, Group({}), confinement, Abilities())

    def _watched(self, child: _Reapable, group: Group, confinement: Confinement, abilities: Abilities) -> WorkerLimits:
        limits = WorkerLimits(child.pid, group, confinement, abilities, self._timers)
        child.before_reap(limits.before_reap)
        limits.watch()
        return limits

    def close(self) -> None:
        """End the thread that watches; every worker has ended."""
        self._timers.close()
