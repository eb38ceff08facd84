"""Brings up the bare process of a worker with everything that it shares with its host, before it is told what to load."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from blackhole_core.errors import LoadFailed, ProtocolError
from blackhole_core.executor.arena import UNAVAILABLE as NO_ARENA
from blackhole_core.executor.arena import Arena
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.connection import Connection, Ended
from blackhole_core.executor.failure import Rebuilder
from blackhole_core.executor.heartbeat import HeartbeatPolicy
from blackhole_core.executor.imported import Questions
from blackhole_core.executor.lane import UNAVAILABLE as NO_LANE
from blackhole_core.executor.lane import HostLane
from blackhole_core.executor.launch.child import Child, Launcher, LaunchSpec
from blackhole_core.executor.limits.enforcing import held_from_outside
from blackhole_core.executor.limits.limiter import Limiter
from blackhole_core.executor.limits.worker import WorkerLimits
from blackhole_core.executor.output import LogPump, plugin_logger
from blackhole_core.executor.relay.rules import rules_of
from blackhole_core.executor.runner import Host, RunnerSpec
from blackhole_core.executor.sandbox.walls import Enclosure, Walls
from blackhole_core.executor.startup import Startup
from blackhole_core.executor.vigil import Vigil
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.ledger import Ledger
from blackhole_core.executor.wire.policy import WallReport
from blackhole_core.ids import Isolation

if TYPE_CHECKING:
    from blackhole_core.executor.relay.host import Attachment, Relay

__all__ = ["RemoteWorker", "WorkerFactory"]

_logger: Final = logging.getLogger("blackhole.workers")

#: Bytes a message may be larger than the arguments or the result inside it, or the last one of many results.
_ENVELOPE: Final = 4096 + 2 * codec.MANY_BYTES


@attrs.define(eq=False)
class RemoteWorker:
    """One worker of a runner: how to reach it, what it owes, and whether it still lives.

    ``offered`` is the short way that it was given, if any, and ``lane`` the same once it has said that it takes calls there. ``arena`` is what it was
    given for large values, until it has ended: later only who still looks at one of them holds it.
    """

    connection: Connection
    startup: Startup
    ledger: Ledger
    vigil: Vigil
    limits: WorkerLimits
    enclosure: Enclosure
    offered: HostLane | None
    arena: Arena | None
    network: Attachment | None
    imported: Questions = attrs.field(factory=Questions)
    lane: HostLane | None = None
    alive: bool = True
    pid: int | None = None  # as it said itself; the process that was launched may be its keeper
    report: WallReport = WallReport()
    waited: bool = False  #: whether it stood by as a spare worker before it was wanted

    def let_go(self) -> None:
        """Close what was shared with it; it has ended."""
        if self.offered is not None:
            self.offered.close()
        if self.arena is not None:
            self.arena.close()
            self.arena = self.connection.shelf = None
        if self.network is not None:
            self.network.close()


@attrs.frozen(eq=False)
class WorkerFactory:
    """What the workers of one runner are made with. ``lane`` and ``arena`` say whether calls, and large values, may go through shared memory;

    ``relay`` is how a worker with walls reaches what it may of the network, and ``walls`` are built around each; None: none are.
    """

    host: Host
    level: Isolation
    launcher: Launcher
    pump: LogPump
    import_path: tuple[str, ...]
    limiter: Limiter
    relay: Relay | None = None
    lane: bool = True
    arena: bool = True
    walls: Walls | None = None

    def make(
        self,
        spec: RunnerSpec,
        *,
        rebuilder: Rebuilder,
        lock: threading.Lock,
        paused: Callable[[], bool],
        on_message: Callable[[RemoteWorker, codec.WorkerMessage], object],
        on_end: Callable[[RemoteWorker, Ended], object],
    ) -> RemoteWorker:
        """Launch a worker; its connection is not open yet, so that neither callback comes before the caller knows the worker.

        ``lock`` guards what the worker owes, ``paused`` says whether the host itself holds it still.

        :raises Exception: something of it could not be had; nothing is left behind.
        """
        spec = _with_data_directory(spec)
        with contextlib.ExitStack() as undo:
            enclosure = self._enclose(spec)
            undo.callback(enclosure.close)
            startup = Startup(spec, self.host, rebuilder, enclosure.policy, self.level)
            environment = {**enclosure.environment, **spec.confinement.environment(os.environ), **spec.environment}
            descriptors: tuple[int, ...] = ()
            lane = HostLane() if self.lane and NO_LANE is None else None
            if lane is not None:
                undo.callback(lane.close)
                descriptors += lane.descriptors
            arena = None
            if self.arena and not NO_ARENA:
                arena = Arena(spec.limits.max_message, in_place=spec.limits.share_results, timers=self.host.timers)
                undo.callback(arena.discard)
                descriptors += (arena.descriptor,)
            network = self._attach(spec, lambda breach: connection.breach(ProtocolError(breach)))
            if network is not None:
                undo.callback(network.close)
                descriptors += (network.descriptor,)
            held = held_from_outside(self.level, spec.confinement)
            rlimits = self.limiter.rlimits(held)
            child = self.launcher.launch(
                LaunchSpec(spec.id.name, self.import_path, environment, descriptors, rlimits, spec, enclosure.policy)
            )
            _launched(lane, arena, network)
            limits = self._hold(child, spec, held)
            undo.callback(limits.release)
            connection = Connection(
                child,
                name=spec.id.name,
                max_message=spec.limits.max_message + _ENVELOPE,
                logger=plugin_logger(spec.id.name),
                pump=self.pump,
                on_message=lambda message: on_message(worker, message),
                on_end=lambda ended: on_end(worker, ended),
            )
            undo.pop_all()
        if arena is not None:
            arena.tidy_with(lambda: connection.send(codec.Trim()))
        heartbeat = HeartbeatPolicy(spec.limits.heartbeat, spec.limits.hung_after)
        condemn = lane.condemn if lane is not None else lambda: None
        vigil = Vigil(connection, self.host.timers, heartbeat, lock, owes=lambda: worker.ledger, paused=paused, condemn=condemn)
        worker = RemoteWorker(connection, startup, Ledger(spec.limits.threads), vigil, limits, enclosure, lane, arena, network)
        return worker

    def _enclose(self, spec: RunnerSpec) -> Enclosure:
        new_directory = self.host.scratch.new
        if self.walls is None:  # a container, or a machine, has a place for temporary files itself
            return Enclosure(temporary=new_directory(spec.id.name) if self.level is Isolation.PROCESS else None)
        return self.walls.around(spec, self.import_path, new_directory)

    def _hold(self, child: Child, spec: RunnerSpec, held: Confinement) -> WorkerLimits:
        """Put a worker under its limits, before it is told anything; where that fails it is ended."""
        try:
            return self.limiter.attach(child, spec.id, spec.generation, held)
        except BaseException:
            child.discard()
            raise

    def _attach(self, spec: RunnerSpec, breach: Callable[[str], object]) -> Attachment | None:
        """Make the way to the network for a worker; None when it has none."""
        rules = rules_of(spec.confinement, self.level)
        if self.relay is None or rules is None:
            return None
        framed = self.level is Isolation.VM
        return self.relay.attach(spec.id.name, rules, spec.confinement.resources.network, breach, framed=framed)


def _with_data_directory(spec: RunnerSpec) -> RunnerSpec:
    """Make the plugin's own directory; where that fails it has none, as in a host without a state directory.

    :raises LoadFailed: a limit is to be held by looking at that directory.
    """
    confinement = spec.confinement
    if confinement.data is None:
        return spec
    try:
        confinement.data.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        sentence = f"its data directory cannot be made: {error}"
        if confinement.resources.disk is not None:
            raise LoadFailed(str(spec.id), f"{sentence}; without one its limit disk cannot be held") from error
        _logger.warning("plugin %s runs without a directory of its own: %s", spec.id, sentence)
        return attrs.evolve(spec, confinement=attrs.evolve(confinement, data=None))
    return spec


def _launched(*shared: HostLane | Arena | Attachment | None) -> None:
    """Close here what of it is the worker's, which has it now."""
    for one in shared:
        if one is not None:
            one.launched()
