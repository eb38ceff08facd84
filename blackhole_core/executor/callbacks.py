"""Calls that come up from a worker: host hooks called by plugin code.

A call made inside a request runs on the host thread that is blocked in that request. One made by a thread of the plugin's
own has no such thread and runs in a small pool, made when it is first needed and ended with the runner.

Invariants: every call is answered exactly once, or its worker has ended. ``_unanswered`` calls are at most
:data:`MAX_UNANSWERED`, and hold at most :data:`_MOST_HELD` times the largest message; pool threads are at most :data:`_POOL_SIZE`; all that is
guarded by ``_changed``. A call beyond that is refused and not left unread: behind it may come what the host itself waits for.
"""

from __future__ import annotations

import collections
import contextvars
import threading
import time
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from blackhole_core.callcontext import ActiveCall, bound_deadline, chain
from blackhole_core.executor.backlog import Backlog
from blackhole_core.executor.connection import Connection
from blackhole_core.executor.failure import cannot_cross, to_wire, too_large
from blackhole_core.executor.mailbox import Job, Mailbox
from blackhole_core.executor.runner import Host, RunnerSpec
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import Claim
from blackhole_core.executor.wire.parcels import Parcel, Shelf, TooLarge
from blackhole_core.executor.wire.plain import NotPlain
from blackhole_core.executor.wire.signature import ArgumentsDecoder, ResultDecoder, ResultEncoder, Signature, Undecodable
from blackhole_core.executor.wire.types import contains_any

__all__ = ["MAX_UNANSWERED", "CallbackServer"]

#: Calls of one worker that may be under way in the host or wait there.
MAX_UNANSWERED: Final = 1000
#: Largest messages that their arguments may take together.
_MOST_HELD: Final = 4
#: Threads for calls from plugin threads, per plugin: they are rare, and one plugin must not take the host over.
_POOL_SIZE: Final = 4


