"""The calls of one plugin that are under way to its worker, or wait for the next one: who is owed what.

Invariants (everything below is guarded by ``lock``, which is also that of the plugin's runner; ``changed`` tells of it):

* A call is in ``outstanding`` from the moment it is accepted until its answer came, the worker that had it died, or it was
  withdrawn before any worker had it; whether or not its caller still waits. ``drained`` means that it is empty.
* A call that no worker has begun is in ``_waiting`` or in the ledger's untouched part, and goes to the next worker. A call
  that may have begun never does: its caller gets :class:`WorkerDied`.
* A call goes by the lane when nothing else is outstanding, and so is the first in the worker's ledger; any other one by the channel. What is given up in the
  lane is settled by the channel.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import attrs
import msgspec

from blackhole_core.callcontext import ActiveCall, chain, get_deadline, remaining
from blackhole_core.errors import CallTimeout, CannotCross, ProtocolError, WorkerDied, WorkerOverLimit
from blackhole_core.executor.backlog import Backlog
from blackhole_core.executor.connection import Connection, Ended
from blackhole_core.executor.failure import Rebuilder
from blackhole_core.executor.lane import CAPACITY, HostLane
from blackhole_core.executor.mailbox import Mailbox, MailboxTimeout
from blackhole_core.executor.outgoing import Outgoing
from blackhole_core.executor.poison import Fingerprint
from blackhole_core.executor.poisonwatch import PoisonWatch
from blackhole_core.executor.runner import RunnerSpec
from blackhole_core.executor.timers import Timers
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import Claim, claim_body, claimed
from blackhole_core.executor.wire.ledger import Ledger
from blackhole_core.executor.wire.parcels import MARK, Parcel, Shelf, fit
from blackhole_core.executor.workerfactory import RemoteWorker
from blackhole_core.messages import HOST

__all__ = ["Traffic"]

#: Calls that may be under way to one plugin or wait for it: more than a host has threads. Largest arguments that they may have together.
_MOST_CALLS: Final = 10_000
_MOST_BACKLOG: Final = 4

#: Seconds after which a caller that gave up is worth its worker's being asked where it stands, and seconds to wait for that: at most a tenth more than it has waited.
_WORTH_ASKING: Final = 0.5
_STACK_PATIENCE: Final = 0.05


class Traffic:
    """One runner's. The runner tells it of each worker: :meth:`open_to`, :meth:`lose`; and at the end :meth:`close`."""

    def __init__(self, spec: RunnerSpec, rebuilder: Rebuilder, timers: Timers) -> None:
        self._plugin: Final = str(spec.id)
        self._limits: Final = spec.limits
        self._call_timeout = spec.limits.call_timeout
        self._rebuilder: Final = rebuilder
        self._timers: Final = timers
        self.lock: Final = threading.Lock()
        self.changed: Final = threading.Condition(self.lock)
        self._room: Final = threading.Condition(self.lock)
        self._backlog: Final = Backlog(_MOST_CALLS, _MOST_BACKLOG * spec.limits.max_message)
        self._cramped = 0  # threads that wait for room
        self._draining = 0  # threads in ``drained``
        self._numbers: Final = itertools.count(1)
        self.outstanding: Final[dict[int, Outgoing]] = {}
        self._waiting: Final[collections.deque[Outgoing]] = collections.deque()
        self.poison: Final = PoisonWatch(self._plugin, spec.limits.poison_deaths, self.lock)
        self.worker: RemoteWorker | None = None  #: who has the calls, or had them last
        self.shelf: Shelf | None = None  #: where the latest worker looks for large values
        self._open = False  # whether callers get through to it
        self._lane: HostLane | None = None  # of a worker to which they do
        self.closed_by: Callable[[str], Exception] | None = None  #: what every later call gets, by its hook

    # --- a call ------------------------------------------------------------------------------------------------------

    def exchange(self, hook: str, space: str, index: int, data: bytes, control: bool = False) -> bytes | msgspec.Raw | Claim:
        """Send a request and return the result in its answer. ``control``: it is the host's own, to a worker that is not open to callers yet.

        :raises Exception: what the plugin raised, or why there is no answer.
        """
        begun = time.monotonic()
        deadline = get_deadline()
        if deadline is None and self._call_timeout is not None:
            deadline = begun + self._call_timeout
        outgoing = Outgoing(next(self._numbers), hook, space, index, data, begun, deadline)
        call = self.poison.identify(outgoing) if self.poison.armed and not control and self.poison.on_guard() else None
        try:
            with self.lock:
                worker = self._accept(outgoing, control)
            lane = outgoing.lane
            if lane is not None:
                lane.knock()
                reply = self._wait_in_lane(worker, lane, outgoing)
            else:
                assert outgoing.mailbox is not None, "one that does not go by the lane has one"
                reply = outgoing.mailbox.wait(deadline)
        except MailboxTimeout:
            waited = time.monotonic() - begun
            where = self._abandon(outgoing)
            raise CallTimeout(self._plugin, hook, waited, where=where, stack=self._stack_of(outgoing, waited)) from None
        except BaseException:  # Ctrl-C, here or in a nested call; or the call was refused
            self._abandon(outgoing)
            raise
        if call is not None and not isinstance(reply, Exception):
            self.poison.answered(call)
        if isinstance(reply, bytes):
            return reply if reply[:1] != MARK else self._claimed_in_lane(worker, outgoing, reply)
        if isinstance(reply, codec.Answer):
            return reply.result
        raise self._rebuilder.rebuild(reply.failure, hook) if isinstance(reply, codec.Error) else reply

    def _accept(self, outgoing: Outgoing, control: bool) -> RemoteWorker:
        """Send a call, by the lane if it may, or have it wait for its turn; return who has it. Under the lock."""
        outstanding, active = self.outstanding, chain.get()
        # One that is part of a call under way must not wait for the end of others, which may wait for that one.
        if outstanding and not control and not active and not self._backlog.has_room(len(outgoing.args)):
            self._wait_for_room(outgoing)
        if self.closed_by is not None and not control:
            raise self.closed_by(outgoing.hook)
        worker = self.worker
        assert worker is not None, "call follows start"
        idle = not outstanding
        outstanding[outgoing.number] = outgoing
        outgoing.held = len(outgoing.args)
        self._backlog.add(outgoing.held)
        if type(outgoing.args) is Parcel:
            outgoing.args = fit(outgoing.args, worker.connection.shelf)
        parent = _parent_in(worker.connection, active) if active else 0
        lane = self._lane
        # One that is part of a call of the worker's own runs on the thread that made that one, not on the lane's.
        if idle and lane is not None and not lane.held and not parent and outgoing.space == HOST and len(outgoing.args) <= CAPACITY:
            self._dispatch_by_lane(worker, lane, outgoing)
            return worker
        if worker.alive and (self._open or parent or control):
            self._dispatch(worker, outgoing, parent)
        elif parent or control:
            self._settle(outgoing, lambda hook: WorkerDied(self._plugin, hook, exit=None, executed="no"))
        else:
            self._waiting.append(outgoing)
        outgoing.inbox()
        return worker

    def _wait_for_room(self, outgoing: Outgoing) -> None:
        """Wait until the calls under way leave room for another one. Under the lock, which others have meanwhile.

        :raises CallTimeout: the call's deadline passed first.
        """
        begun = time.monotonic()
        self._cramped += 1
        try:
            while self.closed_by is None and not self._backlog.has_room(len(outgoing.args)):
                left = remaining(outgoing.deadline, time.monotonic())
                if left is not None and left <= 0.0:
                    where = f"executed: no, {self._backlog} are under way already"
                    raise CallTimeout(self._plugin, outgoing.hook, time.monotonic() - begun, where=where)
                self._room.wait(left)
        finally:
            self._cramped -= 1
            self._room.notify()  # there may be room for another one beside this one, or instead of it

    # --- by the lane -------------------------------------------------------------------------------------------------

    def _dispatch_by_lane(self, worker: RemoteWorker, lane: HostLane, outgoing: Outgoing) -> None:
        """Send a call by the lane of a worker that owes nothing, and so begins it first, as the ledger has it; :meth:`HostLane.knock` follows."""
        number, deadline, begun, args = outgoing.number, outgoing.deadline, outgoing.begun, outgoing.args
        worker.ledger.sent(number, nested=False)
        if not worker.vigil.awake:
            worker.vigil.wake()
        outgoing.lane = lane
        outgoing.shelf = worker.connection.shelf
        if type(args) is Parcel:
            args.handed = True
        lane.send(number, outgoing.index, math.inf if deadline is None else deadline - begun, args, begun)

    def _wait_in_lane(self, worker: RemoteWorker, lane: HostLane, outgoing: Outgoing) -> bytes | codec.Answer | codec.Error | Exception:
        """Wait for the reply to a call that holds the lane, and give the lane up. The body of the answer when it came there, else a reply."""
        by_lane = False
        try:
            reply = None if lane.look() else _sleep_in_lane(lane, outgoing)
            if reply is None:
                reply = lane.receive(outgoing.number)
                by_lane = True
        except ProtocolError as error:
            return self._cut_off(worker, outgoing, error)
        finally:
            with self.lock:
                lane.leave()
                if by_lane and worker.ledger.answered(outgoing.number):
                    self._forget(outgoing.number)
                    mailbox = outgoing.mailbox
                else:  # the I/O thread has noted the reply, or there is none yet: whoever has something for the mailbox must find it closed
                    mailbox = outgoing.inbox()
            if mailbox is not None:
                mailbox.close()
        return reply

    def _cut_off(self, worker: RemoteWorker, outgoing: Outgoing, breach: ProtocolError) -> codec.Answer | codec.Error | Exception:
        """End a worker that misuses its lane, and return what its end means for the call."""
        worker.connection.breach(breach)
        with self.lock:
            mailbox = outgoing.inbox()
        return mailbox.wait(None)  # a killed process ends

    def _claimed_in_lane(self, worker: RemoteWorker, outgoing: Outgoing, reply: bytes) -> bytes | Claim:
        """Return an answer of whose parts some may lie in the arena; a worker that lies about them is cut off."""
        try:
            answer: bytes | Claim = claimed(reply, outgoing.shelf)
        except ProtocolError as error:
            worker.connection.breach(error)
            raise CannotCross(self._plugin, outgoing.hook, "the result", str(error)) from None
        return answer

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

    def take_reply(self, worker: RemoteWorker, message: codec.Answer | codec.Error) -> None:
        """Take in what came by the channel.

        :raises ProtocolError: no such call is open.
        """
        message = claim_body(message, worker.connection.shelf)  # first: if it lies, the call is still open, and is told of the worker's end
        with self.lock:
            if not worker.ledger.answered(message.id):
                raise ProtocolError(f"an answer to request {message.id}, which is not open")
            outgoing = self._forget(message.id)
            mailbox = outgoing.inbox()
        if not outgoing.abandoned:  # else the caller's exception would keep what lies beside the answer
            mailbox.deliver(message)

    def mailbox_of(self, number: int) -> Mailbox[codec.Answer | codec.Error | Exception] | None:
        """Return what the caller of an open call waits on, None where there is no such call."""
        with self.lock:
            outgoing = self.outstanding.get(number)
            return outgoing.inbox() if outgoing is not None else None

    # --- the end of a call -------------------------------------------------------------------------------------------

    def _settle(self, outgoing: Outgoing, error: Callable[[str], Exception]) -> None:
        if self.outstanding.pop(outgoing.number, None) is not None:
            self._make_room(outgoing)
        outgoing.inbox().deliver(error(outgoing.hook))

    def _forget(self, number: int) -> Outgoing:
        outgoing = self.outstanding.pop(number)
        self._make_room(outgoing)
        if self._draining and not self.outstanding:
            self.changed.notify_all()
        return outgoing

    def _make_room(self, outgoing: Outgoing) -> None:
        self._backlog.remove(outgoing.held)
        if self._cramped:
            self._room.notify()

    def _abandon(self, outgoing: Outgoing) -> str:
        """Note that nobody waits for a call any more, wherever its caller was interrupted, and say what is known of it.

        It is withdrawn if it has not begun, else watched, and its worker killed if it never ends.
        """
        number, hook, lane = outgoing.number, outgoing.hook, outgoing.lane
        with self.lock:
            outgoing.abandoned = True
            if lane is not None and lane.held and lane.number == number:
                lane.leave()
            mailbox = outgoing.inbox()
            worker = self.worker
            owed = worker is not None and number in worker.ledger
            if number in self.outstanding and not owed:
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
            self._timers.after(self._limits.hang_grace, lambda: self._kill_if_hung(number, hook, worker))
        return where

    def _kill_if_hung(self, number: int, hook: str, worker: RemoteWorker) -> None:
        with self.lock:
            # A call that still waits for its turn is not hung: what holds it up may have every right to take long.
            hung = worker.alive and number in worker.ledger.split()[0]
        if hung:
            worker.vigil.end_hung(f"hook {hook!r} ran on {self._limits.hang_grace:g} s after its caller gave up")

    def _stack_of(self, outgoing: Outgoing, waited: float) -> tuple[str, ...]:
        """Return where the worker stands in a call whose caller gave up after ``waited`` seconds; empty when it has not begun, or does not say at once."""
        if waited < _WORTH_ASKING:
            return ()
        with self.lock:
            worker = self.worker
            begun = worker is not None and worker.alive and outgoing.number in worker.ledger.split()[0]
        return worker.vigil.ask_stack(_STACK_PATIENCE) if worker is not None and begun else ()

    def drained(self, timeout: float | None) -> bool:
        """Wait until nothing is outstanding; False when that took longer than ``timeout`` seconds."""
        with self.changed:
            self._draining += 1
            try:
                return self.changed.wait_for(lambda: not self.outstanding, timeout)
            finally:
                self._draining -= 1

    # --- workers come and go; under the lock -------------------------------------------------------------------------

    def open_to(self, worker: RemoteWorker) -> None:
        """Let callers through to a worker, those who wait first."""
        self._open, self._lane = True, worker.lane
        while self._waiting:
            self._dispatch(worker, self._waiting.popleft(), 0)

    def lose(self, worker: RemoteWorker, ended: Ended) -> Fingerprint | None:
        """Settle what a worker that has ended may have begun, and keep what it has not; return the call that was convicted by its death."""
        was_open, self._open, self._lane = self._open, False, None
        lane = worker.offered
        if lane is not None and lane.answered() and worker.ledger.answered(lane.number):
            # Its caller has not looked yet, or gave up, or found it to be none: what the worker began after it must not be taken for untouched.
            self._settle(self.outstanding[lane.number], lambda hook: self._died(hook, ended, executed="unknown"))
        lost, untouched = worker.ledger.split()
        worker.ledger = Ledger(self._limits.threads)
        convicted = self.poison.died(self.outstanding[number] for number in lost) if was_open else None
        if not worker.connection.trusted:
            # What it said after the breach was not read, so it may have answered, and begun, any of them before it was killed.
            lost, untouched = (*lost, *untouched), ()
        for number in lost:
            self._settle(self.outstanding[number], lambda hook: self._died(hook, ended, executed="unknown"))
        self._requeue([self.outstanding[number] for number in untouched])
        if convicted is not None:
            self._refuse_waiting(convicted)
        if self.shelf is worker.arena:
            self.shelf = None
        return convicted

    def close(self, error: Callable[[str], Exception]) -> None:
        """Fail the calls that wait, and every later one, with ``error``, unless they are failed with another one already."""
        if self.closed_by is None:
            self.closed_by = error
        self._open, self._lane = False, None
        while self._waiting:
            self._settle(self._waiting.popleft(), self.closed_by)
        self._room.notify_all()

    def _refuse_waiting(self, convicted: Fingerprint) -> None:
        """Fail the calls that wait for the next worker and would end it, too."""
        for outgoing in [waiting for waiting in self._waiting if waiting.hook == convicted.hook and waiting.fingerprint() == convicted]:
            self._waiting.remove(outgoing)
            self._settle(outgoing, lambda hook: self.poison.error(convicted))

    def _requeue(self, untouched: Sequence[Outgoing]) -> None:
        """Keep for the next worker what this one certainly did not begin, in front and in order."""
        for outgoing in reversed(untouched):
            if outgoing.abandoned:
                del self.outstanding[outgoing.number]
                self._make_room(outgoing)
            elif self.closed_by is not None:
                self._settle(outgoing, self.closed_by)
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


def _sleep_in_lane(lane: HostLane, outgoing: Outgoing) -> bytes | codec.Answer | codec.Error | Exception | None:
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
