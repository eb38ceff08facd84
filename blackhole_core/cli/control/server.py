"""The host's end of the control socket.

Who owns what: one thread accepts, one thread per connection serves exactly one request, at most :data:`MAX_CONNECTIONS` of them and at most
:data:`MAX_STREAMS` of these for streams. A connection belongs to its thread, which closes it; ``close`` only shuts it down, which wakes the
thread. ``_threads`` changes under ``_lock``.

Each step of a connection has a deadline: the request must have arrived whole, an answer must have been read whole. A peer that
breaks the protocol gets one error and is cut off; nothing it does is seen by another connection or by the host.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from blackhole_core.cli.control.protocol import (
    MAX_ANSWER,
    MAX_REQUEST,
    Answer,
    AnyRequest,
    Entry,
    Error,
    Logs,
    Notice,
    Result,
    decode_request,
    encode,
)
from blackhole_core.cli.control.records import Records
from blackhole_core.cli.control.wire import PeerGone, peer_credentials, receive_frame, send_frame
from blackhole_core.errors import ProtocolError

__all__ = ["MAX_CONNECTIONS", "MAX_STREAMS", "ControlServer", "Patience", "listen"]

logger = logging.getLogger("blackhole.control")

#: Connections served at once: more than people and scripts open, few enough that a flood costs the host nothing.
MAX_CONNECTIONS: Final = 32
#: Of these, streams, which may stay open for ever.
MAX_STREAMS: Final = 16
#: Connections the kernel keeps until they are accepted.
_BACKLOG: Final = 128
#: Seconds to wait when the system is out of descriptors, before accepting again.
_BREATH: Final = 0.1


@attrs.frozen
class Patience:
    """How long the server waits for a peer, in seconds."""

    request: float = 5.0  #: until a request has arrived whole: it is sent in one piece by a program on the same machine
    answer: float = 10.0  #: until an answer was read whole
    record: float = 5.0  #: until a stream's reader has read one record
    close: float = 5.0  #: for requests under way when the server closes; one inside plugin code that hangs cannot be ended


class ControlServer:
    """Answers requests on a listening Unix socket, which it closes."""

    def __init__(
        self, listener: socket.socket, answer: Callable[[AnyRequest], Any], records: Records, patience: Patience = Patience()
    ) -> None:
        self._listener = listener
        self._patience = patience
        self._answer = answer
        self._records = records
        self._lock = threading.Lock()
        self._threads: dict[threading.Thread, socket.socket] = {}
        self._streams = 0
        self._closing = threading.Event()
        self._accepting = threading.Thread(target=self._accept, name="blackhole-control", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._accepting.start()

    def stop_accepting(self) -> None:
        """Let nobody new in; who is in stays. Idempotent."""
        self._closing.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        except OSError:  # shut down before
            pass
        if self._accepting.is_alive():
            self._accepting.join()
        self._listener.close()

    def close(self) -> None:
        """End every connection and wait for their threads. Idempotent."""
        self.stop_accepting()
        with self._lock:
            open_now = dict(self._threads)
            for sock in open_now.values():
                _shut(sock)
        deadline = time.monotonic() + self._patience.close
        for thread in open_now:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                logger.warning("a request of %s is still running in plugin code and is left behind", thread.name)

    # --- accepting ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if not self._closing.is_set():
                    logger.warning("the control socket cannot accept a connection: %s", error.strerror)
                    self._closing.wait(_BREATH)
                continue
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        try:
            pid, uid = peer_credentials(sock)
        except OSError:  # gone already
            sock.close()
            return
        if uid not in (os.geteuid(), 0):
            logger.warning("the control socket refused process %d of user %d", pid, uid)
            sock.close()
            return
        thread = threading.Thread(target=self._serve, args=(sock,), name=f"blackhole-control-{pid}", daemon=True)
        with self._lock:
            room = len(self._threads) < MAX_CONNECTIONS
            if room:
                self._threads[thread] = sock
        if room:
            thread.start()
            return
        _refuse(sock, f"the host serves {MAX_CONNECTIONS} control connections already")

    # --- one connection ----------------------------------------------------------------------------------------------

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                self._converse(sock)
        except PeerGone:
            pass  # its own choice, and nobody is left to be told
        except ProtocolError as error:
            logger.info("a control connection was cut off: %s", error)
        except Exception:  # ours: it must be seen, and must not end with a half-served table
            logger.exception("a control connection failed")
        finally:
            with self._lock:
                self._threads.pop(threading.current_thread(), None)

    def _converse(self, sock: socket.socket) -> None:
        try:
            request = decode_request(receive_frame(sock, limit=MAX_REQUEST, seconds=self._patience.request))
        except PeerGone:
            raise
        except ProtocolError as error:
            logger.info("a control client sent no request: %s", error)
            _send(sock, Error("ProtocolError", str(error)), self._patience.answer)
            return
        if isinstance(request, Logs) and request.follow:
            self._stream(sock, request)
        else:
            _send(sock, self._outcome(request), self._patience.answer)

    def _outcome(self, request: AnyRequest) -> Answer:
        try:
            return Result(self._answer(request))
        except Exception as error:  # whatever a plugin raised: the asker gets it, the host goes on
            return Error(type(error).__name__, str(error), "".join(traceback.format_exception(error)))

    def _stream(self, sock: socket.socket, request: Logs) -> None:
        with self._lock:
            room = self._streams < MAX_STREAMS
            self._streams += room
        if not room:
            _send(sock, Error("Busy", f"the host serves {MAX_STREAMS} streams already", busy=True), self._patience.answer)
            return
        try:
            self._send_records(sock, request)
        finally:
            with self._lock:
                self._streams -= 1

    def _send_records(self, sock: socket.socket, request: Logs) -> None:
        """Send records until the reader goes, the host ends or the reader falls behind."""
        with self._records.subscribe(past=request.limit, plugin=request.name) as subscription:
            poll = select.poll()
            poll.register(sock, select.POLLIN)  # readable = it went, or it speaks out of turn
            poll.register(subscription, select.POLLIN)
            while True:
                ready = {descriptor for descriptor, _ in poll.poll()}
                if sock.fileno() in ready:
                    return
                records, missed = subscription.take()
                for record in records:
                    _send(sock, Entry(record), self._patience.record)
                if missed:
                    _send(
                        sock,
                        Notice(f"this reader was too slow, {missed} records were dropped; the stream ends here"),
                        self._patience.answer,
                    )
                    return


def _send(sock: socket.socket, answer: Answer, seconds: float) -> None:
    try:
        frame = encode(answer, limit=MAX_ANSWER)
    except ProtocolError as error:
        frame = encode(Error("ProtocolError", f"the answer cannot be sent: {error}"), limit=MAX_ANSWER)
    send_frame(sock, frame, seconds=seconds)


def _refuse(sock: socket.socket, why: str) -> None:
    """Say no without waiting: the frame fits into an empty socket buffer or is not sent."""
    with sock:
        sock.setblocking(False)
        try:
            sock.send(encode(Error("Busy", why, busy=True), limit=MAX_ANSWER))
        except OSError:  # it is gone, or does not read: then it learns it from the end of the connection
            pass


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # closed by its thread a moment ago
        pass


def listen(path: Path) -> socket.socket:
    """Return a listening socket at ``path`` that only this user can connect to."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # fchmod before bind gives the file its mode from the start: there is no moment in which it is open to others.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        path.chmod(0o600)  # file systems that do not take the mode from the socket
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
