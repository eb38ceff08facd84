"""Levels process and above: the plugin runs in a worker, and the same runner outlives several workers.

Invariants (everything below is guarded by ``_changed``):

* A call is in ``_outstanding`` from the moment it is accepted until its answer came or the worker that had it died, whether
  or not its caller still waits. ``drained`` means that it is empty.
* A call that no worker has begun is in ``_waiting`` or in the ledger's untouched part, and goes to the next worker. A call
  that may have begun never does: its caller gets :class:`WorkerDied`.
* ``_state`` goes NEW → READY ⇄ DOWN → CLOSED, with ``_closed_by`` the error every later call gets. Only ``start`` and
  ``restart`` lead to READY, one at a time; they are called by the loader and the supervisor.
"""

from __future__ import annotations

import collections
import enum
import itertools
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import attrs
import msgspec

from blackhole_core.callcontext import chain, get_deadline
from blackhole_core.errors import (
    CallTimeout,
    CannotCross,
    LimitExceeded,
    LoadFailed,
    PluginBroken,
    PluginUnloaded,
    ProtocolError,
    WorkerDied,
    describe_exit,
)
from blackhole_core.executor.binding import Binding, bind, describe_hooks
from blackhole_core.executor.callbacks import CallbackServer
from blackhole_core.executor.connection import Connection, Ended
from blackhole_core.executor.failure import Rebuilder
from blackhole_core.executor.launch.child import Launcher, LaunchSpec
from blackhole_core.executor.mailbox import Mailbox, MailboxTimeout
from blackhole_core.executor.output import LogPump, plugin_logger
from blackhole_core.executor.proxy import make_proxy
from blackhole_core.executor.runner import Host, RunnerSpec
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.ledger import Ledger
from blackhole_core.executor.wire.plain import NotPlain, decode_plain, encode_plain
from blackhole_core.executor.wire.signature import Undecodable
from blackhole_core.ids import Isolation
from blackhole_core.messages import CONTRACT, Call, Implementation, Surface, attribution

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
    """One accepted call."""

    message: codec.Request
    mailbox: Mailbox[codec.Answer | codec.Error | Exception]
    abandoned: bool = False

    @property
    def nested(self) -> bool:
        return self.message.parent != 0


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
        self._rebuilder = Rebuilder(self._plugin, level.value, host.exception_type)
        self._callbacks = CallbackServer(spec, host)
        self._changed = threading.Condition()
        self._state = _State.NEW
        self._closed_by: Callable[[str], Exception] | None = None
        self._connection: Connection | None = None
        self._alive = False  # whether the worker of ``_connection`` has not ended
        self._ledger = Ledger(spec.limits.threads)
        self._outstanding: dict[int, _Outgoing] = {}
        self._waiting: collections.deque[_Outgoing] = collections.deque()
        self._numbers = itertools.count(1)
        self._surface = Surface()
        self._bindings: tuple[Binding, ...] = ()
        self._startup: queue.SimpleQueue[codec.WorkerMessage | Ended] = queue.SimpleQueue()
        self._on_death: Callable[[Ended], object] | None = None
        self._death: Ended | None = None  # one that nobody was told of yet

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> Surface:
        try:
            self._surface = self._bring_up()
        except BaseException:
            self._discard()
            raise
        self._open()
        return self._surface

    def restart(self, prepare: Callable[[Callable[[Call], Any]], object]) -> None:
        """Bring up a new worker after a death; ``prepare`` may call it before anybody else's call gets through.

        :raises Exception: the new worker did not come up; the runner is down as before.
        """
        try:
            surface = self._bring_up()
            if surface != self._surface:
                raise LoadFailed(self._plugin, "its code was changed while it ran and now offers other hooks; reload it instead")
            prepare(self._control)
        except BaseException:
            self._discard()
            raise
        self._open()

    def _open(self) -> None:
        """Let callers through to the worker that is up, those who wait first."""
        with self._changed:
            if self._closed_by is not None:
                raise self._closed_by("start")
            if not self._alive:
                raise LoadFailed(self._plugin, "its worker ended as soon as it was up")
            self._state = _State.READY
            while self._waiting:
                self._dispatch(self._waiting.popleft())

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
        connection = self._connection
        if connection is not None:
            connection.send(codec.Stop())
            self._end(connection)
        self._callbacks.close()

    def _end(self, connection: Connection) -> None:
        """Wait for the worker to end by itself, then terminate, then kill; bounded by ``stop_grace`` and a moment."""
        grace = self._spec.limits.stop_grace
        if connection.join(grace * 0.7):
            return
        connection.child.signal(signal.SIGTERM)
        if connection.join(grace * 0.3):
            return
        connection.kill(f"it did not end within {grace:g} s")
        connection.join(None)

    def _close(self, error: Callable[[str], Exception]) -> None:
        with self._changed:
            if self._state is not _State.CLOSED:
                self._state = _State.CLOSED
                self._closed_by = error
            while self._waiting:
                self._settle(self._waiting.popleft(), error)
            self._changed.notify_all()

    def _settle(self, outgoing: _Outgoing, error: Callable[[str], Exception]) -> None:
        self._outstanding.pop(outgoing.message.id, None)
        outgoing.mailbox.deliver(error(outgoing.message.hook))

    def _discard(self) -> None:
        """End a worker that did not come up; nobody is told."""
        connection = self._connection
        if connection is not None:
            connection.kill()
            connection.join(None)

    # --- bringing up -------------------------------------------------------------------------------------------------

    def _bring_up(self) -> Surface:
        spec = self._spec
        logger = plugin_logger(spec.id.name)
        self._startup = queue.SimpleQueue()
        child = self._launcher.launch(LaunchSpec(spec.id.name, self._import_path, spec.environment))
        connection = Connection(
            child,
            name=spec.id.name,
            max_message=spec.limits.max_message + _ENVELOPE,
            logger=logger,
            pump=self._pump,
            on_message=self._on_message,
            on_end=self._on_end,
        )
        with self._changed:
            self._connection = connection
            self._alive = not connection.ended.is_set()
            self._ledger = Ledger(spec.limits.threads)
        deadline = time.monotonic() + spec.limits.start_timeout
        hello = self._expect(codec.Hello, deadline)
        if hello.protocol != codec.PROTOCOL:
            raise LoadFailed(self._plugin, f"the worker speaks protocol {hello.protocol}, the host {codec.PROTOCOL}")
        connection.send(
            codec.Load(
                entry=spec.entry,
                path=str(spec.path),
                packages=spec.packages,
                name=spec.id.name,
                version=spec.id.version,
                generation=spec.generation,
                project=spec.project,
                threads=spec.limits.threads,
                max_message=spec.limits.max_message,
                config=encode_plain(dict(spec.config)),
                log_level=logger.getEffectiveLevel(),
                changeable=spec.changeable,
            )
        )
        loaded = self._expect(codec.Loaded, deadline)
        surface = _surface(loaded)
        self._bindings = tuple(
            bind(implementation, self._host.signature(implementation.hook), self._plugin) for implementation in surface.implementations
        )
        connection.send(codec.Bind(tuple(binding.types for binding in self._bindings), describe_hooks(self._host)))
        self._expect(codec.Answer, deadline)
        return surface

    def _expect(self, kind: type[Any], deadline: float) -> Any:
        """Return the next message of a start, which must be of ``kind``."""
        timeout = self._spec.limits.start_timeout
        try:
            message = self._startup.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise LoadFailed(self._plugin, f"its worker was not ready within {timeout:g} s (start_timeout)") from None
        if isinstance(message, kind):
            return message
        if isinstance(message, codec.Error):
            raise self._rebuilder.rebuild(message.failure, "import")
        if isinstance(message, Ended):
            cause = message.reason or f"its worker {describe_exit(message.exit)}"
            lines = "".join(f"\n  {line}" for line in message.tail)
            raise LoadFailed(self._plugin, f"{cause} before it was ready{': last lines it wrote:' if lines else ''}{lines}")
        raise LoadFailed(self._plugin, f"its worker sent {type(message).__name__} where {kind.__name__} was expected")

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
            error.add_note(attribution(self._spec.id, call.hook, self.level))
            raise

    def _call(self, call: Call, *, control: bool) -> Any:
        own = self._spec.limits.call_timeout
        deadline = get_deadline()
        if deadline is None and own is not None:
            deadline = time.monotonic() + own
        begun = time.monotonic()
        outgoing = self._outgoing(call, None if deadline is None else max(0.0, deadline - begun))
        self._accept(outgoing, control=control)
        try:
            reply = outgoing.mailbox.wait(deadline)
        except MailboxTimeout:
            raise self._timed_out(outgoing, time.monotonic() - begun) from None
        if isinstance(reply, codec.Answer):
            return self._result(call, reply)
        raise self._rebuilder.rebuild(reply.failure, call.hook) if isinstance(reply, codec.Error) else reply

    def _outgoing(self, call: Call, timeout: float | None) -> _Outgoing:
        args = self._encode(call)
        if len(args) > self._spec.limits.max_message:
            raise LimitExceeded(self._plugin, "max_message", wanted=self._spec.limits.max_message, got=len(args), unit="bytes")
        parent = next((active.call_id for active in reversed(chain.get()) if active.runner is self), 0)
        message = codec.Request(next(self._numbers), call.space, call.hook, call.index, msgspec.Raw(args), timeout, parent)
        return _Outgoing(message, Mailbox())

    def _encode(self, call: Call) -> bytes:
        try:
            if call.space == CONTRACT:
                return encode_plain(list(call.args))
            return self._bindings[call.index].arguments.encode(call.args)
        except NotPlain as error:
            names = self._surface.contracts.get(call.hook) if call.space == CONTRACT else self._surface.implementations[call.index].argnames
            raise CannotCross(self._plugin, call.hook, _argument(names or (), error.path), error.type_name) from None

    def _result(self, call: Call, reply: codec.Answer) -> Any:
        if call.space == CONTRACT:
            return decode_plain(bytes(reply.result))
        try:
            return self._bindings[call.index].result.decode(reply.result)
        except Undecodable as error:
            raise CannotCross(self._plugin, call.hook, "the result", f"not what the spec's annotation says: {error}") from None

    def _accept(self, outgoing: _Outgoing, *, control: bool) -> None:
        with self._changed:
            if self._closed_by is not None and not control:
                raise self._closed_by(outgoing.message.hook)
            self._outstanding[outgoing.message.id] = outgoing
            if self._state is _State.READY or control:
                self._dispatch(outgoing)
            elif outgoing.nested:
                self._settle(outgoing, lambda hook: WorkerDied(self._plugin, hook, exit=None, executed="no"))
            else:
                self._waiting.append(outgoing)

    def _dispatch(self, outgoing: _Outgoing) -> None:
        assert self._connection is not None
        self._ledger.sent(outgoing.message.id, nested=outgoing.nested)
        self._connection.send(outgoing.message)

    def _timed_out(self, outgoing: _Outgoing, waited: float) -> CallTimeout:
        """Give a call up: it is withdrawn if it has not begun, else watched, and its worker killed if it never ends."""
        number = outgoing.message.id
        with self._changed:
            outgoing.abandoned = True
            connection = self._connection
            if outgoing in self._waiting:
                self._waiting.remove(outgoing)
                del self._outstanding[number]
                self._changed.notify_all()
                return CallTimeout(self._plugin, outgoing.message.hook, waited, where="executed: no, its worker is being restarted")
        if connection is not None:
            connection.send(codec.Cancel(number))
        self._host.timers.after(self._spec.limits.hang_grace, lambda: self._kill_if_hung(outgoing, connection))
        return CallTimeout(self._plugin, outgoing.message.hook, waited, where="executed: unknown")

    def _kill_if_hung(self, outgoing: _Outgoing, connection: Connection | None) -> None:
        with self._changed:
            hung = outgoing.message.id in self._outstanding and self._connection is connection and self._state is _State.READY
        if hung and connection is not None:
            connection.kill(f"hook {outgoing.message.hook!r} ran on {self._spec.limits.hang_grace:g} s after its caller gave up")

    def drained(self, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._outstanding, timeout)

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        connection = self._connection
        return connection.child.pid if connection is not None and not connection.ended.is_set() else None

    # --- what the I/O thread tells -----------------------------------------------------------------------------------

    def _on_message(self, message: codec.WorkerMessage) -> None:
        if isinstance(message, codec.HostCall):
            self._on_host_call(message)
        elif isinstance(message, codec.Answer | codec.Error) and message.id != 0:
            self._on_reply(message)
        else:
            self._startup.put(message)

    def _on_reply(self, message: codec.Answer | codec.Error) -> None:
        with self._changed:
            if not self._ledger.answered(message.id):
                raise ProtocolError(f"an answer to request {message.id}, which is not open")
            outgoing = self._outstanding.pop(message.id)
            if not self._outstanding:
                self._changed.notify_all()
        outgoing.mailbox.deliver(message)

    def _on_host_call(self, message: codec.HostCall) -> None:
        connection = self._connection
        assert connection is not None
        with self._changed:
            parent = self._outstanding.get(message.parent)
        if parent is None or not parent.mailbox.post(self._callbacks.job(message, connection.send, self, parent.mailbox)):
            self._callbacks.submit(message, connection.send, self)

    def _on_end(self, ended: Ended) -> None:
        with self._changed:
            self._alive = False
            died_ready = self._state is _State.READY
            if died_ready:
                self._state = _State.DOWN
            lost, untouched = self._ledger.split()
            self._ledger = Ledger(self._spec.limits.threads)
            for number in lost:
                self._settle(self._outstanding[number], lambda hook: self._died(hook, ended, executed="unknown"))
            self._requeue([self._outstanding[number] for number in untouched])
            self._changed.notify_all()
            on_death = self._on_death if died_ready else None
            if died_ready and on_death is None:
                self._death = ended
        self._startup.put(ended)
        if on_death is not None:
            on_death(ended)

    def _requeue(self, untouched: list[_Outgoing]) -> None:
        for outgoing in reversed(untouched):
            if outgoing.abandoned:
                del self._outstanding[outgoing.message.id]
            elif self._closed_by is not None:
                self._settle(outgoing, self._closed_by)
            else:
                self._waiting.appendleft(outgoing)

    def _died(self, hook: str, ended: Ended, *, executed: Any) -> WorkerDied:
        error = WorkerDied(self._plugin, hook, exit=ended.exit, executed=executed, tail=ended.tail)
        if ended.reason:
            error.add_note(f"the host ended it: {ended.reason}")
        return error


def _surface(loaded: codec.Loaded) -> Surface:
    return Surface(
        implementations=tuple(
            Implementation(info.attribute, info.hook, info.argnames, info.options, info.is_generator, info.annotated)
            for info in loaded.implementations
        ),
        contracts=loaded.contracts,
    )


def _argument(names: tuple[str, ...], path: str) -> str:
    """Return ``argument 'text'`` (and where in it) from a path that begins with the position: ``[0]['when']``."""
    position, _, rest = path.removeprefix("[").partition("]")
    name = names[int(position)] if position.isdecimal() and int(position) < len(names) else position
    return f"argument {name!r}" + (f" at {rest}" if rest else "")
