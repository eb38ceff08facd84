"""Two streams joined: what comes out of one goes into the other, until both have ended. On the relay's thread.

Each end reads only while the other takes what it read, so at most :data:`~blackhole_core.executor.relay.traffic.CHUNK` and the high-water mark of bytes wait here
for each direction. The end of one direction is passed on and leaves the other open. What is left to deliver is delivered before a stream is closed.

The near end is half of a pair whose other half, and copies of this one, may be in a hostile worker. Therefore nothing is taken from it that could block
(:class:`NearSocket`), and it is shut down before it is closed: a copy would keep it open.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from blackhole_core.executor.relay.link import hung_up
from blackhole_core.executor.relay.rules import Target
from blackhole_core.executor.relay.traffic import CHUNK, Account

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__all__ = ["Bridge", "NearSocket", "make_scratch"]

#: Bytes not yet taken by one side above which the other is not read.
_HIGH_WATER: Final = 64 * 1024
#: A plain number: putting flags of an enum together takes longer than a small message does.
_DONTWAIT: Final = int(socket.MSG_DONTWAIT)


class NearSocket(socket.socket):
    """A stream from a worker, which may make it block at any time: the flag lies in what both hold. No operation here relies on it."""

    __slots__ = ()

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return super().recv(size, flags | _DONTWAIT)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        return super().recv_into(buffer, nbytes, flags | _DONTWAIT)

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        return super().send(data, flags | _DONTWAIT)

    def sendmsg(
        self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /
    ) -> int:  # asyncio uses it from Python 3.12 on
        return super().sendmsg(buffers, ancdata, flags | _DONTWAIT)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed already, here or there
            self.shutdown(socket.SHUT_RDWR)
        super().close()


class End(asyncio.BufferedProtocol):
    """One of the two streams of a bridge."""

    other: End

    def __init__(self, bridge: Bridge, scratch: bytearray, *, near: bool) -> None:
        self.transport: asyncio.Transport | None = None
        self.ended = False  # nothing more comes out of it
        self.lost = False
        self._bridge = bridge
        self._scratch = memoryview(scratch)
        self._near = near
        self._limited = False  # by the limit of the plugin
        self._blocked = False  # by the other end, which does not take it

    # --- what asyncio tells ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(_HIGH_WATER)
        # It is not to read until the bridge has both. Not at once, for in Python 3.11.2 it begins to read after this, paused or not.
        asyncio.get_running_loop().call_soon(transport.pause_reading)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch[: self._bridge.account.allowed()]

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._scratch[:nbytes])  # the transport may keep a reference to what it could not write
        self._bridge.moved(nbytes, sent=self._near)
        self.other.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        self._bridge.on_end(self)
        return True  # the other direction may go on

    def pause_writing(self) -> None:
        self.other.block(True)

    def resume_writing(self) -> None:
        self.other.block(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self.ended = True
        self._bridge.on_lost(self)

    # --- what the bridge does ----------------------------------------------------------------------------------------

    @property
    def socket(self) -> socket.socket:
        assert self.transport is not None
        found: socket.socket = self.transport.get_extra_info("socket")
        return found

    def hold(self, held: bool) -> None:
        self._limited = held
        self.adjust()

    def block(self, blocked: bool) -> None:
        self._blocked = blocked
        self.adjust()

    def adjust(self) -> None:
        """Read, or do not."""
        if self.transport is None or self.ended:
            return
        if self._limited or self._blocked:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def write_end(self) -> None:
        """Pass on that the other side writes no more."""
        if self.transport is not None and not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:  # it was reset meanwhile
                self.transport.abort()

    def close(self) -> None:
        """Close it when what is left to write is written."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        # A transport that closed with something left to write fails when it is aborted after that.
        if self.transport is not None and not self.lost:
            self.transport.abort()


class Bridge:
    """One connection of a plugin. ``done`` has a result when both streams are closed."""

    def __init__(self, target: Target, address: str, account: Account, scratch: bytearray) -> None:
        self.target: Final = target
        self.address: Final = address
        self.account: Final = account
        self.sent = 0
        self.received = 0
        self.begun: Final = time.monotonic()
        self.last = self.begun  # when a byte came out of either
        self.done: Final = asyncio.get_running_loop().create_future()
        self._aborted = False
        self._near = End(self, scratch, near=True)
        self._far = End(self, scratch, near=False)
        self._near.other, self._far.other = self._far, self._near

    async def join(self, near: socket.socket, far: socket.socket) -> None:
        """Take over both sockets, and begin."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self._near, sock=near)
        await loop.create_connection(lambda: self._far, sock=far)
        if self._aborted:
            self.abort()  # for want of the streams it could not be done before
        for end in (self._near, self._far):
            if not end.lost:
                self.account.enter(end)
                end.adjust()

    def moved(self, size: int, *, sent: bool) -> None:
        self.last = time.monotonic()
        if sent:
            self.sent += size
        else:
            self.received += size
        self.account.moved(size, sent=sent)

    def on_end(self, end: End) -> None:
        """``end`` writes no more."""
        if end.other.ended:
            self._near.close()
            self._far.close()
        elif end is self._near and hung_up(end.socket):
            self._give_up()
        else:
            end.other.write_end()

    def on_lost(self, end: End) -> None:
        self.account.leave(end)
        if not end.other.lost:
            end.other.close()
        elif not self.done.done():
            self.done.set_result(None)

    def look(self, now: float, idle_seconds: float) -> None:
        """End it when nobody needs it any more: nothing else tells that a worker has closed a stream after it had ended its own direction."""
        if now - self.last > idle_seconds:
            self.abort()
        elif self._near.ended and not self._near.lost and hung_up(self._near.socket):
            self._give_up()

    def _give_up(self) -> None:
        """The worker has closed its end: deliver what it wrote, take nothing more for it."""
        self._near.abort()
        self._far.close()

    def abort(self) -> None:
        """End it now; what was not delivered is lost."""
        self._aborted = True
        self._near.abort()
        self._far.abort()


def make_scratch() -> bytearray:
    """Return the buffer into which all bridges of one thread read, one after the other."""
    return bytearray(CHUNK)
