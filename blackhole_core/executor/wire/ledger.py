"""Which requests a worker that died may have executed. Pure.

A worker begins requests strictly in the order in which they were sent, on ``threads`` threads, and writes each answer before
the thread that made it takes the next request. So the unanswered requests that can have begun are exactly the first
``threads`` ones; every later one is untouched and may go to another worker without ever running twice. That holds as long as every
answer is read that it wrote before its end: after a breach of the protocol none is, and all may have begun.

Nested requests run at once on a thread that is blocked in an outer call: they count as begun from the start.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Ledger"]


class Ledger:
    """The unanswered requests of one worker, in the order sent. Not locked: its owner is."""

    __slots__ = ("_nested", "_sent", "_threads")

    def __init__(self, threads: int) -> None:
        self._threads: Final = threads
        self._sent: dict[int, None] = {}  # a dict keeps order and forgets in O(1)
        self._nested: set[int] = set()

    def __bool__(self) -> bool:
        """Whether the worker owes anything."""
        return bool(self._sent or self._nested)

    def __contains__(self, number: int) -> bool:
        """Whether the worker owes an answer to request ``number``."""
        return number in self._sent or number in self._nested

    def sent(self, number: int, *, nested: bool) -> None:
        """Note that request ``number`` went to the worker."""
        if nested:
            self._nested.add(number)
        else:
            self._sent[number] = None

    def answered(self, number: int) -> bool:
        """Note the answer to ``number``; False when nothing of that number was open, which is a breach of protocol."""
        if number in self._sent:
            del self._sent[number]
            return True
        if number in self._nested:
            self._nested.discard(number)
            return True
        return False

    def split(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return (may have been executed, certainly not begun), each in the order sent."""
        order = tuple(self._sent)
        return (*order[: self._threads], *sorted(self._nested)), order[self._threads :]
