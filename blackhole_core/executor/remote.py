"""Levels process and above: the plugin runs in a worker, and the same runner outlives several workers.

Invariants (everything below is guarded by ``_lock``, which is that of its :class:`~blackhole_core.executor.traffic.Traffic`):

* ``_state`` goes NEW → READY ⇄ DOWN → CLOSED. Only ``start`` and ``restart`` lead to READY, one at a time; they are called by the
  loader and the supervisor. ``stop`` ends the worker that one of them may be bringing up, and waits until that one has noticed.
* What a worker says is judged by its own :class:`RemoteWorker`, so nothing an earlier one left behind can touch a later one.
* ``_traffic.worker`` is the one that serves, or did last. Any other that there is stands by: it is the
  :class:`~blackhole_core.executor.spare.Spare`'s, and its end changes nothing here.
"""

from __future__ import annotations

import enum
import functools
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from blackhole_core.errors import (
    LoadFailed,
    PluginBroken,
    PluginUnloaded,
    ProtocolError,
)
from blackhole_core.executor.callbacks import CallbackServer
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.connection import Connection, Ended
from blackhole_core.executor.facts import WorkerFacts
from blackhole_core.executor.failure import Rebuilder, attribute
from blackhole_core.executor.output import plugin_logger
from blackhole_core.executor.poison import Fingerprint
from blackhole_core.executor.proxy import make_proxy
from blackhole_core.executor.relay.rules import NOTHING, rules_of
from blackhole_core.executor.runner import RunnerSpec
from blackhole_core.executor.together import Together
from blackhole_core.executor.traffic import Traffic
from blackhole_core.executor.values import Values
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import claim_body
from blackhole_core.executor.workerfactory import RemoteWorker, WorkerFactory
from blackhole_core.loader.snapshot import Sources
from blackhole_core.messages import HOST, Call, Calls, Implementation, Replies, Surface

if TYPE_CHECKING:
    from blackhole_core.executor.spare import Spare, SpareFacts

__all__ = ["RemoteRunner"]


class _State(enum.Enum):
    NEW = "new"
    READY = "ready"
    DOWN = "down"
    CLOSED = "closed"


