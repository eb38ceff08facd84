"""What a worker writes to its standard output and error, and its log records, on their way into ``logging``.

The thread that moves a worker's frames also reads its output, so it must never wait for a log handler: it hands lines to
the :class:`LogPump`, one thread per host, over a bounded queue. When handlers are slower than plugins write, lines are
dropped and counted; a plugin is never blocked by them and the host's memory stays bounded.
"""

from __future__ import annotations

import collections
import logging
import threading
import traceback
from typing import Final

from blackhole_core.executor.printable import escaped

__all__ = ["LineSplitter", "LogPump", "Tail", "plugin_logger"]

#: Characters of one record; a longer line is cut into records of this size, so that a line without end cannot fill the memory.
MAX_LINE: Final = 256 * 1024
#: Records, and characters in all, that may wait for the handlers.
QUEUE_SIZE: Final = 10_000
QUEUE_CHARACTERS: Final = 16 * 1024 * 1024
#: Lines kept to explain a death.
TAIL_LINES: Final = 40
#: Characters of each of them.
_TAIL_WIDTH: Final = 1000
#: Seconds that closing waits for the handlers to take what is queued: a handler that hangs must not hang the host.
CLOSE_GRACE: Final = 5.0


def plugin_logger(name: str) -> logging.Logger:
    """Return the logger that everything plugin ``name`` writes goes to: ``blackhole.plugin.<name>``."""
    return logging.getLogger(f"blackhole.plugin.{name}")


class LineSplitter:
    """Cuts a byte stream into lines of text. Pure state, no I/O."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete now; undecodable bytes are shown as escapes."""
        *whole, rest = (self._rest + data).split(b"\n")
        lines = [piece for line in whole for piece in _pieces(line)]
        *cut, self._rest = _pieces(rest)
        return [_text(line) for line in lines + cut]

    def end(self) -> list[str]:
        """Return what was written after the last newline, if anything."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    """Cut ``line`` into at least one piece of at most :data:`MAX_LINE` bytes."""
    return [line[start : start + MAX_LINE] for start in range(0, max(1, len(line)), MAX_LINE)]


def _text(line: bytes) -> str:
    return escaped(line.decode("utf-8", "backslashreplace").rstrip("\r"))


class Tail:
    """The last lines of a worker, for the error that reports its death."""

    def __init__(self) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)

    def add(self, line: str) -> None:
        self._lines.append(line[:_TAIL_WIDTH])

    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines)


class LogPump:
    """One thread that emits log records. Owned by the manager, which closes it after the last worker ended.

    Everything is guarded by ``_changed``, which is never held while a handler runs.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._queue: collections.deque[tuple[logging.Logger, int, str]] = collections.deque()
        self._characters = 0
        self._dropped: collections.Counter[str] = collections.Counter()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, logger: logging.Logger, level: int, text: str) -> None:
        """Queue one record, or count it as dropped; never blocks. After :meth:`close` nothing is emitted."""
        if not logger.isEnabledFor(level):
            return
        with self._changed:
            if self._closed:
                return
            if len(self._queue) >= QUEUE_SIZE or self._characters >= QUEUE_CHARACTERS:
                self._dropped[logger.name] += 1
                return
            self._queue.append((logger, level, text))
            self._characters += len(text)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="blackhole-logs", daemon=True)
                self._thread.start()
            if len(self._queue) == 1:
                self._changed.notify()

    def close(self) -> None:
        """Emit what is queued and end the thread; one whose handler hangs is let go after :data:`CLOSE_GRACE`."""
        with self._changed:
            self._closed = True
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None:
            thread.join(CLOSE_GRACE)

    def _run(self) -> None:
        while (record := self._next()) is not None:
            _emit(*record)

    def _next(self) -> tuple[logging.Logger, int, str] | None:
        """Return the next record, the word on what was dropped once the queue is empty, and None at the end."""
        with self._changed:
            while not self._queue and not self._dropped and not self._closed:
                self._changed.wait()
            if self._queue:
                record = self._queue.popleft()
                self._characters -= len(record[2])
                return record
            if self._dropped:
                name, count = self._dropped.popitem()
                return logging.getLogger(name), logging.WARNING, _say_dropped(count)
            return None


def _say_dropped(count: int) -> str:
    return f"{count} lines were dropped: the log handlers are slower than the plugin writes"


def _emit(logger: logging.Logger, level: int, text: str) -> None:
    try:
        logger.log(level, "%s", text)
    except Exception:
        # A handler or filter is the host's code. Its fault is shown as logging itself shows one, and the next record may be well.
        if logging.raiseExceptions:
            traceback.print_exc()
