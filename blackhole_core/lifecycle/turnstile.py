"""The gate for calls that do not go through a hook: ``pm.execute``.

Calls enter and leave; while it is closed new ones wait until it opens or their deadline passes. A call made from inside one
that is already through passes a closed turnstile, or the two would wait for each other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final

__all__ = ["Turnstile", "TurnstileTimeout"]

_inside: Final[ContextVar[frozenset[int]]] = ContextVar("blackhole_turnstiles", default=frozenset())


class TurnstileTimeout(Exception):
    """The deadline passed while the turnstile was closed."""


class Turnstile:
    """Counts who is through. ``_count`` and ``_open`` are guarded by ``_changed``."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self._count = 0

    def inside(self) -> bool:
        """Whether the running code was called through this turnstile."""
        return id(self) in _inside.get()

    @contextlib.contextmanager
    def passage(self, deadline: float | None, admit: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Be through for the length of the block; ``admit`` tells, when it is closed, whether this call is part of one that is through.

        :raises TurnstileTimeout: it stayed closed until ``deadline`` (``time.monotonic()``).
        """
        self._enter(deadline, admit)
        token = _inside.set(_inside.get() | {id(self)})
        try:
            yield
        finally:
            _inside.reset(token)
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def _enter(self, deadline: float | None, admit: Callable[[], bool]) -> None:
        with self._changed:
            if not self._open and not self.inside() and not admit():
                timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._changed.wait_for(lambda: self._open, timeout):
                    raise TurnstileTimeout
            self._count += 1

    def close(self) -> None:
        """Let nobody new through."""
        with self._changed:
            self._open = False

    def open(self) -> None:
        """Let everybody through, those who wait first."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def drained(self, timeout: float | None) -> bool:
        """Wait until nobody is through; False when ``timeout`` seconds passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, timeout)
