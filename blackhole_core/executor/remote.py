"""Levels process and above: the plugin runs in a worker, and the same runner outlives several workers.

Invariants (everything below is guarded by ``_lock``, and ``_changed`` tells of it):

* A call is in ``_outstanding`` from the moment it is accepted until its answer came, the worker that had it died, or it was
  withdrawn before any worker had it; whether or not its caller still waits. ``drained`` means that it is empty.
* A call that no worker has begun is in ``_waiting`` or in the ledger's untouched part, and goes to the next worker. A call
  that may have begun never does: its caller gets :class:`WorkerDied`.
* ``_state`` goes NEW → READY ⇄ DOWN → CLOSED, with ``_closed_by`` the error every later call gets. Only ``start`` and
  ``restart`` lead to READY, one at a time; they are called by the loader and the supervisor. ``stop`` ends the worker that
  one of them may be bringing up, and waits until that one has noticed.
* What a worker says is judged by its own :class:`RemoteWorker`, so nothing an earlier one left behind can touch a later one.
* ``_worker`` is the one that serves, or did last. Any other that there is stands by: it is the :class:`~blackhole_core.executor.spare.Spare`'s, and its
  end changes nothing here.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import functools
import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import msgspec

from blackhole_core.callcontext import ActiveCall, chain, get_deadline, remaining
from blackhole_core.errors import (
    CallTimeout,
    CannotCross,
    LoadFailed,
    PluginBroken,
    PluginUnloaded,
    ProtocolError,
    WorkerDied,
    WorkerOverLimit,
)
from blackhole_core.executor.backlog import Backlog
from blackhole_core.executor.callbacks import CallbackServer
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.connection import Connection, Ended
from blackhole_core.executor.facts import WorkerFacts
from blackhole_core.executor.failure import Rebuilder, attribute
from blackhole_core.executor.lane import CAPACITY, HostLane
from blackhole_core.executor.mailbox import Mailbox, MailboxTimeout
from blackhole_core.executor.outgoing import Outgoing
from blackhole_core.executor.output import plugin_logger
from blackhole_core.executor.poison import Fingerprint
from blackhole_core.executor.poisonwatch import PoisonWatch
from blackhole_core.executor.proxy import make_proxy
from blackhole_core.executor.relay.rules import NOTHING, rules_of
from blackhole_core.executor.runner import RunnerSpec
from blackhole_core.executor.together import Together
from blackhole_core.executor.values import Values
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import Claim, claim_body, claimed
from blackhole_core.executor.wire.ledger import Ledger
from blackhole_core.executor.wire.parcels import MARK, Parcel, Shelf, fit
from blackhole_core.executor.workerfactory import RemoteWorker, WorkerFactory
from blackhole_core.loader.snapshot import Sources
from blackhole_core.messages import HOST, Call, Calls, Implementation, Replies, Surface

if TYPE_CHECKING:
    from blackhole_core.executor.spare import Spare, SpareFacts

__all__ = ["RemoteRunner"]

#: Calls that may be under way to one plugin or wait for it: more than a host has threads. Largest arguments that they may have together.
_MOST_CALLS: Final = 10_000
_MOST_BACKLOG: Final = 4

#: Seconds after which a caller that gave up is worth its worker's being asked where it stands, and seconds to wait for that: at most a tenth more than it has waited.
_WORTH_ASKING: Final = 0.5
_STACK_PATIENCE: Final = 0.05


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
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._call_timeout = spec.limits.call_timeout
        self._room = threading.Condition(self._lock)
        self._backlog = Backlog(_MOST_CALLS, _MOST_BACKLOG * spec.limits.max_message)
        self._cramped = 0  # threads that wait for room
        self._draining = 0  # threads in ``drained``
        self._state = _State.NEW
        self._closed_by: Callable[[str], Exception] | None = None
        self._coming_up = False
        self._worker: RemoteWorker | None = None
        self.facts: Final = WorkerFacts(spec.id.name, factory, lambda: self._worker)
        self._outstanding: dict[int, Outgoing] = {}
        self._waiting: collections.deque[Outgoing] = collections.deque()
        self._numbers = itertools.count(1)
        self._values = Values(self._plugin, spec.limits.max_message)
        self._sources: Sources | None = None  # the text that its workers are loaded from; the first has it from disk
        self._shelf: Shelf | None = None  # where the latest worker looks for large values
        self._poison = PoisonWatch(self._plugin, spec.limits.poison_deaths, self._lock)
        self._together = Together(
            self._values,
            self._rebuilder,
            self.call,
            lambda hook, space, index, data: self._exchange(hook, space, index, data, False),
            lambda error, hook: attribute(error, self._spec.id, hook, self.level),
            alone=lambda: self._poison.armed and self._poison.on_guard(),  # a call that kills workers shows only alone
            closed=lambda: self._closed_by is not None,
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
            network = self._worker.network if self._worker is not None else None
        if network is not None:
            network.confine(rules_of(confinement, self.level) or NOTHING)
        if self._spare is not None:
            self._spare.renew()

    def stop(self) -> None:
        self._close(lambda hook: PluginUnloaded(self._plugin, hook))
        with self._changed:
            worker, coming_up = self._worker, self._coming_up
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
            if self._closed_by is None:
                self._closed_by = error
            while self._waiting:
                self._settle(self._waiting.popleft(), self._closed_by)
            self._changed.notify_all()
            self._room.notify_all()
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
                self._shelf = worker.connection.shelf = worker.arena if started.arena else None
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
            if self._closed_by is not None:
                return False
            worker.waited = True
            self._worker = worker
            return True

        return self._worker if self._spare is not None and self._spare.take(give) else None

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
            self._worker = worker
        worker.connection.open()
        if self._spec.confinement is not spec.confinement:
            self.confine(self._spec.confinement)  # it did not see this worker yet
        if self._closed_by is not None:
            worker.connection.kill()  # stop() did not see this worker yet
        return worker

    def _open(self, worker: RemoteWorker) -> None:
        with self._changed:
            if self._closed_by is not None:
                raise self._closed_by("start")
            if not worker.alive:
                raise LoadFailed(self._plugin, "its worker ended as soon as it was up")
            self._state = _State.READY
            while self._waiting:
                self._dispatch(worker, self._waiting.popleft(), 0)

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
        try:
            return self._call(hook, space, index, args, control)
        except Exception as error:
            attribute(error, self._spec.id, hook, self.level)
            raise

    def call_many(self, calls: Calls) -> Replies:
        return self._together.run(calls)

    def _call(self, hook: str, space: str, index: int, args: tuple[Any, ...], control: bool) -> Any:
        data = self._values.encode(hook, space, index, args, self._shelf)
        return self._values.decode(hook, space, index, self._exchange(hook, space, index, data, control))

    def _exchange(self, hook: str, space: str, index: int, data: bytes, control: bool) -> bytes | msgspec.Raw | Claim:
        """Send a request and return the result in its answer.

        :raises Exception: what the plugin raised, or why there is no answer.
        """
        begun = time.monotonic()
        deadline = get_deadline()
        if deadline is None and self._call_timeout is not None:
            deadline = begun + self._call_timeout
        outgoing = Outgoing(next(self._numbers), hook, space, index, data, deadline)
        call = self._poison.identify(outgoing) if self._poison.armed and not control and self._poison.on_guard() else None
        try:
            worker, mailbox = self._accept(outgoing, control)
            reply = mailbox.wait(deadline) if mailbox is not None else self._wait_in_lane(worker, outgoing)
        except MailboxTimeout:
            waited = time.monotonic() - begun
            where = self._abandon(outgoing)
            raise CallTimeout(self._plugin, hook, waited, where=where, stack=self._stack_of(outgoing, waited)) from None
        except BaseException:  # Ctrl-C, here or in a nested call; or the call was refused
            self._abandon(outgoing)
            raise
        if call is not None and not isinstance(reply, Exception):
            self._poison.answered(call)
        if isinstance(reply, bytes):
            return reply if reply[:1] != MARK else self._claimed_in_lane(worker, outgoing, reply)
        if isinstance(reply, codec.Answer):
            return reply.result
        raise self._rebuilder.rebuild(reply.failure, hook) if isinstance(reply, codec.Error) else reply

    def _claimed_in_lane(self, worker: RemoteWorker, outgoing: Outgoing, reply: bytes) -> bytes | Claim:
        """Return an answer of whose parts some may lie in the arena; a worker that lies about them is cut off."""
        try:
            answer: bytes | Claim = claimed(reply, outgoing.shelf)
        except ProtocolError as error:
            worker.connection.breach(error)
            raise CannotCross(self._plugin, outgoing.hook, "the result", str(error)) from None
        return answer

    def _accept(self, outgoing: Outgoing, control: bool) -> tuple[RemoteWorker, Mailbox[codec.Answer | codec.Error | Exception] | None]:
        """Send a call or have it wait for its turn; return who has it and the caller's mailbox, None for a caller that waits in the lane."""
        active = chain.get()
        with self._lock:
            # One that is part of a call under way must not wait for the end of others, which may wait for that one.
            if self._outstanding and not control and not active and not self._backlog.has_room(len(outgoing.args)):
                self._wait_for_room(outgoing)
            if self._closed_by is not None and not control:
                raise self._closed_by(outgoing.hook)
            worker = self._worker
            assert worker is not None, "call follows start"
            idle = not self._outstanding
            self._outstanding[outgoing.number] = outgoing
            outgoing.held = len(outgoing.args)
            self._backlog.add(outgoing.held)
            parent = _parent_in(worker.connection, active) if active else 0
            if type(outgoing.args) is Parcel:
                outgoing.args = fit(outgoing.args, worker.connection.shelf)
            if worker.alive and (self._state is _State.READY or parent or control):
                lane = worker.lane
                # One that is part of a call of the worker's own runs on the thread that made that one, not on the lane's.
                if idle and not parent and lane is not None and not lane.held and outgoing.space == HOST and len(outgoing.args) <= CAPACITY:
                    self._dispatch_by_lane(worker, lane, outgoing)
                    return worker, None
                self._dispatch(worker, outgoing, parent)
            elif parent or control:
                self._settle(outgoing, lambda hook: WorkerDied(self._plugin, hook, exit=None, executed="no"))
            else:
                self._waiting.append(outgoing)
            return worker, outgoing.inbox()

    def _wait_for_room(self, outgoing: Outgoing) -> None:
        """Wait until the calls under way leave room for another one. Under the lock, which others have meanwhile.

        :raises CallTimeout: the call's deadline passed first.
        """
        begun = time.monotonic()
        self._cramped += 1
        try:
            while self._closed_by is None and not self._backlog.has_room(len(outgoing.args)):
                left = remaining(outgoing.deadline, time.monotonic())
                if left is not None and left <= 0.0:
                    where = f"executed: no, {self._backlog} are under way already"
                    raise CallTimeout(self._plugin, outgoing.hook, time.monotonic() - begun, where=where)
                self._room.wait(left)
        finally:
            self._cramped -= 1
            self._room.notify()  # there may be room for another one beside this one, or instead of it

    def _make_room(self, outgoing: Outgoing) -> None:
        self._backlog.remove(outgoing.held)
        if self._cramped:
            self._room.notify()

    @property
    def poisoned(self) -> tuple[str, ...]:
        """The calls that are not run any more, by hook and digest, oldest first."""
        return self._poison.convicted

    def release_poison(self) -> tuple[str, ...]:
        """Run such calls again, and forget what is held against others; return the former."""
        return self._poison.release()

    # --- by the lane -------------------------------------------------------------------------------------------------

    def _dispatch_by_lane(self, worker: RemoteWorker, lane: HostLane, outgoing: Outgoing) -> None:
        """Send a call by the lane of a worker that owes nothing, and so begins it first, as the ledger has it."""
        deadline = outgoing.deadline
        worker.ledger.sent(outgoing.number, nested=False)
        if not worker.vigil.awake:
            worker.vigil.wake()
        outgoing.lane = lane
        outgoing.shelf = worker.connection.shelf
        if type(outgoing.args) is Parcel:
            outgoing.args.handed = True
        lane.send(outgoing.number, outgoing.index, math.inf if deadline is None else deadline - time.monotonic(), outgoing.args)

    def _wait_in_lane(self, worker: RemoteWorker, outgoing: Outgoing) -> bytes | codec.Answer | codec.Error | Exception:
        """Wait for the reply to a call that holds the lane, and give the lane up. The body of the answer when it came there, else a reply."""
        lane, by_lane = outgoing.lane, False
        assert lane is not None
        try:
            if not lane.look():
                other = _sleep_in_lane(lane, outgoing)
                if other is not None:
                    return other
            answer = lane.receive(outgoing.number)
            by_lane = True
        except ProtocolError as error:
            return self._cut_off(worker, outgoing, error)
        finally:
            with self._lock:
                lane.leave()
                if by_lane and worker.ledger.answered(outgoing.number):
                    self._forget(outgoing.number)
                    mailbox = outgoing.mailbox
                else:  # the I/O thread has noted the reply, or there is none yet: whoever has something for the mailbox must find it closed
                    mailbox = outgoing.inbox()
            if mailbox is not None:
                mailbox.close()
        return answer

    def _cut_off(self, worker: RemoteWorker, outgoing: Outgoing, breach: ProtocolError) -> codec.Answer | codec.Error | Exception:
        """End a worker that misuses its lane, and return what its end means for the call."""
        worker.connection.breach(breach)
        with self._lock:
            mailbox = outgoing.inbox()
        return mailbox.wait(None)  # a killed process ends

    # --- by the channel ----------------------------------------------------------------------------------------------

    def _dispatch(self, worker: RemoteWorker, outgoing: Outgoing, parent: int) -> None:
        timeout = remaining(outgoing.deadline, time.monotonic())
        worker.ledger.sent(outgoing.number, nested=parent != 0)
        if not worker.vigil.awake:
            worker.vigil.wake()
        if type(outgoing.args) is Parcel:
            outgoing.args = fit(outgoing.args, worker.connection.shelf)  # it may have waited for another worker than it was made for
            if type(outgoing.args) is Parcel:
                outgoing.args.handed = True
        args = msgspec.Raw(outgoing.args)
        worker.connection.send(codec.Request(outgoing.number, outgoing.space, outgoing.hook, outgoing.index, args, timeout, parent))

    def _settle(self, outgoing: Outgoing, error: Callable[[str], Exception]) -> None:
        if self._outstanding.pop(outgoing.number, None) is not None:
            self._make_room(outgoing)
        outgoing.inbox().deliver(error(outgoing.hook))

    def _abandon(self, outgoing: Outgoing) -> str:
        """Note that nobody waits for a call any more, wherever its caller was interrupted, and say what is known of it.

        It is withdrawn if it has not begun, else watched, and its worker killed if it never ends.
        """
        number, hook, lane = outgoing.number, outgoing.hook, outgoing.lane
        with self._lock:
            outgoing.abandoned = True
            if lane is not None and lane.held and lane.number == number:
                lane.leave()
            mailbox = outgoing.inbox()
            worker = self._worker
            owed = worker is not None and number in worker.ledger
            if number in self._outstanding and not owed:
                with contextlib.suppress(ValueError):  # it was not even put there
                    self._waiting.remove(outgoing)
                self._forget(number)
                where = "executed: no, its worker is being restarted"
            else:
                where = "executed: unknown"
        mailbox.close()
        if owed:
            assert worker is not None
            worker.connection.send(codec.Cancel(number, lane is not None))
            self._host.timers.after(self._spec.limits.hang_grace, lambda: self._kill_if_hung(number, hook, worker))
        return where

    def _kill_if_hung(self, number: int, hook: str, worker: RemoteWorker) -> None:
        with self._changed:
            # A call that still waits for its turn is not hung: what holds it up may have every right to take long.
            hung = worker.alive and number in worker.ledger.split()[0]
        if hung:
            worker.vigil.end_hung(f"hook {hook!r} ran on {self._spec.limits.hang_grace:g} s after its caller gave up")

    def _stack_of(self, outgoing: Outgoing, waited: float) -> tuple[str, ...]:
        """Return where the worker stands in a call whose caller gave up after ``waited`` seconds; empty when it has not begun, or does not say at once."""
        if waited < _WORTH_ASKING:
            return ()
        with self._lock:
            worker = self._worker
            begun = worker is not None and worker.alive and outgoing.number in worker.ledger.split()[0]
        return worker.vigil.ask_stack(_STACK_PATIENCE) if worker is not None and begun else ()

    def drained(self, timeout: float | None) -> bool:
        with self._changed:
            self._draining += 1
            try:
                return self._changed.wait_for(lambda: not self._outstanding, timeout)
            finally:
                self._draining -= 1

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
            self._on_reply(worker, message)
        elif isinstance(message, codec.Imported):
            worker.imported.hear(message)
        elif isinstance(message, codec.StateChanged):
            self.on_state_change()
        else:
            worker.startup.hear(message)

    def _on_reply(self, worker: RemoteWorker, message: codec.Answer | codec.Error) -> None:
        message = claim_body(message, worker.connection.shelf)  # first: if it lies, the call is still open, and is told of the worker's end
        with self._changed:
            if not worker.ledger.answered(message.id):
                raise ProtocolError(f"an answer to request {message.id}, which is not open")
            outgoing = self._forget(message.id)
            mailbox = outgoing.inbox()
        if not outgoing.abandoned:  # else the caller's exception would keep what lies beside the answer
            mailbox.deliver(message)

    def _forget(self, number: int) -> Outgoing:
        outgoing = self._outstanding.pop(number)
        self._make_room(outgoing)
        if not self._outstanding and self._draining:
            self._changed.notify_all()
        return outgoing

    def _on_host_call(self, worker: RemoteWorker, message: codec.HostCall) -> None:
        with self._changed:
            parent = self._outstanding.get(message.parent)
            mailbox = parent.inbox() if parent is not None else None
        self._callbacks.receive(claim_body(message, worker.connection.shelf), worker.connection, mailbox)

    def _on_end(self, worker: RemoteWorker, ended: Ended) -> None:
        verdict = worker.limits.verdict(ended.exit, ended.reason is not None)
        if verdict is None and ended.reason is None:
            verdict = worker.connection.child.verdict(self._spec.confinement.resources)
        with self._changed:
            spare = self._spare if worker is not self._worker else None
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
        lane = worker.offered
        with self._changed:
            worker.alive = False
            self.facts.ended(worker)
            worker.vigil.end()
            died_ready = self._state is _State.READY
            if died_ready:
                self._state = _State.DOWN
            if lane is not None and lane.answered() and worker.ledger.answered(lane.number):
                # Its caller has not looked yet, or gave up, or found it to be none: what the worker began after it must not be taken for untouched.
                self._settle(self._outstanding[lane.number], lambda hook: self._died(hook, ended, executed="unknown"))
            lost, untouched = worker.ledger.split()
            worker.ledger = Ledger(self._spec.limits.threads)
            convicted = self._poison.died(self._outstanding[number] for number in lost) if died_ready else None
            if not worker.connection.trusted:
                # What it said after the breach was not read, so it may have answered, and begun, any of them before it was killed.
                lost, untouched = (*lost, *untouched), ()
            for number in lost:
                self._settle(self._outstanding[number], lambda hook: self._died(hook, ended, executed="unknown"))
            self._requeue([self._outstanding[number] for number in untouched])
            if convicted is not None:
                self._refuse_waiting(convicted)
            if self._shelf is worker.arena:
                self._shelf = None
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
        self._host.emit("call.poisoned", spec.name, version=spec.version, hook=call.hook, call=str(call), deaths=self._poison.deaths)

    def _refuse_waiting(self, convicted: Fingerprint) -> None:
        """Fail the calls that wait for the next worker and would end it, too. Under the lock."""
        for outgoing in [waiting for waiting in self._waiting if waiting.hook == convicted.hook and waiting.fingerprint() == convicted]:
            self._waiting.remove(outgoing)
            self._settle(outgoing, lambda hook: self._poison.error(convicted))

    def _requeue(self, untouched: list[Outgoing]) -> None:
        """Keep for the next worker what this one certainly did not begin, in front and in order."""
        for outgoing in reversed(untouched):
            if outgoing.abandoned:
                del self._outstanding[outgoing.number]
                self._make_room(outgoing)
            elif self._closed_by is not None:
                self._settle(outgoing, self._closed_by)
            else:
                outgoing.args = fit(outgoing.args, None)  # while what it needs of this worker's arena is still there
                self._waiting.appendleft(outgoing)

    def _died(self, hook: str, ended: Ended, *, executed: Literal["unknown", "no"]) -> WorkerDied:
        facts: dict[str, Any] = {"exit": ended.exit, "executed": executed, "tail": ended.tail, "reason": ended.reason, "stack": ended.stack}
        if ended.limit is not None:
            return WorkerOverLimit(self._plugin, hook, **attrs.asdict(ended.limit), **facts)
        error = WorkerDied(self._plugin, hook, **facts)
        if ended.reason:
            error.add_note(f"the host ended it: {ended.reason}")
        return error


def _sleep_in_lane(lane: HostLane, outgoing: Outgoing) -> codec.Answer | codec.Error | Exception | None:
    """Wait until there is an answer in the lane (None), or return the reply that came by the channel; run nested calls meanwhile.

    :raises MailboxTimeout: the call's deadline passed first.
    """
    while not lane.answered():
        mailbox = outgoing.mailbox
        if mailbox is not None:
            reply = mailbox.poll()
            if reply is not None:
                return reply
        if not lane.sleep(outgoing.deadline):
            raise MailboxTimeout
    return None


def _parent_in(connection: Connection, active: tuple[ActiveCall, ...]) -> int:
    """Return the number of the innermost of the active calls that ``connection``'s worker made into the host, 0 for none."""
    return next((call.call_id for call in reversed(active) if call.runner is connection), 0)
