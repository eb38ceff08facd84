"""What a worker writes to its standard output and error, and its log records, on their way into ``logging``.

The thread that moves a worker's frames also reads its output, so it must never wait for a log handler: it hands lines to
the :class:`LogPump`, one thread per host, over a bounded queue. When handlers are slower than plugins write, lines are
dropped and counted; a plugin is never blocked by them and the host's memory stays bounded.
"""

from __future__ import annotations

import collections
import logging
import queue
import threading
from typing import Final

__all__ = ["LineSplitter", "LogPump", "Tail", "plugin_logger"]

#: Characters of one record; a longer line is cut into records of this size, so that a line without end cannot fill the memory.
MAX_LINE: Final = 256 * 1024
#: Records that may wait for the handlers.
QUEUE_SIZE: Final = 10_000
#: Lines kept to explain a death.
TAIL_LINES: Final = 40


def plugin_logger(name: str) -> logging.Logger:
    """Return the logger that everything plugin ``name`` writes goes to: ``blackhole.plugin.<name>``."""
    return logging.getLogger(f"blackhole.plugin.{name}")


class LineSplitter:
    """Cuts a byte stream into lines of text. Pure state, no I/O."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that are complete now; undecodable bytes are shown as escapes."""
        *lines, rest = (self._rest + data).split(b"\n")
        while len(rest) > MAX_LINE:
            lines.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._rest = rest
        return [_text(line) for line in lines]

    def end(self) -> list[str]:
        """Return what was written after the last newline, if anything."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace").rstrip("\r")


class Tail:
    """The last lines of a worker, for the error that reports its death."""

    def __init__(self) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)

    def add(self, line: str) -> None:
        self._lines.append(line[:1000])

    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines)


class LogPump:
    """One thread that emits log records. Owned by the manager, which closes it after the last worker ended."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[logging.Logger, int, str] | None] = queue.Queue(QUEUE_SIZE)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._dropped: collections.Counter[str] = collections.Counter()

    def put(self, logger: logging.Logger, level: int, text: str) -> None:
        """Queue one record; never blocks."""
        if not logger.isEnabledFor(level):
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="blackhole-logs", daemon=True)
                self._thread.start()
        try:
            self._queue.put_nowait((logger, level, text))
        except queue.Full:
            with self._lock:
                self._dropped[logger.name] += 1

    def close(self) -> None:
        """Emit what is queued and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            logger, level, text = record
            logger.log(level, "%s", text)
            if self._dropped and self._queue.empty():
                self._report_dropped()
        self._report_dropped()

    def _report_dropped(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, collections.Counter()
        for name, count in dropped.items():
            logging.getLogger(name).warning("%d lines were dropped: the log handlers are slower than the plugin writes", count)
