"""The way of one socket of a worker to the network: one end of a local pair, of which the other goes to the host with the request to connect.

The socket is there from the begin and stays the same open file, so whoever waits for it (``select``, ``epoll``, an event loop, OpenSSL) needs to know nothing. While a
connection is being made without blocking, the stream is full, and so not writable, as a TCP socket is then; the host takes out what fills it when it has an answer.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import socket
import struct
import threading
import time
from typing import Any, Final

from blackhole_core.executor.relay.messages import MAX_PREFACE, VERDICT_HEAD, Ask, decode_verdict, encode_ask

__all__ = ["Link", "Plain", "hung_up", "send_descriptor", "take_packet"]

#: The socket class of the standard library, before it is replaced: what it does with a descriptor is done through it.
Plain: Final = socket.socket
_FILLING: Final = bytes(32 * 1024)


class Link:
    """One connection, shared by all sockets on it: copies, and TLS over it. :attr:`connected` is read without the lock.

    ``_lock`` guards the rest, also while an answer is waited for: who uses the socket meanwhile needs that answer first. The other end of the pair is ours until the
    host has it.
    """

    def __init__(self, control: socket.socket) -> None:
        """``control`` is the way to the relay."""
        self.connected = False
        self.peer: tuple[Any, ...] = ()
        self.options: dict[tuple[int, int], int] = {}  #: what was set of TCP and IP, to be read again; it has no effect
        self._control = control
        self._lock = threading.RLock()
        self._asked = False
        self._error: OSError | None = None
        self._far = -1

    def pair(self) -> int:
        """Make the pair, and return the end that is the plugin's."""
        near, far = _socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._far = far.detach()
        return near.detach()

    def __del__(self) -> None:
        if self._far >= 0:  # never connected
            os.close(self._far)

    def connect(self, sock: socket.socket, host: str, peer: tuple[Any, ...]) -> None:
        """Connect to ``host``; ``peer`` is what the program takes it for, with the port.

        :raises OSError: there will be no connection, or (``BlockingIOError``) not yet.
        """
        timeout = sock.gettimeout()
        with self._lock:
            if self._asked:
                self._connect_again(sock)
            self._asked, self.peer = True, peer
            self._ask(Ask(host, int(peer[1]), self._fill(sock) if timeout == 0 else 0), timeout)
            if timeout == 0:
                raise BlockingIOError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))
            self.settle(sock)

    def _connect_again(self, sock: socket.socket) -> None:
        """A program that was told to wait may ask in this way whether it is connected."""
        if self._error is None and not self.connected:
            try:
                self.settle(sock)
            except BlockingIOError:
                raise BlockingIOError(errno.EALREADY, os.strerror(errno.EALREADY)) from None
            return_code = errno.EISCONN
        else:
            return_code = errno.EISCONN if self.connected else errno.EINVAL  # one that failed cannot be used again
        raise OSError(return_code, os.strerror(return_code))

    def _fill(self, sock: socket.socket) -> int:
        """Write until nothing more can be written; return how much it was."""
        poller = select.poll()
        poller.register(sock, select.POLLOUT)
        filled = 0
        while filled + len(_FILLING) <= MAX_PREFACE and poller.poll(0):
            filled += Plain.send(sock, _FILLING)
        return filled

    def _ask(self, ask: Ask, timeout: float | None) -> None:
        data = encode_ask(ask)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                send_descriptor(self._control, data, self._far)
            except BlockingIOError:
                self._wait_for_room(deadline)
            else:
                os.close(self._far)
                self._far = -1
                return

    def _wait_for_room(self, deadline: float | None) -> None:
        """Wait until the host takes requests again."""
        poller = select.poll()
        poller.register(self._control, select.POLLOUT)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not left and left is not None:
            raise OSError(errno.ENOBUFS, "the host takes no more connections now")
        poller.poll(None if left is None else left * 1000)

    def settle(self, sock: socket.socket) -> None:
        """Take the answer of the host, if it was not taken yet.

        :raises OSError: there is no connection; ``BlockingIOError`` or ``TimeoutError``: not yet.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            if self.connected:
                return
            if not self._asked:
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
            self._error = self._hear(sock)
            if self._error is not None:
                raise self._error
            self.connected = True

    def _hear(self, sock: socket.socket) -> OSError | None:
        head = Plain.recv(sock, VERDICT_HEAD.size, socket.MSG_PEEK)
        if len(head) < VERDICT_HEAD.size:
            return ConnectionAbortedError(errno.ECONNABORTED, "the host closed the connection before it was made")
        [size] = VERDICT_HEAD.unpack(head)
        verdict = decode_verdict(Plain.recv(sock, len(head) + size)[len(head) :])  # written at once, so it is there as a whole
        if not verdict.error:
            return None
        return (socket.gaierror if verdict.lookup else OSError)(verdict.error, verdict.text)

    def error_number(self, sock: socket.socket) -> tuple[int, str]:
        """Return what ``SO_ERROR`` says of the attempt to connect, and the sentence that does not fit into a number.

        While there is no answer, that is ``EINPROGRESS``: whoever asks then was woken without cause, and looks again.
        """
        try:
            self.settle(sock)
        except BlockingIOError:
            return errno.EINPROGRESS, ""
        except socket.gaierror as error:
            return errno.EHOSTUNREACH, str(error.strerror)
        except OSError as error:
            return (0, "") if error.errno == errno.ENOTCONN else (error.errno or errno.EIO, str(error.strerror))
        return 0, ""


def send_descriptor(control: socket.socket, data: bytes, descriptor: int) -> None:
    """Send a packet with a descriptor beside it, without waiting. ``socket.send_fds`` takes flags and ignores them (CPython 3.11 to 3.13).

    :raises BlockingIOError: there is no room for it.
    """
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))]
    Plain.sendmsg(control, [data], beside, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def take_packet(control: socket.socket, size: int) -> tuple[bytes, list[int], int]:
    """Receive a packet, the descriptor beside it if there is one, and flags, without waiting. ``socket.recv_fds`` ignores flags, too.

    :raises BlockingIOError: there is none.
    """
    room = socket.CMSG_LEN(struct.calcsize("i"))
    data, beside, flags, _address = Plain.recvmsg(control, size, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    rights = [content for level, kind, content in beside if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)]
    return data, [number for content in rights for (number,) in struct.iter_unpack("i", content[: len(content) // 4 * 4])], flags


def hung_up(sock: socket.socket) -> bool:
    """Whether the other half of the pair is closed, not only its direction."""
    poller = select.poll()
    poller.register(sock, 0)
    return any(event & select.POLLHUP for _descriptor, event in poller.poll(0))
