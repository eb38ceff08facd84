"""What can be asked of a runner's present worker: who and where it is, what it uses, what holds it. Nothing here changes what it does.

A worker may end while it is asked. Each answer is of one worker, never of two; where there is none, or it does not say, the answer is None or empty, never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.enforcement import Layer, report
from blackhole_core.executor.limits.usage import Usage
from blackhole_core.executor.limits.worker import WorkerLimits
from blackhole_core.executor.sandbox.judge import layers_of
from blackhole_core.executor.wire.policy import WallReport
from blackhole_core.executor.workerfactory import RemoteWorker, WorkerFactory
from blackhole_core.ids import Isolation

if TYPE_CHECKING:
    from blackhole_core.executor.relay.traffic import NetworkUsage

__all__ = ["WorkerFacts"]


class WorkerFacts:
    """Owned by the runner of plugin ``name``; ``latest`` returns its latest worker, which may have ended."""

    def __init__(self, name: str, factory: WorkerFactory, latest: Callable[[], RemoteWorker | None]) -> None:
        self._name: Final = name
        self._factory: Final = factory
        self._latest: Final = latest
        self._lost_before = 0  # lines of workers that have ended

    def ended(self, worker: RemoteWorker) -> None:
        """Take in that ``worker`` has ended; once for each."""
        self._lost_before += worker.connection.lost_lines

    @property
    def _alive(self) -> RemoteWorker | None:
        worker = self._latest()
        return worker if worker is not None and worker.alive else None

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        worker = self._alive
        return (worker.pid or worker.connection.child.pid) if worker is not None else None

    @property
    def start_way(self) -> str | None:
        """How the worker was started: ``zygote``, or ``exec``, with the reason where a zygote was wanted; ``stood by`` when it was a spare one.
        None while there is no worker.
        """
        worker = self._alive
        if worker is None:
            return None
        return f"{worker.connection.child.start}{', stood by' if worker.waited else ''}"

    @property
    def transport(self) -> str | None:
        """How calls reach the worker: ``shared memory`` (and pipes for what does not fit there) or ``pipes``. None while there is no worker."""
        worker = self._alive
        if worker is None:
            return None
        return worker.connection.child.transport if worker.lane is None else "shared memory"

    @property
    def lost_lines(self) -> int:
        """How many lines and log records of its workers were not logged, because there were too many."""
        worker = self._alive
        return self._lost_before + (worker.connection.lost_lines if worker is not None else 0)

    @property
    def network(self) -> NetworkUsage | None:
        """What the plugin moved through the relay, None when it has none."""
        relay = self._factory.relay
        return None if relay is None else relay.usage(self._name)

    @property
    def limits(self) -> WorkerLimits | None:
        """What holds the worker to its limits, and whether it is held just now; None while there is no worker."""
        worker = self._alive
        return worker.limits if worker is not None else None

    @property
    def held(self) -> bool:
        """Whether the host itself holds the worker still, or did a moment ago."""
        limits = self.limits
        return limits is not None and limits.held

    @property
    def usage(self) -> Usage:
        """What the worker uses now."""
        limits = self.limits
        usage = limits.usage() if limits is not None else Usage()
        moved = self.network
        return usage if moved is None else attrs.evolve(usage, network=moved.sent + moved.received)

    @property
    def walls_report(self) -> WallReport:
        """What the latest worker built around itself and found by trying it; nothing when there was none, or no walls."""
        worker = self._latest()
        return worker.report if worker is not None else WallReport()

    def enforcement(self, confinement: Confinement) -> Mapping[str, str]:
        """Return how each permission and limit of ``confinement`` is enforced, as :meth:`Runner.enforcement` does."""
        level, worker = self._factory.level, self._latest()
        relay = [Layer.RELAY] if worker is not None and worker.network is not None else []
        machine = [Layer.FILES, Layer.NETWORK] if level is Isolation.VM else []  # there are none of the host's in it
        layers = [Layer.ENVIRONMENT, *layers_of(self.walls_report), *machine, *relay]
        return {**report(confinement.requested, layers), **self._factory.limiter.enforcement(level, confinement)}

    def imported(self, seconds: float) -> tuple[str, ...] | None:
        """Return which of the plugin's modules the worker has imported, None when there is none or it does not say within ``seconds``."""
        worker = self._latest()
        return worker.imported.ask(worker.connection.send, seconds) if worker is not None and worker.startup.over else None