class RemoteRunner:
    """Runs one plugin instance in a worker at a time, which ``factory`` makes; ``spare``: another one stands by for when that one dies."""

    def __init__(self, spec: RunnerSpec, factory: WorkerFactory, *, spare: bool = False) -> None:
        self.level: Final = factory.level
        self._spec = spec
        self._factory = factory
        self._host = factory.host
        self._plugin = str(spec.id)
        self._rebuilder = Rebuilder(self._plugin, f"the worker of plugin {spec.id}", self._host.exception_type)
        self._callbacks = CallbackServer(spec, self._host)
        self._traffic = Traffic(spec, self._rebuilder, self._host.timers)
        self._lock = self._traffic.lock
        self._changed = self._traffic.changed
        self._state = _State.NEW
        self._coming_up = False
        self.facts: Final = WorkerFacts(spec.id.name, factory, lambda: self._traffic.worker)
        self._values = Values(self._plugin, spec.limits.max_message)
        self._sources: Sources | None = None  # the text that its workers are loaded from; the first has it from disk
        poison = self._traffic.poison
        self._together = Together(
            self._values,
            self._rebuilder,
            self.call,
            self._traffic.exchange,
            lambda error, hook: attribute(error, self._spec.id, hook, self.level),
            alone=lambda: poison.armed and poison.on_guard(),  # a call that kills workers shows only alone
            closed=lambda: self._traffic.closed_by is not None,
        )
        #: Whether the host itself holds the worker still, or did a moment ago: a limiter that stops it now and then sets this. Such time is no silence of the worker's.
        self.paused: Callable[[], bool] = lambda: self.facts.held
        #: Told on the I/O thread, and must not block: the plugin says that its state changed.
        self.on_state_change: Callable[[], object] = lambda: None
        self._on_death: Callable[[Ended], object] | None = None
        self._death: Ended | None = None  # one that nobody was told of yet
        self._spare: Spare | None = self._make_spare() if spare else None

    def _make_spare(self) -> Spare:
        from blackhole_core.executor.spare import Spare

        return Spare(self._plugin, self._lock, self._later_spec, self._make)

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> Surface:
        self._bring_up(lambda surface: setattr(self._values, "surface", surface))
        return self._values.surface

    def restart(self, prepare: Callable[[Callable[[Call], Any]], object]) -> None:
        """Bring up a new worker after a death; ``prepare`` may call it before anybody else's call gets through.

        :raises Exception: the new worker did not come up; the runner is down as before.
        """

        def check(surface: Surface) -> None:
            if surface != self._values.surface:
                raise LoadFailed(self._plugin, "its new worker offers other hooks than the one that died; reload it instead")
            prepare(self._control)

        self._bring_up(check)

    def watch(self, on_death: Callable[[Ended], object]) -> None:
        """Have ``on_death`` told each time a worker ends that nobody asked to end; a death that has happened already is told now.

        It runs on the worker's I/O thread and must not block.
        """
        with self._changed:
            self._on_death = on_death
            death, self._death = self._death, None
        if death is not None:
            on_death(death)

    def give_up(self, reason: str) -> None:
        """Refuse every queued and later call; no worker is brought up again."""
        self._close(lambda hook: PluginBroken(self._plugin, reason))

    def confine(self, confinement: Confinement) -> None:
        """Let ``confinement`` hold from now on for what is decided here, and for the walls of the next worker; those of this one stand as they were built."""
        self._spec = attrs.evolve(self._spec, confinement=confinement)
        with self._changed:
            network = self._traffic.worker.network if self._traffic.worker is not None else None
        if network is not None:
            network.confine(rules_of(confinement, self.level) or NOTHING)
        if self._spare is not None:
            self._spare.renew()

    def stop(self) -> None:
        self._close(lambda hook: PluginUnloaded(self._plugin, hook))
        with self._changed:
            worker, coming_up = self._traffic.worker, self._coming_up
        if worker is not None:
            if coming_up:
                worker.connection.kill()
            self._end(worker.connection)
        with self._changed:
            self._changed.wait_for(lambda: not self._coming_up, self._spec.limits.stop_grace)
        if self._spare is not None:
            self._spare.join()
        self._callbacks.close()

    def _end(self, connection: Connection) -> None:
        """Ask the worker to end, then terminate, then kill it; bounded by ``stop_grace`` and a moment."""
        grace = self._spec.limits.stop_grace
        connection.send(codec.Stop())
        if connection.join(grace * 0.7):
            return
        connection.child.signal(signal.SIGTERM)
        if connection.join(grace * 0.3):
            return
        connection.kill(f"it did not end within {grace:g} s")
        connection.join(None)

    def _close(self, error: Callable[[str], Exception]) -> None:
        with self._changed:
            self._state = _State.CLOSED
            self._traffic.close(error)
            self._changed.notify_all()
        if self._spare is not None:
            self._spare.close()

    # --- bringing up -------------------------------------------------------------------------------------------------

    def _bring_up(self, check: Callable[[Surface], object]) -> None:
        """Bring up a worker and let callers through to it, those who wait first; on any failure it is ended again."""
        with self._changed:
            self._coming_up = True
        try:
            worker = self._adopt() or self._launch()
            try:
                started = worker.startup.converse(
                    worker.connection.send, plugin_logger(self._spec.id.name).getEffectiveLevel(), worker.connection.tail
                )
                self._values.bindings = started.bindings
                worker.report = started.walls
                if worker.enclosure.shows_pid:  # else it is the process that was started
                    worker.pid = worker.limits.main = started.pid
                worker.lane = worker.offered if started.lane else None
                self._traffic.shelf = worker.connection.shelf = worker.arena if started.arena else None
                check(started.surface)
                self._open(worker)
                self._sources = worker.startup.sources
                if self._spare is not None:
                    self._spare.keep()
            except BaseException:
                worker.connection.kill()
                worker.connection.join(None)
                raise
        finally:
            with self._changed:
                self._coming_up = False
                self._changed.notify_all()

    def _adopt(self) -> RemoteWorker | None:
        """Take the worker that stands by; None where there is none."""

        def give(worker: RemoteWorker) -> bool:
            if self._traffic.closed_by is not None:
                return False
            worker.waited = True
            self._traffic.worker = worker
            return True

        return self._traffic.worker if self._spare is not None and self._spare.take(give) else None

    def _later_spec(self) -> RunnerSpec:
        """Return what a worker gets that takes the place of a dead one: it imports no more than serving needs, and is what that one was, whatever was edited since."""
        return attrs.evolve(self._spec, imported=(), sources=self._sources)

    def _make(self, spec: RunnerSpec) -> RemoteWorker:
        return self._factory.make(
            spec,
            rebuilder=self._rebuilder,
            lock=self._lock,
            paused=lambda: self.paused(),
            on_message=self._on_message,
            on_end=self._on_end,
        )

    def _launch(self) -> RemoteWorker:
        spec = self._spec if self._state is _State.NEW else self._later_spec()
        worker = self._make(spec)
        with self._changed:
            self._traffic.worker = worker
        worker.connection.open()
        if self._spec.confinement is not spec.confinement:
            self.confine(self._spec.confinement)  # it did not see this worker yet
        if self._traffic.closed_by is not None:
            worker.connection.kill()  # stop() did not see this worker yet
        return worker

    def _open(self, worker: RemoteWorker) -> None:
        with self._changed:
            if self._traffic.closed_by is not None:
                raise self._traffic.closed_by("start")
            if not worker.alive:
                raise LoadFailed(self._plugin, "its worker ended as soon as it was up")
            self._state = _State.READY
            self._traffic.open_to(worker)

    # --- calls -------------------------------------------------------------------------------------------------------

    def plugin_object(self) -> Any:
        def target(index: int, implementation: Implementation) -> Callable[..., Any]:
            return functools.partial(self._answer, implementation.hook, HOST, index)

        return make_proxy(self._plugin, self._spec.project, self._values.surface, target, self.call_many)

    def call(self, call: Call) -> Any:
        return self._answer(call.hook, call.space, call.index, *call.args)

    def _control(self, call: Call) -> Any:
        """A call of the host's own to a worker that is not open to callers yet."""
        return self._answer(call.hook, call.space, call.index, *call.args, control=True)

    def _answer(self, hook: str, space: str, index: int, /, *args: Any, control: bool = False) -> Any:
        values, traffic = self._values, self._traffic
        try:
            data = values.encode(hook, space, index, args, traffic.shelf)
            return values.decode(hook, space, index, traffic.exchange(hook, space, index, data, control))
        except Exception as error:
            attribute(error, self._spec.id, hook, self.level)
            raise

    def call_many(self, calls: Calls) -> Replies:
        return self._together.run(calls)

    def drained(self, timeout: float | None) -> bool:
        return self._traffic.drained(timeout)

    @property
    def poisoned(self) -> tuple[str, ...]:
        """The calls that are not run any more, by hook and digest, oldest first."""
        return self._traffic.poison.convicted

    def release_poison(self) -> tuple[str, ...]:
        """Run such calls again, and forget what is held against others; return the former."""
        return self._traffic.poison.release()

    # --- what is known of it ---------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        return self.facts.pid

    @property
    def spare(self) -> SpareFacts | None:
        """How the worker stands that stands by; None where none is wanted."""
        return self._spare.facts if self._spare is not None else None

    def enforcement(self) -> Mapping[str, str]:
        return self.facts.enforcement(self._spec.confinement)

    # --- what the I/O thread tells -----------------------------------------------------------------------------------

    def _on_message(self, worker: RemoteWorker, message: codec.WorkerMessage) -> None:
        if isinstance(message, codec.Pong | codec.Stacks):
            worker.vigil.hear(message)
        elif not worker.startup.over:
            if isinstance(message, codec.HostCall):
                raise ProtocolError("a call to the host from a worker that has not come up")
            worker.startup.hear(message)
        elif isinstance(message, codec.HostCall):
            self._on_host_call(worker, message)
        elif isinstance(message, codec.Answer | codec.Error):
            self._traffic.take_reply(worker, message)
        elif isinstance(message, codec.Imported):
            worker.imported.hear(message)
        elif isinstance(message, codec.StateChanged):
            self.on_state_change()
        else:
            worker.startup.hear(message)

    def _on_host_call(self, worker: RemoteWorker, message: codec.HostCall) -> None:
        mailbox = self._traffic.mailbox_of(message.parent)
        self._callbacks.receive(claim_body(message, worker.connection.shelf), worker.connection, mailbox)

    def _on_end(self, worker: RemoteWorker, ended: Ended) -> None:
        verdict = worker.limits.verdict(ended.exit, ended.reason is not None)
        if verdict is None and ended.reason is None:
            verdict = worker.connection.child.verdict(self._spec.confinement.resources)
        with self._changed:
            spare = self._spare if worker is not self._traffic.worker else None
        if spare is None:
            self._take_end(worker, ended.judged(verdict))
        else:
            self._take_end_of(spare, worker, ended.judged(verdict))
        worker.limits.release()  # last: callers, and who starts the next worker, have been told
        worker.enclosure.close()

    def _take_end_of(self, spare: Spare, worker: RemoteWorker, ended: Ended) -> None:
        """Take in that a worker has ended that stood by."""
        with self._changed:
            worker.alive = False
            self.facts.ended(worker)
            worker.vigil.end()
            worker.let_go()
        worker.startup.end(ended)
        worker.imported.end()
        spare.ended(worker, ended)

    def _take_end(self, worker: RemoteWorker, ended: Ended) -> None:
        with self._changed:
            worker.alive = False
            self.facts.ended(worker)
            worker.vigil.end()
            died_ready = self._state is _State.READY
            if died_ready:
                self._state = _State.DOWN
            convicted = self._traffic.lose(worker, ended)
            worker.let_go()
            self._changed.notify_all()
            on_death = self._on_death if died_ready else None
            if died_ready and on_death is None:
                self._death = ended
        worker.startup.end(ended)
        worker.imported.end()
        if convicted is not None:
            self._emit_poisoned(convicted)
        if on_death is not None:
            on_death(ended)

    def _emit_poisoned(self, call: Fingerprint) -> None:
        spec = self._spec.id
        self._host.emit(
            "call.poisoned", spec.name, version=spec.version, hook=call.hook, call=str(call), deaths=self._traffic.poison.deaths
        )
