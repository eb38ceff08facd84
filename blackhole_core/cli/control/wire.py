"""Whole frames over a socket, each with a deadline for all of it: a peer that drips bytes gets no more time than one that is silent."""

from __future__ import annotations

import socket
import time
from typing import Final

from blackhole_core.cli.control.protocol import HEADER, payload_length
from blackhole_core.errors import ProtocolError

__all__ = ["PeerGone", "SlowPeer", "peer_credentials", "receive_frame", "send_frame"]

#: Bytes asked for at once; a frame grows as it arrives, so a claim alone allocates nothing.
_CHUNK: Final = 64 * 1024


class PeerGone(ProtocolError):
    """The other side ended the connection."""


class SlowPeer(ProtocolError):
    """The other side did not send, or did not read, within the deadline."""


def receive_frame(sock: socket.socket, *, limit: int, seconds: float | None) -> bytes:
    """Return the payload of one frame; ``seconds`` bounds all of it, None waits as long as it takes.

    :raises PeerGone: the connection ended. :raises SlowPeer: the deadline passed. :raises ProtocolError: the length is impossible.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    header = _receive(sock, HEADER.size, deadline)
    return _receive(sock, payload_length(header, limit=limit), deadline)


def send_frame(sock: socket.socket, frame: bytes, *, seconds: float) -> None:
    """Send all of ``frame`` within ``seconds``.

    :raises PeerGone: the connection ended. :raises SlowPeer: the deadline passed.
    """
    deadline = time.monotonic() + seconds
    rest = memoryview(frame)
    while rest:
        _set_timeout(sock, deadline)
        try:
            rest = rest[sock.send(rest) :]
        except TimeoutError:
            raise SlowPeer(f"the other side did not read {len(frame)} bytes within {seconds:g} s") from None
        except OSError as error:
            raise PeerGone(f"the other side ended the connection: {error.strerror}") from error


def _receive(sock: socket.socket, size: int, deadline: float | None) -> bytes:
    received = bytearray()
    while len(received) < size:
        _set_timeout(sock, deadline)
        try:
            chunk = sock.recv(min(_CHUNK, size - len(received)))
        except TimeoutError:
            raise SlowPeer(f"the other side sent {len(received)} of {size} bytes before the deadline") from None
        except OSError as error:
            raise PeerGone(f"the other side ended the connection: {error.strerror}") from error
        if not chunk:
            raise PeerGone(f"the other side ended the connection after {len(received)} of {size} bytes")
        received += chunk
    return bytes(received)


def _set_timeout(sock: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        sock.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise SlowPeer("the other side took longer than the deadline")
    sock.settimeout(left)


def peer_credentials(sock: socket.socket) -> tuple[int, int]:
    """Return (pid, uid) of the process at the other end, as the kernel knows them."""
    import struct

    credentials = struct.Struct("3i")  # struct ucred: pid, uid, gid
    pid, uid, _ = credentials.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return pid, uid
