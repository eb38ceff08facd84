"""How much may be under way to one worker, or wait for it. Pure state, no I/O, not locked: its owner is.

A call's arguments are held from when it was accepted until it was answered, also when its caller has given up: the worker may be reading them, and the next
worker gets them if this one dies without. So whoever calls a worker that does not keep up has to wait for room before anything is held for it.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Backlog"]


class Backlog:
    """Counts calls and the bytes of their arguments. One call always finds room where there is none, however large."""

    __slots__ = ("_bytes", "_most_bytes", "_most_calls", "calls")

    def __init__(self, most_calls: int, most_bytes: int) -> None:
        self._most_calls: Final = most_calls
        self._most_bytes: Final = most_bytes
        self.calls = 0
        self._bytes = 0

    def has_room(self, size: int) -> bool:
        """Whether a call with so many bytes of arguments may be taken in."""
        return not self.calls or (self.calls < self._most_calls and self._bytes + size <= self._most_bytes)

    def add(self, size: int) -> None:
        """Take a call in."""
        self.calls += 1
        self._bytes += size

    def remove(self, size: int) -> None:
        """A call of that size is over."""
        self.calls -= 1
        self._bytes -= size

    def __str__(self) -> str:
        return f"{self.calls} calls with {self._bytes} bytes of arguments"
