"""The host's end of one worker: its descriptors, and the one thread that moves bytes.

Invariants:

* Whoever sends appends a whole frame to the outbox under ``_out_lock`` and writes as much of it as the pipe takes; what is
  left is written by the I/O thread when the pipe has room. No caller ever blocks in a write.
* Only the I/O thread reads. It hands every message to ``on_message``, and when the worker has ended, after every byte it
  left behind has been read, calls ``on_end`` exactly once. Neither callback may block.
* What it keeps for the worker is bounded: one unfinished message of at most ``max_message`` bytes, which must be finished
  (:mod:`~blackhole_core.executor.wire.arrival`), and of what nobody asked for as much as its :class:`Budget` allows.
* The I/O thread ends when the worker has; it closes every descriptor. What is still in the pipes then is read to at most
  :data:`_LAST_WORDS` bytes: a process that the worker left behind may hold them open, and write, for ever.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

import msgspec

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.launch.child import Child, wait_readable
from blackhole_core.executor.limits.verdict import Verdict
from blackhole_core.executor.listening import Listener
from blackhole_core.executor.outbox import Outbox
from blackhole_core.executor.output import LogPump
from blackhole_core.executor.records import Records
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.arrival import Arrival, Patience
from blackhole_core.executor.wire.budget import LOG_BURST, LOG_RATE, REST, Budget
from blackhole_core.executor.wire.frames import MOST_AT_ONCE, USUAL_AT_ONCE, FrameReader, frame, read_size
from blackhole_core.executor.wire.parcels import Shelf
from blackhole_core.printable import printable

__all__ = ["Connection", "Ended"]

#: Bytes read of each pipe after the end: twice what it holds.
_LAST_WORDS: Final = 2 * 1024 * 1024
#: Milliseconds to wait, after a worker closed its channel, for it to end by itself before it is killed: a dying process closes its
#: descriptors a moment before it can be waited for.
_END_GRACE: Final = 200
#: Largest answers to the worker's own calls that may wait to be read by it, and answers of any size.
_UNREAD_ANSWERS: Final = 4
_UNREAD_COUNT: Final = 100_000
#: What a worker gets to finish a message that it has begun.
PATIENCE: Final = Patience()


class Ended:
    """How a worker ended: exit status (None: unknown), its last lines, our reason when we ended it, where its threads stood if that is known, and which
    limit it died of if it was one.
    """

    def __init__(
        self, exit: int | None, tail: tuple[str, ...], reason: str | None, stack: tuple[str, ...] = (), limit: Verdict | None = None
    ) -> None:
        self.exit: Final = exit
        self.tail: Final = tail
        self.reason: Final = reason
        self.stack: Final = stack
        self.limit: Final = limit

    def judged(self, limit: Verdict | None) -> Ended:
        """Return it with the limit that it died of, which is the reason then."""
        return self if limit is None else Ended(self.exit, self.tail, str(limit), self.stack, limit)


class Connection:
    """A running worker. Owned by one runner, which calls :meth:`open` once."""

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
        self.shelf: Shelf | None = None  #: where large values go, once the worker has said that it looks there
        self.stack: tuple[str, ...] = ()  #: where its calls stand, as it said itself when it was about to be ended
        self._max_message = max_message
        self._records = Records(logger, pump)
        self._on_message = on_message
        self._on_end = on_end
        self._frames = FrameReader(max_message)
        self._arrival = Arrival(PATIENCE)
        self._budget = Budget(time.monotonic())
        self._size = USUAL_AT_ONCE  # bytes of the channel read at once now
        self._last = 0  # bytes that the last read brought
        self._listener = Listener(child.output, self._records, Budget(time.monotonic(), rate=LOG_RATE, burst=LOG_BURST))
        self._listen_at: float | None = None  # when the output is read again (``time.monotonic()``), while it is left alone
        self._reason: str | None = None
        self._out_lock = threading.Lock()
        self._outbox = Outbox()
        self._open = True
        self.trusted = True  #: whether everything it said until its end is read; not after a breach
        try:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError:
            child.discard()
            raise
        self._thread = threading.Thread(target=self._run, name=f"blackhole-io-{name}", daemon=True)

    def open(self) -> None:
        """Begin to read; the callbacks may come from now on."""
        try:
            self._thread.start()
        except RuntimeError:  # no more threads
            self.kill("the host could not start a thread for it")
            self._finish()
            raise

    # --- any thread --------------------------------------------------------------------------------------------------

    def send(self, message: msgspec.Struct, *, answer: bool = False) -> None:
        """Send one message; it is silently lost when the worker has ended, which ``on_end`` tells.

        ``answer`` marks what the worker itself asked for: one that asks and does not read is cut off.
        """
        data = frame(codec.encode(message))
        with self._out_lock:
            if not self._open:
                return
            waiting = bool(self._outbox)
            written = 0 if waiting else self._write(data)
            if written < len(data):
                self._outbox.append(memoryview(data)[written:], answer=answer)
            if self._outbox and not waiting:
                os.eventfd_write(self._wake, 1)
            outbox = self._outbox
            flooded = answer and (outbox.unread_answers > _UNREAD_ANSWERS * self._max_message or outbox.unread_count > _UNREAD_COUNT)
        if flooded:
            self.kill("it calls the host and does not read the answers")

    def kill(self, reason: str | None = None) -> None:
        """End the worker now; ``reason`` is reported as the cause."""
        if reason is not None:
            self.condemn(reason)
        self.child.kill()

    def condemn(self, reason: str) -> None:
        """Have ``reason`` reported as the cause of the end that is being prepared; the first one counts."""
        if self._reason is None:
            self._reason = reason

    def breach(self, error: ProtocolError) -> None:
        """Cut off a worker that sends what is not our protocol; nothing more of it is read."""
        self.trusted = False
        self.kill(f"it broke the protocol: {printable(str(error), 500)}")

    @property
    def lost_lines(self) -> int:
        """How many lines and log records were not logged, because there were too many."""
        return self._records.lost

    def tail(self) -> tuple[str, ...]:
        """Return the last lines it wrote so far."""
        return self._records.tail.lines()

    def join(self, timeout: float | None) -> bool:
        """Wait for the worker's end to have been handled; False when ``timeout`` seconds passed first."""
        return self.ended.wait(timeout)

    # --- the I/O thread ----------------------------------------------------------------------------------------------

    def _write(self, data: bytes | memoryview) -> int:
        try:
            return os.write(self.child.send, data)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError):
            return len(data)  # nobody will read it; the I/O thread sees that too

    def _run(self) -> None:
        try:
            self._move()
        except ProtocolError as error:
            self.breach(error)
        finally:
            self._finish()

    def _move(self) -> None:
        child = self.child
        poller = select.poll()
        for descriptor in (child.receive, child.output, child.pidfd, self._wake):
            poller.register(descriptor, select.POLLIN)
        poller.register(child.send, 0)  # no event is asked for: an error is told all the same
        writing = False
        while True:
            ready, waited = self._await(poller)
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if child.receive in ready and not self._receive():
                return
            self._arrival.waited(waited)
            if child.output in ready:
                self._listen(poller)
            if child.pidfd in ready or ready.get(child.send, 0) & select.POLLERR:
                return  # it ended, or closed its end of what we send
            writing = self._flush(poller, writing, child.send in ready)

    def _await(self, poller: select.poll) -> tuple[dict[int, int], float]:
        """Return what there is to do, and how many seconds were waited for the rest of a message that has begun. A worker that floods the host has to wait."""
        flooding = self._budget.overdrawn(time.monotonic())
        self._size = USUAL_AT_ONCE if flooding else read_size(self._last)
        if flooding:
            wait_readable(self.child.pidfd, int(REST * 1000))
        wait = self._arrival.wait
        if wait is None and self._listen_at is None:
            return dict(poller.poll()), 0.0
        begun = time.monotonic()
        ready = dict(poller.poll(self._milliseconds(wait, begun)))
        now = time.monotonic()
        if self._listen_at is not None and now >= self._listen_at:
            self._listen_at = None
            poller.register(self.child.output, select.POLLIN)
        return ready, 0.0 if wait is None else now - begun

    def _milliseconds(self, wait: float | None, now: float) -> float:
        """Return how long to wait: ``wait`` seconds at most, and no longer than the output is left alone."""
        alone = None if self._listen_at is None else max(0.0, self._listen_at - now)
        return 1000 * min(seconds for seconds in (wait, alone) if seconds is not None)

    def _listen(self, poller: select.poll) -> None:
        """Take in some of what the worker printed, and leave the rest alone for a while if that was much."""
        more = self._listener.read()
        pause = self._listener.pause
        if not more or pause:
            poller.unregister(self.child.output)
        if more and pause:
            self._listen_at = time.monotonic() + pause

    def _flush(self, poller: select.poll, writing: bool, ready: bool) -> bool:
        """Write what callers left; return whether there is more, with the poller told."""
        with self._out_lock:
            if ready and self._outbox:
                with self._outbox.head(MOST_AT_ONCE) as head:
                    written = self._write(head)
                self._outbox.remove(written)
            wanted = bool(self._outbox)
        if wanted != writing:
            poller.modify(self.child.send, select.POLLOUT if wanted else 0)
        return wanted

    def _receive(self) -> int:
        """Read once and return how many bytes came: 0 at the end of the stream."""
        try:
            data = os.read(self.child.receive, self._size)
        except ConnectionResetError:  # a socket's way to say that the other end is gone, and had not read everything
            data = b""
        self._last = len(data)
        messages = self._frames.feed(data)
        self._arrival.received(len(data), completed=bool(messages), partial=self._frames.partial)
        if not messages:
            self._budget.spend(1)  # however small the pieces are in which it sends, each costs the host a turn
        for body in messages:
            if codec.is_log(body):
                self._log(body)
                continue
            message = codec.decode_worker_message(body)
            if isinstance(message, codec.HostCall):
                self._budget.spend(1)
            self._on_message(message)
        return len(data)

    def _log(self, body: bytes) -> None:
        if not self._listener.hears():
            self._budget.spend(1)
            self._records.lose(1)
            return
        self._listener.spend(1, len(body))
        message = codec.decode_worker_message(body)
        assert isinstance(message, codec.Log), "it has its tag"
        self._records.logged(message)

    def _finish(self) -> None:
        child = self.child
        if not wait_readable(child.pidfd, _END_GRACE):
            self.kill("it closed its channel and went on running")
            wait_readable(child.pidfd, None)
        try:
            # What it wrote before it died is still in the pipes: answers first, they decide what was executed.
            if self.trusted:
                _exhaust(child.receive, self._receive)
        except ProtocolError as error:
            self.breach(error)
        exit_status = child.reap()
        _exhaust(child.output, self._listener.read)
        self._listener.end()
        with self._out_lock:
            self._open = False
            self._outbox.clear()
            child.close()
            os.close(self._wake)
        try:
            self._on_end(Ended(exit_status, self._records.tail.lines(), self._reason, self.stack or self._records.crash.lines()))
        finally:
            self.ended.set()


def _exhaust(descriptor: int, read: Callable[[], int]) -> None:
    """Call ``read`` until there is nothing to read from ``descriptor`` just now, for at most :data:`_LAST_WORDS` bytes."""
    left = _LAST_WORDS
    while left > 0 and wait_readable(descriptor, 0):
        count = read()
        if not count:
            return
        left -= count
