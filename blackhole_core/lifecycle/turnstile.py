"""The gate for calls that do not go through a hook: ``pm.execute``.

Calls enter and leave; while it is closed new ones wait until it opens or their deadline passes. A call made from inside one
that is already through passes a closed turnstile, or the two would wait for each other. Calls are counted by whom they are
for, so that what runs on an old version can be told from what began on the new one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Final, TypeVar

__all__ = ["Turnstile", "TurnstileTimeout"]

_T = TypeVar("_T", bound=Hashable)

_inside: Final[ContextVar[frozenset[int]]] = ContextVar("blackhole_turnstiles", default=frozenset())


class TurnstileTimeout(Exception):
    """The deadline passed while the turnstile was closed."""


class Turnstile:
    """Counts who is through. ``_through`` and ``_open`` are guarded by ``_lock``."""

    def __init__(self) -> None:
        # Held by itself: entering and leaving a condition are functions in Python, between whose steps Ctrl-C may come.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._open = True
        self._through: dict[object, Hashable] = {}  # for whom each passage is

    def inside(self) -> bool:
        """Whether the running code was called through this turnstile."""
        return id(self) in _inside.get()

    @contextlib.contextmanager
    def passage(self, deadline: float | None, serving: Callable[[], _T]) -> Iterator[_T]:
        """Be through for the length of the block, counted for whom ``serving`` names once nothing holds the call back.

        :raises TurnstileTimeout: it stayed closed until ``deadline`` (``time.monotonic()``).
        """
        passage, outside = object(), _inside.get()
        try:
            try:
                who = self._enter(passage, deadline, serving)
                _inside.set(outside | {id(self)})
                yield who
            finally:
                with self._lock:  # not in a function of its own: Ctrl-C may come as one is entered
                    self._through.pop(passage, None)
                    self._changed.notify_all()
        finally:
            _inside.set(outside)

    @contextlib.contextmanager
    def counted_inside(self) -> Iterator[None]:
        """Let what is called in the block pass, although closed: the owner of the gate asks the plugin itself for something."""
        token = _inside.set(_inside.get() | {id(self)})
        try:
            yield
        finally:
            _inside.reset(token)

    def _enter(self, passage: object, deadline: float | None, serving: Callable[[], _T]) -> _T:
        with self._lock:
            if not self._open and not self.inside():
                timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._changed.wait_for(lambda: self._open, timeout):
                    raise TurnstileTimeout
            who = serving()
            self._through[passage] = who
            return who

    def close(self) -> None:
        """Let nobody new through."""
        with self._lock:
            self._open = False

    def open(self) -> None:
        """Let everybody through, those who wait first."""
        with self._lock:
            self._open = True
            self._changed.notify_all()

    def drained(self, who: Hashable, timeout: float | None) -> bool:
        """Wait until nobody is through for ``who``; False when ``timeout`` seconds passed first."""
        with self._lock:
            return self._changed.wait_for(lambda: who not in self._through.values(), timeout)
