"""What waits to be written to a worker. Pure state, no I/O, not locked: its owner is.

Requests come here as far as the runner's :class:`~blackhole_core.executor.backlog.Backlog` lets them; their callers wait for that. Answers to calls that
the worker itself made have nobody who could wait: a worker that asks and does not read the answers would fill the host's memory, so they are counted
apart, and it is cut off when there are too many. What else the host says is small, and said again only when it was answered.
"""

from __future__ import annotations

import collections

__all__ = ["Outbox"]


class Outbox:
    """A byte queue that knows how many of its bytes are answers."""

    __slots__ = ("_appended", "_data", "_marks", "_removed", "unread_answers")

    def __init__(self) -> None:
        self._data = bytearray()
        self._appended = 0  # bytes, ever
        self._removed = 0
        self._marks: collections.deque[tuple[int, int]] = collections.deque()  # (end, size) of each answer, by position in the stream
        self.unread_answers = 0  #: bytes

    def __bool__(self) -> bool:
        return bool(self._data)

    @property
    def unread_count(self) -> int:
        """Answers that have not been written to their last byte."""
        return len(self._marks)

    def append(self, data: bytes | memoryview, *, answer: bool) -> None:
        """Put ``data`` at the end."""
        self._data += data
        self._appended += len(data)
        if answer:
            self._marks.append((self._appended, len(data)))
            self.unread_answers += len(data)

    def head(self, size: int) -> memoryview:
        """Return at most ``size`` bytes from the front; release it before the next change."""
        return memoryview(self._data)[:size]

    def remove(self, size: int) -> None:
        """Forget ``size`` bytes at the front: they have been written."""
        del self._data[:size]
        self._removed += size
        while self._marks and self._marks[0][0] <= self._removed:
            self.unread_answers -= self._marks.popleft()[1]

    def clear(self) -> None:
        """Forget everything."""
        self.remove(len(self._data))
