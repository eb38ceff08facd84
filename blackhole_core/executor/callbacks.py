"""Calls that come up from a worker: host hooks called by plugin code.

A call made inside a request runs on the host thread that is blocked in that request. One made by a thread of the plugin's
own has no such thread and runs in a small pool, made when it is first needed and ended with the runner.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from blackhole_core.callcontext import ActiveCall, bound_deadline, chain
from blackhole_core.executor.failure import cannot_cross, to_wire, too_large
from blackhole_core.executor.mailbox import Job
from blackhole_core.executor.runner import Host, RunnerSpec
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.plain import NotPlain
from blackhole_core.executor.wire.signature import ArgumentsDecoder, ResultEncoder, Signature, Undecodable
from blackhole_core.executor.wire.types import contains_any

__all__ = ["CallbackServer"]

#: Threads for calls from plugin threads, per plugin: they are rare, and one plugin must not take the host over.
_POOL_SIZE: Final = 4

_Send = Callable[[msgspec.Struct], None]


class CallbackServer:
    """Answers the host calls of one plugin."""

    def __init__(self, spec: RunnerSpec, host: Host) -> None:
        self._spec = spec
        self._host = host
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def job(self, message: codec.HostCall, send: _Send, runner: Any, mailbox: Any) -> Job:
        """Return the nested call for the thread that waits on ``mailbox``."""

        def abandon() -> None:
            send(codec.Error(message.id, to_wire(TimeoutError("the outer call does not wait any more"))))

        return Job(lambda: self._answer(message, send, runner, mailbox), abandon)

    def submit(self, message: codec.HostCall, send: _Send, runner: Any) -> None:
        """Run a call that belongs to no request that is waited for."""
        with self._lock:
            if self._closed:
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_POOL_SIZE, thread_name_prefix=f"blackhole-callback-{self._spec.id.name}")
            self._pool.submit(self._answer, message, send, runner, None)

    def close(self) -> None:
        """Drop what is queued and wait for what runs."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _answer(self, message: codec.HostCall, send: _Send, runner: Any, mailbox: Any) -> None:
        send(contextvars.copy_context().run(self._perform, message, runner, mailbox))

    def _perform(self, message: codec.HostCall, runner: Any, mailbox: Any) -> codec.Answer | codec.Error:
        chain.set((*chain.get(), ActiveCall(runner, threading.get_ident(), mailbox, message.id)))
        if message.timeout is not None:
            bound_deadline(time.monotonic() + message.timeout)
        try:
            result = self._call(message)
        except NotPlain as error:
            return codec.Error(message.id, cannot_cross(f"the result of the host's hook {message.hook!r}", error.type_name))
        except Exception as error:
            return codec.Error(message.id, to_wire(error))
        cap = self._spec.limits.max_message
        if len(result) > cap:
            return codec.Error(message.id, too_large(len(result), cap))
        return codec.Answer(message.id, msgspec.Raw(result))

    def _call(self, message: codec.HostCall) -> bytes:
        # Only hooks with a spec: the spec is the host's statement that they may be called, and gives the types.
        if message.hook not in self._host.hook_names():
            raise AttributeError(f"the host has no hook {message.hook!r}")
        signature = self._host.signature(message.hook) or Signature()
        kwargs = {name: _decode(name, raw, message.hook, signature) for name, raw in message.kwargs.items()}
        result = getattr(self._host.hook, message.hook)(**kwargs)
        is_open = contains_any(signature.result)
        return ResultEncoder(is_open).encode(result)


def _decode(name: str, raw: msgspec.Raw, hook: str, signature: Signature) -> Any:
    decoder = ArgumentsDecoder([signature.type_of(name)])
    try:
        return decoder.decode(b"\x91" + bytes(raw))[0]  # as a msgpack array of one
    except Undecodable as error:
        raise TypeError(f"argument {name!r} of hook {hook!r} is not what its annotation says: {error}") from None
