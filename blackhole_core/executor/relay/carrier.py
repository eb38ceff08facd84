"""One end of the serial port on which a virtual machine's streams to the network travel: moves bytes between the port and local sockets. No thread of its own.

The same on both sides, but for :meth:`Carrier._opened`: in the guest the worker's requests make streams, in the host the guest's frames do. All calls come from one
thread. In the host, what comes from the port is hostile: a frame that may not be is a breach, and what waits is bounded, for one stream by :data:`~blackhole_core.executor.relay.streams.WINDOW`, for
the port by :data:`_FULL`, and there are at most :data:`MAX_STREAMS` streams.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.relay.link import Plain, hung_up
from blackhole_core.executor.relay.streams import MAX_DATA, WINDOW, Frame, Frames, Kind, Stream, encode_frame

__all__ = ["MAX_STREAMS", "Carrier", "Local", "Watcher"]

#: Streams at once: twice what the relay gives one worker, since those that were refused or ended stay for a moment.
MAX_STREAMS: Final = 512
#: Bytes taken from the port at once.
_READ_SIZE: Final = 64 * 1024
#: Bytes waiting for the port above which nothing more is taken from local sockets, and above which nothing more is heard: only an enemy lets it come to that.
_HIGH_WATER: Final = 256 * 1024
_FULL: Final = 1024 * 1024
_DONTWAIT: Final = int(socket.MSG_DONTWAIT)
_SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Watcher(Protocol):
    """Tells when a descriptor can be read or written."""

    def watch(self, descriptor: int, *, reading: bool, writing: bool, act: Callable[[], None], hanging_up: bool = False) -> None:
        """Call ``act`` whenever it can be read or written, or nobody is behind it any more, as asked for, from now on; neither: no more."""


@attrs.define(eq=False)
class Local:
    """A stream and the local socket that it leads to; ``preface`` bytes are in that, before anything that counts, until there is a first answer."""

    number: int
    socket: socket.socket
    stream: Stream = attrs.field(factory=Stream)
    pending: bytearray = attrs.field(factory=bytearray)
    passed: int = 0  #: bytes passed on for which no credit was given yet
    preface: int = 0
    answered: bool = True
    shut: bool = False  #: it was told that no more comes
    open: bool = True


class Carrier:
    """One end. ``failed`` is told, once, why nothing more can be moved: the port has ended, or (a :class:`ProtocolError`) the other side does not keep to the rules."""

    def __init__(self, port: int, watcher: Watcher, failed: Callable[[Exception | None], object]) -> None:
        """``port`` does not block, and is this object's from now on."""
        self._port = port
        self._watcher = watcher
        self._failed = failed
        self._frames = Frames()
        self._outbox = bytearray()
        self._streams: dict[int, Local] = {}
        self._watch_port()

    # --- the port ----------------------------------------------------------------------------------------------------

    def _watch_port(self) -> None:
        if self._port >= 0:
            self._watcher.watch(self._port, reading=len(self._outbox) < _FULL, writing=bool(self._outbox), act=self._move)

    def _move(self) -> None:
        """Move what can be moved at the port."""
        try:
            self._write()
            if len(self._outbox) < _FULL:
                self._hear()
        except ProtocolError as error:
            self._lose(error)
        except BlockingIOError:
            pass
        except OSError:
            self._lose(None)
        self._watch_port()

    def _hear(self) -> None:
        data = os.read(self._port, _READ_SIZE)
        if not data:
            self._lose(None)
        for frame in self._frames.feed(data):
            self._take(frame)

    def _say(self, kind: Kind, stream: int, data: bytes = b"", *, amount: int = 0) -> None:
        self._outbox += encode_frame(kind, stream, data, amount=amount)

    def _write(self) -> None:
        """:raises OSError: the port is gone."""
        before = len(self._outbox)
        while self._outbox:
            try:
                written = os.write(self._port, memoryview(self._outbox)[:MAX_DATA])
            except BlockingIOError:
                break
            del self._outbox[:written]
        if before >= _HIGH_WATER > len(self._outbox):
            for local in tuple(self._streams.values()):
                self._watch(local)

    def _flush(self) -> None:
        """Write what was said in this turn."""
        if self._port < 0:
            return
        try:
            self._write()
        except OSError:
            self._lose(None)
        self._watch_port()

    def _lose(self, error: Exception | None) -> None:
        """Nothing more comes by the port, and nothing more goes: deliver what came, and end."""
        if self._port < 0:
            return
        self._close_port()
        self._outbox.clear()
        for local in tuple(self._streams.values()):
            local.stream.ended = local.stream.closed = local.stream.sent_close = True
            self._deliver(local)
        self._failed(error)

    def close(self) -> None:
        """End everything now. Idempotent; what was not delivered is lost."""
        for local in tuple(self._streams.values()):
            self._shut(local)
        self._streams.clear()
        if self._port >= 0:
            self._close_port()

    def _close_port(self) -> None:
        self._watcher.watch(self._port, reading=False, writing=False, act=self._move)
        os.close(self._port)
        self._port = -1

    # --- frames ------------------------------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> None:
        """:raises ProtocolError: the other side may not say that."""
        local = self._streams.get(frame.stream)
        if frame.kind is Kind.OPEN:
            if local is not None or len(self._streams) >= MAX_STREAMS:
                raise ProtocolError(
                    f"stream {frame.stream} was opened " + ("twice" if local is not None else f"beside {MAX_STREAMS} others")
                )
            self._opened(frame)
            return
        if local is None:
            raise ProtocolError(f"a frame {frame.kind.name.lower()} for stream {frame.stream}, which there is not")
        match frame.kind:
            case Kind.DATA:
                local.stream.received(len(frame.data))
                if local.open:
                    local.pending += frame.data
            case Kind.END:
                local.stream.ended = True
            case Kind.CLOSE:
                local.stream.ended = local.stream.closed = True
            case Kind.CREDIT:
                local.stream.credited(frame.amount)
        self._deliver(local)

    def _opened(self, frame: Frame) -> None:
        """Take in that the other side opened a stream.

        :raises ProtocolError: it may not.
        """
        raise ProtocolError(f"stream {frame.stream} opened by the host")

    # --- local sockets -----------------------------------------------------------------------------------------------

    def _join(self, local: Local) -> None:
        self._streams[local.number] = local
        self._watch(local)

    def _watch(self, local: Local) -> None:
        if not local.open:
            return
        reading = local.answered and not local.stream.sent_end and local.stream.may_send > 0 and len(self._outbox) < _HIGH_WATER
        writing = bool(local.pending)
        self._watcher.watch(
            local.socket.fileno(), reading=reading, writing=writing, act=lambda: self._turn(local), hanging_up=local.stream.sent_end
        )

    def _turn(self, local: Local) -> None:
        """Do what a local socket is ready for."""
        if local.open:
            self._read(local)
        self._deliver(local)
        self._flush()

    def _read(self, local: Local) -> None:
        stream = local.stream
        if stream.sent_end and hung_up(local.socket):
            self._give_up(local)
        if not local.open or not local.answered or stream.sent_end or stream.may_send <= 0 or len(self._outbox) >= _HIGH_WATER:
            return
        try:
            data = Plain.recv(local.socket, min(MAX_DATA, stream.may_send), _DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self._give_up(local)
            return
        if data:
            stream.may_send -= len(data)
            self._say(Kind.DATA, local.number, data)
        else:
            stream.sent_end = True
            self._say(Kind.END, local.number)
            if hung_up(local.socket):  # not its direction alone
                self._give_up(local)

    def _deliver(self, local: Local) -> None:
        """Write what came, and what follows from it: credit, the end of a direction, the end of the stream."""
        if local.open:
            self._pass_on(local)
        stream = local.stream
        if local.open and not local.pending:
            if stream.closed or (stream.ended and stream.sent_end):
                self._give_up(local)
            elif stream.ended and not local.shut:
                local.shut = True
                _shut_down(local.socket, socket.SHUT_WR)
        if stream.over:
            self._streams.pop(local.number, None)
        self._watch(local)

    def _pass_on(self, local: Local) -> None:
        while local.pending:
            try:
                sent = Plain.send(local.socket, local.pending, _SEND)
            except BlockingIOError:
                break
            except OSError:  # nobody reads it any more
                self._give_up(local)
                return
            del local.pending[:sent]
            local.passed += sent
            if not local.answered:
                self._take_out(local)
        if local.passed >= WINDOW // 2 and not local.stream.ended:
            local.stream.unread -= local.passed
            self._say(Kind.CREDIT, local.number, amount=local.passed)
            local.passed = 0

    def _take_out(self, local: Local) -> None:
        """The host has answered: take out what kept the socket from being writable."""
        local.answered = True
        try:
            while local.preface:
                local.preface -= len(Plain.recv(local.socket, min(local.preface, _READ_SIZE), _DONTWAIT)) or local.preface
        except OSError:
            self._give_up(local)

    def _give_up(self, local: Local) -> None:
        """Have done with a stream: its socket is closed, or nobody is behind it."""
        self._shut(local)
        if not local.stream.sent_close:
            local.stream.sent_close = True
            self._say(Kind.CLOSE, local.number)
        if local.stream.over:
            self._streams.pop(local.number, None)

    def _shut(self, local: Local) -> None:
        if local.open:
            local.open = False
            local.pending.clear()
            self._watcher.watch(local.socket.fileno(), reading=False, writing=False, act=lambda: None)
            _shut_down(local.socket, socket.SHUT_RDWR)  # others may have copies of it
            local.socket.close()


def _shut_down(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # it is already, from the other side
        Plain.shutdown(sock, how)
