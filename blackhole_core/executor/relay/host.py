"""The relay: what a worker may reach of the network, it reaches through the host, which holds every TCP socket itself.

A connected TCP socket must never be given to a worker: it can be disconnected, and connected to any other address in the network of the host. So the worker has a local stream
of which the other end is here, and bytes are passed on.

One thread per host, from the first worker that may use the network to :meth:`Relay.close`. It owns the sockets, sessions and accounts; other threads hand it
functions. The worker's end of a relay socket belongs to the :class:`Attachment` until it was launched, the host's end to the session.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from blackhole_core.executor.relay.bounds import Bounds, Seats, seats_here
from blackhole_core.executor.relay.bridge import make_scratch
from blackhole_core.executor.relay.dial import LookUp, look_up
from blackhole_core.executor.relay.guests import HostCarrier
from blackhole_core.executor.relay.rules import Rules
from blackhole_core.executor.relay.session import Common, Session
from blackhole_core.executor.relay.traffic import Account, NetworkUsage

__all__ = ["Attachment", "Relay", "RelayClosed"]

_logger: Final = logging.getLogger("blackhole.relay")
#: Seconds after which a thread that asked the relay's something goes on without an answer: it works in turns of milliseconds.
_PATIENCE: Final = 10.0

_BOUNDS: Final = Bounds()

T = TypeVar("T")


class RelayClosed(RuntimeError):
    """The relay was closed."""


class Attachment:
    """What the runner of one worker holds: the worker's end, and the handle to its connections."""

    def __init__(self, relay: Relay, session: Session, worker_end: socket.socket) -> None:
        self._relay = relay
        self._session = session
        self._worker_end = worker_end

    @property
    def descriptor(self) -> int:
        """The worker's end, to be passed to it; then :meth:`launched`."""
        return self._worker_end.fileno()

    def launched(self) -> None:
        """Close the worker's end here: the worker has it."""
        self._worker_end.close()

    def confine(self, rules: Rules) -> None:
        """Let ``rules`` hold from now on. When this returns, connections that they do not allow are closed."""
        with contextlib.suppress(RelayClosed):  # and with it every connection
            self._relay.run(lambda: self._session.confine(rules))

    def close(self) -> None:
        """Let go of a worker that has ended; what it wrote is delivered for a moment still. Idempotent, and does not wait."""
        self._worker_end.close()
        self._relay.end(self._session)


class Relay:
    """The relay of one host. Methods may be called from any thread.

    ``emit`` is called on the relay's thread with the events ``network.…``. ``resolve`` looks a name up, on a thread made for that.
    """

    def __init__(
        self, emit: Callable[..., object], *, resolve: LookUp = look_up, bounds: Bounds = _BOUNDS, seats: Seats | None = None
    ) -> None:
        self._emit = emit
        self._bounds = bounds
        self._common = Common(resolve, bounds, seats_here() if seats is None else seats, make_scratch())
        self._lock = threading.Lock()  # guards the start and the end of the thread
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._accounts: dict[str, Account] = {}  # changed by the relay's thread
        self._sessions: set[Session] = set()  # the relay's thread alone
        self._carriers: dict[Session, HostCarrier] = {}  # of those whose worker is in a virtual machine; likewise
        self._endings: set[asyncio.Task[None]] = set()  # likewise

    def attach(self, plugin: str, rules: Rules, mbps: float | None, breach: Callable[[str], object], *, framed: bool = False) -> Attachment:
        """Make a relay socket for a worker of ``plugin``, and begin to serve it.

        :param framed: make a stream socket instead, for a worker to which no sockets can be passed: a virtual machine's.
        :param mbps: megabits per second of the plugin, both directions together; None: unlimited.
        :param breach: told, on the relay's thread, why a worker that does not hold to the protocol must be ended.
        :raises OSError: the system refused.
        :raises RelayClosed: the relay is closed.
        """
        self._start()

        def begin() -> Session:
            account = self._accounts.get(plugin)
            if account is None:
                account = self._accounts[plugin] = Account(plugin, self._emit)
            account.limit(mbps)
            session = Session(self._common, rules, account, host_end, breach)
            self._sessions.add(session)
            if port is not None:
                port.setblocking(False)
                self._carriers[session] = HostCarrier(port.detach(), worker_end, breach)
            return session

        with contextlib.ExitStack() as undo:
            host_end, worker_end = map(undo.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            host_end.setblocking(False)
            port, guest_port = map(undo.enter_context, socket.socketpair()) if framed else (None, None)
            attachment = Attachment(self, self.run(begin), guest_port or worker_end)
            undo.pop_all()
        return attachment

    def usage(self, plugin: str) -> NetworkUsage | None:
        """Return what ``plugin`` has moved so far, None when it never had a relay."""
        account = self._accounts.get(plugin)
        return None if account is None else account.usage

    def close(self) -> None:
        """End all connections, those of ended workers after what they wrote is delivered, and the thread. Idempotent."""
        with self._lock:
            self._closed = True
            thread, loop = self._thread, self._loop
            self._thread = self._loop = None
        if thread is not None and loop is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    # --- any thread --------------------------------------------------------------------------------------------------

    def run(self, function: Callable[[], T]) -> T:
        """Have the relay's thread call ``function``, and return its result.

        :raises RelayClosed: the relay is closed.
        """
        if threading.current_thread() is self._thread:
            return function()
        result: concurrent.futures.Future[T] = concurrent.futures.Future()

        def call() -> None:
            try:
                result.set_result(function())
            except BaseException as error:  # whatever it is, somebody waits for it
                result.set_exception(error)

        self._post(call)
        return result.result(_PATIENCE)

    def end(self, session: Session) -> None:
        """Have a session ended, and do not wait for it."""

        def begin() -> None:
            if session in self._sessions:
                self._sessions.discard(session)
                self._spawn(self._end(session, self._bounds.linger_seconds))

        with contextlib.suppress(RelayClosed):  # and with it the session
            self._post(begin)

    def _post(self, function: Callable[[], object]) -> None:
        with self._lock:
            if self._loop is None:
                raise RelayClosed("the relay is closed")
            self._loop.call_soon_threadsafe(function)

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise RelayClosed("the relay is closed")
            if self._thread is not None:
                return
            loop = asyncio.SelectorEventLoop()  # whatever loop the host has chosen for itself
            thread = threading.Thread(target=self._work, args=(loop,), name="blackhole-relay", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads
                loop.close()
                raise
            self._loop, self._thread = loop, thread

    # --- the thread --------------------------------------------------------------------------------------------------

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(_report)
        loop.call_later(self._bounds.sweep, self._sweep, loop)
        try:
            loop.run_forever()  # until close() stops it
            loop.run_until_complete(self._wind_up())
        finally:
            loop.close()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for session in self._sessions:
            session.look(now)
        loop.call_later(self._bounds.sweep, self._sweep, loop)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _end(self, session: Session, linger: float) -> None:
        try:
            await session.end(linger)
        finally:
            carrier = self._carriers.pop(session, None)
            if carrier is not None:
                carrier.close()

    async def _wind_up(self) -> None:
        await asyncio.gather(*(self._end(session, 0.0) for session in self._sessions), *self._endings)
        self._sessions.clear()
        await asyncio.sleep(0)  # transports close their sockets in the turn after they were told to


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _logger.error("%s", context.get("message"), exc_info=context.get("exception"))
