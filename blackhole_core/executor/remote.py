"""Levels process and above: the plugin runs in a worker, and the same runner outlives several workers.

Invariants (everything below is guarded by ``_changed``):

* A call is in ``_outstanding`` from the moment it is accepted until its answer came, the worker that had it died, or it was
  withdrawn before any worker had it; whether or not its caller still waits. ``drained`` means that it is empty.
* A call that no worker has begun is in ``_waiting`` or in the ledger's untouched part, and goes to the next worker. A call
  that may have begun never does: its caller gets :class:`WorkerDied`.
* ``_state`` goes NEW → READY ⇄ DOWN → CLOSED, with ``_closed_by`` the error every later call gets. Only ``start`` and
  ``restart`` lead to READY, one at a time; they are called by the loader and the supervisor. ``stop`` ends the worker that
  one of them may be bringing up, and waits until that one has noticed.
* What a worker says is judged by its own :class:`_Worker`, so nothing an earlier one left behind can touch a later one.
"""

from __future__ import annotations

import collections
import enum
import itertools
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import attrs
import msgspec

from blackhole_core.callcontext import ActiveCall, chain, get_deadline, remaining
from blackhole_core.errors import (
    CallTimeout,
    CannotCross,
    LimitExceeded,
    LoadFailed,
    PluginBroken,
    PluginUnloaded,
    ProtocolError,
    WorkerDied,
)
from blackhole_core.executor.binding import Binding
from blackhole_core.executor.callbacks import CallbackServer
from blackhole_core.executor.connection import Connection, Ended
from blackhole_core.executor.failure import Rebuilder, attribute
from blackhole_core.executor.imported import Questions
from blackhole_core.executor.launch.child import Launcher, LaunchSpec
from blackhole_core.executor.mailbox import Mailbox, MailboxTimeout
from blackhole_core.executor.output import LogPump, plugin_logger
from blackhole_core.executor.proxy import make_proxy
from blackhole_core.executor.runner import Host, RunnerSpec
from blackhole_core.executor.startup import Startup
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.ledger import Ledger
from blackhole_core.executor.wire.plain import NotPlain, decode_plain, encode_plain
from blackhole_core.executor.wire.signature import Undecodable
from blackhole_core.ids import Isolation
from blackhole_core.messages import CONTRACT, Call, Implementation, Surface

__all__ = ["RemoteRunner"]

#: Bytes a message may be larger than the arguments or result inside it.
_ENVELOPE: Final = 4096


class _State(enum.Enum):
    NEW = "new"
    READY = "ready"
    DOWN = "down"
    CLOSED = "closed"


@attrs.define(eq=False)
class _Outgoing:
    """One accepted call. ``chain`` is what it is part of, ``deadline`` when its caller gives up (``time.monotonic()``)."""

    number: int
    call: Call
    args: msgspec.Raw
    deadline: float | None
    chain: tuple[ActiveCall, ...]
    mailbox: Mailbox[codec.Answer | codec.Error | Exception]
    abandoned: bool = False

    def parent_in(self, connection: Connection) -> int:
        """Return the number of the innermost call of that worker into the host that this one is part of, 0 for none."""
        return next((active.call_id for active in reversed(self.chain) if active.runner is connection), 0) if self.chain else 0


@attrs.define(eq=False)
class _Worker:
    """One worker of this runner: how to reach it, what it owes, and whether it still lives."""

    connection: Connection
    startup: Startup
    ledger: Ledger
    imported: Questions = attrs.field(factory=Questions)
    alive: bool = True


