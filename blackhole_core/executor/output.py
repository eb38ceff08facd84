"""What a worker writes to its standard output and error, and its log records, on their way into ``logging``.

The thread that moves a worker's frames also reads its output, so it must never wait for a log handler: it hands lines to
the :class:`LogPump`, one thread per host, over a bounded queue. When handlers are slower than plugins write, lines are
dropped and counted; a plugin is never blocked by them and the host's memory stays bounded. Of the queue each plugin has a share, so that one which
floods it costs no other a line.
"""

from __future__ import annotations

import collections
import logging
import threading
import traceback
from collections.abc import Callable
from typing import Final, TypeAlias

from blackhole_core.printable import escaped

__all__ = ["LineSplitter", "LogPump", "Tail", "plugin_logger", "plugin_of"]

#: Characters of one record; a longer line is cut into records of this size, so that a line without end cannot fill the memory.
MAX_LINE: Final = 256 * 1024
#: Records, and characters in all, of one plugin that may wait for the handlers; and of how many such plugins together.
QUEUE_SIZE: Final = 10_000
QUEUE_CHARACTERS: Final = 16 * 1024 * 1024
QUEUE_SHARES: Final = 4
#: Bytes at the end of what is thrown away that are kept for the tail: a traceback.
_LAST: Final = 8 * 1024
#: Lines kept to explain a death.
TAIL_LINES: Final = 40
#: Characters of each of them.
_TAIL_WIDTH: Final = 1000
#: Seconds that closing waits for the handlers to take what is queued: a handler that hangs must not hang the host.
CLOSE_GRACE: Final = 5.0


_PREFIX: Final = "blackhole.plugin."


def plugin_logger(name: str) -> logging.Logger:
    """Return the logger that everything plugin ``name`` writes goes to: ``blackhole.plugin.<name>``."""
    return logging.getLogger(f"{_PREFIX}{name}")


def plugin_of(logger: str) -> str:
    """Return the name of the plugin whose logger has the name ``logger``."""
    return logger.removeprefix(_PREFIX)


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

    def skip(self, data: bytes) -> tuple[int, list[str]]:
        """Throw ``data`` away but for its last lines; return how many lines that were, and these."""
        lost = data.count(b"\n", 0, max(0, len(data) - _LAST))
        if len(data) > _LAST:
            self._rest = b""
        return lost, self.feed(data[-_LAST:]) if data else self.end()

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


_Record: TypeAlias = tuple[logging.Logger, int, str, str]


class _Share:
    """What of one plugin waits."""

    __slots__ = ("characters", "records")

    def __init__(self) -> None:
        self.records = self.characters = 0

    def is_full(self) -> bool:
        return self.records >= QUEUE_SIZE or self.characters >= QUEUE_CHARACTERS

    def take(self, characters: int) -> None:
        self.records += 1
        self.characters += characters

    def give_back(self, characters: int) -> bool:
        """Return whether nothing is left."""
        self.records -= 1
        self.characters -= characters
        return not self.records


class LogPump:
    """One thread that emits log records. Owned by the manager, which closes it after the last worker ended.

    Everything is guarded by ``_changed``, which is never held while a handler runs. ``on_lost`` is told on this thread which logger's records were
    dropped, and how many, each time that the log says so.
    """

    def __init__(self, on_lost: Callable[[str, int], object] = lambda name, count: None) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._queue: collections.deque[_Record] = collections.deque()
        self._waiting: collections.defaultdict[str, _Share] = collections.defaultdict(_Share)  # by the plugin's logger; none is empty
        self._characters = 0
        self._dropped: collections.Counter[str] = collections.Counter()
        self._on_lost = on_lost
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, logger: logging.Logger, level: int, text: str, plugin: logging.Logger | None = None) -> bool:
        """Queue one record of ``plugin`` (its own logger), or count it as dropped and return False; never blocks. After :meth:`close` nothing is emitted."""
        if not logger.isEnabledFor(level):
            return True
        owner = (plugin or logger).name
        with self._changed:
            if self._closed:
                return True
            share = self._waiting[owner]
            if share.is_full() or len(self._queue) >= QUEUE_SHARES * QUEUE_SIZE or self._characters >= QUEUE_SHARES * QUEUE_CHARACTERS:
                self._dropped[owner] += 1
                if not share.records:
                    del self._waiting[owner]
                return False
            self._queue.append((logger, level, text, owner))
            share.take(len(text))
            self._characters += len(text)
            self._begin()
            return True

    def lose(self, plugin: logging.Logger, count: int) -> None:
        """Note that so many records of ``plugin`` were dropped elsewhere; the log says so."""
        with self._changed:
            if not self._closed:
                self._dropped[plugin.name] += count
                self._begin()

    def _begin(self) -> None:
        """Have the thread look. Under the lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="blackhole-logs", daemon=True)
            self._thread.start()
        if len(self._queue) <= 1:
            self._changed.notify()

    def close(self) -> None:
        """Emit what is queued and end the thread; one whose handler hangs is let go after :data:`CLOSE_GRACE`."""
        with self._changed:
            self._closed = True
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
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
                logger, level, text, owner = self._queue.popleft()
                self._characters -= len(text)
                if self._waiting[owner].give_back(len(text)):
                    del self._waiting[owner]
                return logger, level, text
            if not self._dropped:
                return None
            lost, count = self._dropped.popitem()
        self._tell(lost, count)
        return logging.getLogger(lost), logging.WARNING, _say_dropped(count)

    def _tell(self, name: str, count: int) -> None:
        try:
            self._on_lost(name, count)
        except Exception:  # the host's code, as a handler is: the lines after this one may be well
            if logging.raiseExceptions:
                traceback.print_exc()


def _say_dropped(count: int) -> str:
    return f"{count} lines were dropped: the plugin writes more than its share, or than the log handlers take"


def _emit(logger: logging.Logger, level: int, text: str) -> None:
    try:
        logger.log(level, "%s", text)
    except Exception:
        # A handler or filter is the host's code. Its fault is shown as logging itself shows one, and the next record may be well.
        if logging.raiseExceptions:
            traceback.print_exc()
