"""The command line's end of the control socket: one request, its answer or its stream."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from blackhole_core.cli.control.protocol import (
    MAX_ANSWER,
    MAX_REQUEST,
    Entry,
    Error,
    Logs,
    Notice,
    Request,
    Stop,
    decode_answer,
    encode,
)
from blackhole_core.cli.control.wire import PeerGone, peer_credentials, receive_frame, send_frame
from blackhole_core.cli.failing import HostFailure, NoHost
from blackhole_core.errors import BlackholeError, ProtocolError

__all__ = ["ControlClient"]

#: Seconds for the host to take a connection and read a request; it does both at once unless it is flooded.
CONNECT_SECONDS: Final = 10.0
#: Seconds between tries when the host is flooded.
_BREATH: Final = 0.05


class ControlClient:
    """Asks the host at ``path``. Holds nothing between requests."""

    def __init__(self, path: Path, *, connect_seconds: float = CONNECT_SECONDS) -> None:
        self.path = path
        self._connect_seconds = connect_seconds

    def ask(self, request: Request, *, seconds: float | None) -> Any:
        """Return what the host answers; ``seconds`` bounds the wait, None waits as long as the host runs.

        :raises NoHost: there is none, or it went away before it had answered. :raises HostFailure: it answered with an error.
        """
        deadline = time.monotonic() + self._connect_seconds
        while True:
            with self._connect(deadline) as sock:
                answer = self._exchange(sock, request, seconds)
            if not (answer.busy if isinstance(answer, Error) else False) or time.monotonic() > deadline:
                return _value(answer)
            time.sleep(_BREATH)

    def follow(self, request: Logs) -> Iterator[dict[str, Any]]:
        """Yield the records of a stream until the host ends.

        :raises HostFailure: the host ended the stream and says why.
        """
        with self._connect(time.monotonic() + self._connect_seconds) as sock:
            send_frame(sock, encode(request, limit=MAX_REQUEST), seconds=self._connect_seconds)
            while True:
                try:
                    answer = decode_answer(receive_frame(sock, limit=MAX_ANSWER, seconds=None))
                except PeerGone:
                    return
                if isinstance(answer, Notice):
                    raise HostFailure("Notice", answer.text)
                if not isinstance(answer, Entry):
                    _value(answer)
                    return
                yield answer.record

    def stop(self, *, seconds: float) -> int:
        """Ask the host to end, wait until its process has, and return its pid.

        :raises HostFailure: it had not ended within ``seconds``.
        """
        with self._connect(time.monotonic() + self._connect_seconds) as sock:
            pid, _ = peer_credentials(sock)
            try:
                process = os.pidfd_open(pid)
            except ProcessLookupError:
                raise NoHost(f"the host at {self.path} has just ended") from None
            try:
                _value(self._exchange(sock, Stop(), seconds))
                poll = select.poll()
                poll.register(process, select.POLLIN)
                if not poll.poll(seconds * 1000):
                    raise HostFailure(
                        "Timeout",
                        f"the host (process {pid}) has not ended within {seconds:g} s; a plugin may be holding it up, see 'blackhole logs'",
                    )
            finally:
                os.close(process)
        return pid

    # --- one connection ----------------------------------------------------------------------------------------------

    def _connect(self, deadline: float) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            while True:
                sock.settimeout(max(_BREATH, deadline - time.monotonic()))
                try:
                    sock.connect(str(self.path))
                    break
                except BlockingIOError:  # its queue of connections is full
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_BREATH)
            self._check_owner(sock)
        except OSError as error:
            sock.close()
            raise NoHost(f"no host is running at {self.path} ({error.strerror or error}); start one with: blackhole run") from error
        except BaseException:
            sock.close()
            raise
        return sock

    def _check_owner(self, sock: socket.socket) -> None:
        _, uid = peer_credentials(sock)
        if uid not in (os.geteuid(), 0):
            raise BlackholeError(f"the host at {self.path} is run by user {uid}, not by you; nothing was sent to it")

    def _exchange(self, sock: socket.socket, request: Request, seconds: float | None) -> Any:
        frame = encode(request, limit=MAX_REQUEST)
        try:
            try:
                send_frame(sock, frame, seconds=self._connect_seconds)
            except PeerGone:  # refused before it was read: the answer says why
                pass
            return decode_answer(receive_frame(sock, limit=MAX_ANSWER, seconds=seconds))
        except PeerGone as error:
            raise NoHost(f"the host at {self.path} ended the connection without an answer; it may have ended: {error}") from error
        except ProtocolError as error:
            raise HostFailure(type(error).__name__, f"the host at {self.path} gave no answer: {error}") from error


def _value(answer: Any) -> Any:
    if isinstance(answer, Error):
        raise HostFailure(answer.type, answer.message, answer.traceback)
    return getattr(answer, "value", None)
