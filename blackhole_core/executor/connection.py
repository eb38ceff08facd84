"""The host's end of one worker: its descriptors, and the one thread that moves bytes.

Invariants:

* Whoever sends appends a whole frame to the outbox under ``_out_lock`` and writes as much of it as the pipe takes; what is
  left is written by the I/O thread when the pipe has room. No caller ever blocks in a write.
* Only the I/O thread reads. It hands every message to ``on_message``, and when the worker has ended, after every byte it
  left behind has been read, calls ``on_end`` exactly once. Neither callback may block.
* The I/O thread ends when the worker has; it closes every descriptor.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.launch.child import Child
from blackhole_core.executor.output import LineSplitter, LogPump, Tail
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.frames import FrameReader, frame

__all__ = ["Connection", "Ended"]

#: Bytes read at once: what a pipe holds.
_READ_SIZE: Final = 1024 * 1024
#: Milliseconds to wait, after a worker closed its channel, for it to end by itself before it is killed: a dying process closes its
#: descriptors a moment before it can be waited for.
_END_GRACE: Final = 200


class Ended:
    """How a worker ended: exit status (None: unknown), its last lines, and our reason when we ended it."""

    def __init__(self, exit: int | None, tail: tuple[str, ...], reason: str | None) -> None:
        self.exit: Final = exit
        self.tail: Final = tail
        self.reason: Final = reason


class Connection:
    """A running worker. Owned by one runner."""

    def __init__(
        self,
        child: Child,
        *,
        name: str,
        max_message: int,
        logger: logging.Logger,
        pump: LogPump,
        on_message: Callable[[codec.WorkerMessage], object],
        on_end: Callable[[Ended], object],
    ) -> None:
        self.child: Final = child
        self.ended: Final = threading.Event()
        self._logger = logger
        self._pump = pump
        self._on_message = on_message
        self._on_end = on_end
        self._frames = FrameReader(max_message)
        self._lines = LineSplitter()
        self._tail = Tail()
        self._reason: str | None = None
        self._out_lock = threading.Lock()
        self._outbox = bytearray()
        self._open = True
        self._trusted = True
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name=f"blackhole-io-{name}", daemon=True)
        self._thread.start()

    # --- any thread --------------------------------------------------------------------------------------------------

    def send(self, message: msgspec.Struct) -> None:
        """Send one message; it is silently lost when the worker has ended, which ``on_end`` tells."""
        data = frame(codec.encode(message))
        with self._out_lock:
            if not self._open:
                return
            if self._outbox:
                self._outbox += data
                return
            written = self._write(data)
            if written < len(data):
                self._outbox += memoryview(data)[written:]
                os.eventfd_write(self._wake, 1)

    def kill(self, reason: str | None = None) -> None:
        """End the worker now; ``reason`` is reported as the cause."""
        if reason is not None and self._reason is None:
            self._reason = reason
        self.child.kill()

    def join(self, timeout: float | None) -> bool:
        """Wait for the worker's end to have been handled; False when ``timeout`` seconds passed first."""
        return self.ended.wait(timeout)

    # --- the I/O thread ----------------------------------------------------------------------------------------------

    def _write(self, data: bytes | memoryview) -> int:
        try:
            return os.write(self.child.send, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)  # nobody will read it; the end is reported by the reading side

    def _run(self) -> None:
        try:
            self._move()
        except ProtocolError as error:
            self._breach(error)
        finally:
            self._finish()

    def _breach(self, error: ProtocolError) -> None:
        """Cut off a worker that sends what is not our protocol; nothing more of it is read."""
        self._trusted = False
        self.kill(f"it broke the protocol: {error}")

    def _move(self) -> None:
        child = self.child
        poller = select.poll()
        for descriptor in (child.receive, child.output, child.pidfd, self._wake):
            poller.register(descriptor, select.POLLIN)
        writing = False
        while True:
            ready = dict(poller.poll())
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if child.receive in ready and not self._receive():
                return
            if child.output in ready and not self._listen():
                poller.unregister(child.output)
            if child.pidfd in ready:
                return
            writing = self._flush(poller, writing, child.send in ready)

    def _flush(self, poller: select.poll, writing: bool, ready: bool) -> bool:
        """Write what callers left; return whether there is more, with the poller told."""
        with self._out_lock:
            if ready and self._outbox:
                del self._outbox[: self._write(memoryview(self._outbox)[:_READ_SIZE])]
            wanted = bool(self._outbox)
        if wanted != writing:
            poller.register(self.child.send, select.POLLOUT) if wanted else poller.unregister(self.child.send)
        return wanted

    def _receive(self) -> bool:
        """Read once; False at the end of the stream."""
        data = os.read(self.child.receive, _READ_SIZE)
        for body in self._frames.feed(data):
            message = codec.decode_worker_message(body)
            if isinstance(message, codec.Log):
                self._log(message)
            else:
                self._on_message(message)
        return bool(data)

    def _listen(self) -> bool:
        """Take in what the worker printed; False at the end of the stream."""
        data = os.read(self.child.output, _READ_SIZE)
        for line in self._lines.feed(data) if data else self._lines.end():
            self._tail.add(line)
            self._pump.put(self._logger, logging.INFO, line)
        return bool(data)

    def _log(self, record: codec.Log) -> None:
        text = f"{record.message}\n{record.traceback}".rstrip()
        self._tail.add(text)
        suffix = "" if record.logger == "root" else f".{record.logger}"
        self._pump.put(logging.getLogger(f"{self._logger.name}{suffix}"), record.level, text)

    def _finish(self) -> None:
        child = self.child
        if not select_one(child.pidfd, _END_GRACE):
            self.kill("it closed its channel and went on running")
            select_one(child.pidfd, None)
        try:
            # What it wrote before it died is still in the pipes: answers first, they decide what was executed.
            while self._trusted and select_one(child.receive, 0) and self._receive():
                pass
        except ProtocolError as error:
            self._breach(error)
        exit_status = child.reap()
        while select_one(child.output, 0) and self._listen():
            pass
        for line in self._lines.end():
            self._tail.add(line)
        with self._out_lock:
            self._open = False
            self._outbox.clear()
        for descriptor in (child.receive, child.send, child.pidfd, child.output, self._wake):
            os.close(descriptor)
        try:
            self._on_end(Ended(exit_status, self._tail.lines(), self._reason))
        finally:
            self.ended.set()


def select_one(descriptor: int, milliseconds: int | None) -> bool:
    """Whether ``descriptor`` becomes readable (or ends) within the time; None waits for ever."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(milliseconds))