class CallbackServer:
    """Answers the host calls of one plugin."""

    def __init__(self, spec: RunnerSpec, host: Host) -> None:
        self._spec = spec
        self._host = host
        self._changed = threading.Condition()
        self._queue: collections.deque[tuple[codec.HostCall, Connection]] = collections.deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._backlog = Backlog(MAX_UNANSWERED, _MOST_HELD * spec.limits.max_message)
        self._closed = False

    def receive(self, message: codec.HostCall, connection: Connection, mailbox: Mailbox[Any] | None) -> None:
        """Have ``message`` answered: by the thread that waits on ``mailbox``, or by a thread of the pool. Never blocks."""
        with self._changed:
            taken = self._backlog.has_room(_size(message))
            if taken:
                self._backlog.add(_size(message))
        if not taken:
            refusal = RuntimeError(f"plugin {self._spec.id} has {self._backlog} to the host under way, no more are taken")
            connection.send(codec.Error(message.id, to_wire(refusal)), answer=True)
            return
        if mailbox is None or not mailbox.post(self._job(message, connection, mailbox)):
            self._submit(message, connection)

    def close(self) -> None:
        """Drop what is queued and wait for what runs, for at most ``stop_grace``: a host hook that hangs is let go."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
            threads = set(self._threads)
        end = time.monotonic() + self._spec.limits.stop_grace
        for thread in threads - {threading.current_thread()}:
            thread.join(max(0.0, end - time.monotonic()))

    # --- on a blocked thread -----------------------------------------------------------------------------------------

    def _job(self, message: codec.HostCall, connection: Connection, mailbox: Mailbox[Any]) -> Job:
        def abandon() -> None:
            self._reply(message, connection, codec.Error(message.id, to_wire(TimeoutError("the outer call does not wait any more"))))

        return Job(lambda: self._answer(message, connection, mailbox), abandon)

    # --- in the pool -------------------------------------------------------------------------------------------------

    def _submit(self, message: codec.HostCall, connection: Connection) -> None:
        with self._changed:
            if self._closed:
                return
            self._queue.append((message, connection))
            if len(self._queue) > self._idle and len(self._threads) < _POOL_SIZE:
                name = f"blackhole-callback-{self._spec.id.name}-{len(self._threads) + 1}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.add(thread)
                thread.start()
            self._changed.notify()

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            message, connection = taken
            self._answer(message, connection, None)
            del taken, message, connection  # or the last arguments live until the next call
        with self._changed:
            self._threads.discard(threading.current_thread())

    def _next(self) -> tuple[codec.HostCall, Connection] | None:
        with self._changed:
            self._idle += 1
            while not self._queue and not self._closed:
                self._changed.wait()
            self._idle -= 1
            return self._queue.popleft() if self._queue else None

    # --- either ------------------------------------------------------------------------------------------------------

    def _answer(self, message: codec.HostCall, connection: Connection, mailbox: Mailbox[Any] | None) -> None:
        """Make the call and send its outcome."""
        try:
            reply = contextvars.copy_context().run(self._perform, message, connection, mailbox)
        except BaseException as error:
            # Ctrl-C, or a host hook that wants to exit: the worker must not wait for ever, and a caller's own thread must hear of it too.
            self._reply(message, connection, codec.Error(message.id, to_wire(error)))
            if mailbox is not None:
                raise
        else:
            self._reply(message, connection, reply)

    def _reply(self, message: codec.HostCall, connection: Connection, reply: codec.Answer | codec.Error) -> None:
        with self._changed:
            self._backlog.remove(_size(message))
        connection.send(reply, answer=True)

    def _perform(self, message: codec.HostCall, connection: Connection, mailbox: Mailbox[Any] | None) -> codec.Answer | codec.Error:
        chain.set((*chain.get(), ActiveCall(connection, threading.get_ident(), mailbox, message.id)))
        if message.timeout is not None:
            bound_deadline(time.monotonic() + message.timeout)
        try:
            result = self._call(message, connection.shelf)
        except NotPlain as error:
            return codec.Error(message.id, cannot_cross(f"the result of the host's hook {message.hook!r}", error.type_name))
        except TooLarge as error:
            return codec.Error(message.id, too_large(error.size, self._spec.limits.max_message))
        except Exception as error:
            return codec.Error(message.id, to_wire(error))
        cap = self._spec.limits.max_message
        if len(result) > cap:
            return codec.Error(message.id, too_large(len(result), cap))
        if isinstance(result, Parcel):
            result.handed = True
        return codec.Answer(message.id, msgspec.Raw(result))

    def _call(self, message: codec.HostCall, shelf: Shelf | None) -> bytes:
        # Only hooks with a spec: the spec is the host's statement that they may be called, and gives the types.
        if message.hook not in self._host.hook_names():
            raise AttributeError(f"the host has no hook {message.hook!r}")
        signature = self._host.signature(message.hook) or Signature()
        kwargs = {name: _decode(name, raw, message.hook, signature) for name, raw in message.kwargs.items()}
        result = getattr(self._host.hook, message.hook)(**kwargs)
        is_open = contains_any(signature.result)
        return ResultEncoder(is_open).encode(result, shelf)


def _size(message: codec.HostCall) -> int:
    """Return the bytes that a call's arguments hold; what lies in the arena is bounded there."""
    values: Iterable[msgspec.Raw | Claim] = message.kwargs.values()
    return sum(memoryview(value).nbytes for value in values if not isinstance(value, Claim))


def _decode(name: str, raw: msgspec.Raw | Claim, hook: str, signature: Signature) -> Any:
    kind = signature.type_of(name)
    try:
        if isinstance(raw, Claim):
            return ResultDecoder(kind).decode(raw)
        return ArgumentsDecoder([kind]).decode(b"\x91" + bytes(raw))[0]  # as a msgpack array of one
    except Undecodable as error:
        raise TypeError(f"argument {name!r} of hook {hook!r} is not what its annotation says: {error}") from None