class RemoteRunner:
    """Runs one plugin instance in a worker that ``launcher`` brings up."""

    def __init__(
        self, spec: RunnerSpec, host: Host, *, level: Isolation, launcher: Launcher, pump: LogPump, import_path: tuple[str, ...]
    ) -> None:
        self.level: Final = level
        self._spec = spec
        self._host = host
        self._launcher = launcher
        self._pump = pump
        self._import_path = import_path
        self._plugin = str(spec.id)
        self._rebuilder = Rebuilder(self._plugin, f"the worker of plugin {spec.id}", host.exception_type)
        self._callbacks = CallbackServer(spec, host)
        self._changed = threading.Condition()
        self._state = _State.NEW
        self._closed_by: Callable[[str], Exception] | None = None
        self._coming_up = False
        self._worker: _Worker | None = None
        self._outstanding: dict[int, _Outgoing] = {}
        self._waiting: collections.deque[_Outgoing] = collections.deque()
        self._numbers = itertools.count(1)
        self._surface = Surface()
        self._bindings: tuple[Binding, ...] = ()
        self._on_death: Callable[[Ended], object] | None = None
        self._death: Ended | None = None  # one that nobody was told of yet

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> Surface:
        self._bring_up(lambda surface: setattr(self, "_surface", surface))
        return self._surface

    def restart(self, prepare: Callable[[Callable[[Call], Any]], object]) -> None:
        """Bring up a new worker after a death; ``prepare`` may call it before anybody else's call gets through.

        :raises Exception: the new worker did not come up; the runner is down as before.
        """

        def check(surface: Surface) -> None:
            if surface != self._surface:
                raise LoadFailed(self._plugin, "its code was changed while it ran and now offers other hooks; reload it instead")
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

    # --- bringing up -------------------------------------------------------------------------------------------------

    def _bring_up(self, check: Callable[[Surface], object]) -> None:
        """Bring up a worker and let callers through to it, those who wait first; on any failure it is ended again."""
        with self._changed:
            self._coming_up = True
        try:
            worker = self._launch()
            try:
                started = worker.startup.converse(worker.connection.send, plugin_logger(self._spec.id.name).getEffectiveLevel())
                self._bindings = started.bindings
                check(started.surface)
                self._open(worker)
            except BaseException:
                worker.connection.kill()
                worker.connection.join(None)
                raise
        finally:
            with self._changed:
                self._coming_up = False
                self._changed.notify_all()

    def _launch(self) -> _Worker:
        spec = self._spec
        if self._state is not _State.NEW:
            spec = attrs.evolve(spec, imported=())  # a worker that takes the place of a dead one imports no more than serving needs
        startup = Startup(spec, self._host, self._rebuilder)
        child = self._launcher.launch(LaunchSpec(spec.id.name, self._import_path, spec.environment))
        connection = Connection(
            child,
            name=spec.id.name,
            max_message=spec.limits.max_message + _ENVELOPE,
            logger=plugin_logger(spec.id.name),
            pump=self._pump,
            on_message=lambda message: self._on_message(worker, message),
            on_end=lambda ended: self._on_end(worker, ended),
        )
        worker = _Worker(connection, startup, Ledger(spec.limits.threads))
        with self._changed:
            self._worker = worker
        connection.open()
        if self._closed_by is not None:
            connection.kill()  # stop() did not see this worker yet
        return worker

    def _open(self, worker: _Worker) -> None:
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
            hook = implementation.hook
            return lambda *args: self.call(Call(hook, args, index=index))

        return make_proxy(self._plugin, self._spec.project, self._surface, target)

    def call(self, call: Call) -> Any:
        return self._attributed(call, control=False)

    def _control(self, call: Call) -> Any:
        """A call of the host's own to a worker that is not open to callers yet."""
        return self._attributed(call, control=True)

    def _attributed(self, call: Call, *, control: bool) -> Any:
        try:
            return self._call(call, control=control)
        except Exception as error:
            attribute(error, self._spec.id, call.hook, self.level)
            raise

    def _call(self, call: Call, *, control: bool) -> Any:
        deadline = get_deadline()
        begun = time.monotonic()
        if deadline is None and self._spec.limits.call_timeout is not None:
            deadline = begun + self._spec.limits.call_timeout
        outgoing = _Outgoing(next(self._numbers), call, msgspec.Raw(self._encode(call)), deadline, chain.get(), Mailbox())
        self._accept(outgoing, control=control)
        try:
            reply = outgoing.mailbox.wait(deadline)
        except MailboxTimeout:
            where = self._abandon(outgoing)
            raise CallTimeout(self._plugin, call.hook, time.monotonic() - begun, where=where) from None
        except BaseException:  # Ctrl-C, here or in a nested call
            self._abandon(outgoing)
            raise
        if isinstance(reply, codec.Answer):
            return self._result(call, reply)
        raise self._rebuilder.rebuild(reply.failure, call.hook) if isinstance(reply, codec.Error) else reply

    def _encode(self, call: Call) -> bytes:
        try:
            args = encode_plain(list(call.args)) if call.space == CONTRACT else self._bindings[call.index].arguments.encode(call.args)
        except NotPlain as error:
            names = self._surface.contracts.get(call.hook) if call.space == CONTRACT else self._surface.implementations[call.index].argnames
            raise CannotCross(self._plugin, call.hook, _argument(names or (), error.path), error.type_name) from None
        cap = self._spec.limits.max_message
        if len(args) > cap:
            raise LimitExceeded(self._plugin, "max_message", wanted=cap, got=len(args), unit="bytes")
        return args

    def _result(self, call: Call, reply: codec.Answer) -> Any:
        try:
            if call.space == CONTRACT:
                return decode_plain(bytes(reply.result))
            return self._bindings[call.index].result.decode(reply.result)
        except (Undecodable, ProtocolError) as error:
            raise CannotCross(self._plugin, call.hook, "the result", f"not what the spec's annotation says: {error}") from None

    def _accept(self, outgoing: _Outgoing, *, control: bool) -> None:
        with self._changed:
            if self._closed_by is not None and not control:
                raise self._closed_by(outgoing.call.hook)
            worker = self._worker
            assert worker is not None, "call follows start"
            parent = outgoing.parent_in(worker.connection)
            self._outstanding[outgoing.number] = outgoing
            if worker.alive and (control or parent or self._state is _State.READY):
                self._dispatch(worker, outgoing, parent)
            elif parent or control:
                self._settle(outgoing, lambda hook: WorkerDied(self._plugin, hook, exit=None, executed="no"))
            else:
                self._waiting.append(outgoing)

    def _dispatch(self, worker: _Worker, outgoing: _Outgoing, parent: int) -> None:
        timeout = remaining(outgoing.deadline, time.monotonic())
        call = outgoing.call
        worker.ledger.sent(outgoing.number, nested=parent != 0)
        worker.connection.send(codec.Request(outgoing.number, call.space, call.hook, call.index, outgoing.args, timeout, parent))

    def _settle(self, outgoing: _Outgoing, error: Callable[[str], Exception]) -> None:
        self._outstanding.pop(outgoing.number, None)
        outgoing.mailbox.deliver(error(outgoing.call.hook))

    def _abandon(self, outgoing: _Outgoing) -> str:
        """Note that nobody waits for a call any more, and say what is known of it.

        It is withdrawn if it has not begun, else watched, and its worker killed if it never ends.
        """
        number, hook = outgoing.number, outgoing.call.hook
        with self._changed:
            outgoing.abandoned = True
            worker = self._worker
            assert worker is not None, "the call was accepted"
            if outgoing in self._waiting:
                self._waiting.remove(outgoing)
                del self._outstanding[number]
                self._changed.notify_all()
                return "executed: no, its worker is being restarted"
        worker.connection.send(codec.Cancel(number))
        self._host.timers.after(self._spec.limits.hang_grace, lambda: self._kill_if_hung(number, hook, worker))
        return "executed: unknown"

    def _kill_if_hung(self, number: int, hook: str, worker: _Worker) -> None:
        with self._changed:
            # A call that still waits for its turn is not hung: what holds it up may have every right to take long.
            hung = worker.alive and number in worker.ledger.split()[0]
        if hung:
            worker.connection.kill(f"hook {hook!r} ran on {self._spec.limits.hang_grace:g} s after its caller gave up")

    def drained(self, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._outstanding, timeout)

    def imported(self, seconds: float) -> tuple[str, ...] | None:
        """Return which of the plugin's modules the worker has imported, None when there is none or it does not say within ``seconds``."""
        worker = self._worker
        return worker.imported.ask(worker.connection.send, seconds) if worker is not None and worker.startup.over else None

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        worker = self._worker
        return worker.connection.child.pid if worker is not None and worker.alive else None

    # --- what the I/O thread tells -----------------------------------------------------------------------------------

    def _on_message(self, worker: _Worker, message: codec.WorkerMessage) -> None:
        if not worker.startup.over:
            if isinstance(message, codec.HostCall):
                raise ProtocolError("a call to the host from a worker that has not come up")
            worker.startup.hear(message)
        elif isinstance(message, codec.HostCall):
            self._on_host_call(worker, message)
        elif isinstance(message, codec.Answer | codec.Error):
            self._on_reply(worker, message)
        elif isinstance(message, codec.Imported):
            worker.imported.hear(message)
        else:
            worker.startup.hear(message)

    def _on_reply(self, worker: _Worker, message: codec.Answer | codec.Error) -> None:
        with self._changed:
            if not worker.ledger.answered(message.id):
                raise ProtocolError(f"an answer to request {message.id}, which is not open")
            outgoing = self._outstanding.pop(message.id)
            if not self._outstanding:
                self._changed.notify_all()
        outgoing.mailbox.deliver(message)

    def _on_host_call(self, worker: _Worker, message: codec.HostCall) -> None:
        with self._changed:
            parent = self._outstanding.get(message.parent)
        self._callbacks.receive(message, worker.connection, parent.mailbox if parent is not None else None)

    def _on_end(self, worker: _Worker, ended: Ended) -> None:
        with self._changed:
            worker.alive = False
            died_ready = self._state is _State.READY
            if died_ready:
                self._state = _State.DOWN
            lost, untouched = worker.ledger.split()
            worker.ledger = Ledger(self._spec.limits.threads)
            for number in lost:
                self._settle(self._outstanding[number], lambda hook: self._died(hook, ended, executed="unknown"))
            self._requeue([self._outstanding[number] for number in untouched])
            self._changed.notify_all()
            on_death = self._on_death if died_ready else None
            if died_ready and on_death is None:
                self._death = ended
        worker.startup.end(ended)
        worker.imported.end()
        if on_death is not None:
            on_death(ended)

    def _requeue(self, untouched: list[_Outgoing]) -> None:
        """Keep for the next worker what this one certainly did not begin, in front and in order."""
        for outgoing in reversed(untouched):
            if outgoing.abandoned:
                del self._outstanding[outgoing.number]
            elif self._closed_by is not None:
                self._settle(outgoing, self._closed_by)
            else:
                self._waiting.appendleft(outgoing)

    def _died(self, hook: str, ended: Ended, *, executed: Literal["unknown", "no"]) -> WorkerDied:
        error = WorkerDied(self._plugin, hook, exit=ended.exit, executed=executed, tail=ended.tail)
        if ended.reason:
            error.add_note(f"the host ended it: {ended.reason}")
        return error


def _argument(names: tuple[str, ...], path: str) -> str:
    """Return ``argument 'text'`` (and where in it) from a path that begins with the position: ``[0]['when']``."""
    position, _, rest = path.removeprefix("[").partition("]")
    name = names[int(position)] if position.isdecimal() and int(position) < len(names) else position
    return f"argument {name!r}" + (f" at {rest}" if rest else "")
