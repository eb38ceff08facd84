"""One thread that calls functions later.

Owner: the manager, which closes it. Functions run on the timer thread and must be quick and must not raise; a slow duty
starts a thread of its own. The thread exists only from the first use to :meth:`Timers.close`.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Timer", "Timers"]

logger = logging.getLogger("blackhole.timers")


class Timer:
    """A pending call. ``cancel`` keeps it from being made, if it has not begun."""

    __slots__ = ("action", "due")

    def __init__(self, due: float, action: Callable[[], object]) -> None:
        self.due = due
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        """Forget the call; any thread, any number of times."""
        self.action = None


class Timers:
    """A heap of due times, owned by its thread under ``_changed``."""

    def __init__(self, name: str = "blackhole-timers") -> None:
        self._name = name
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()  # equal due times run first come, first served
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, seconds: float, action: Callable[[], object]) -> Timer:
        """Call ``action`` in ``seconds``; after :meth:`close` nothing is called any more.

        :raises RuntimeError: it is the first, and there is no thread to be had.
        """
        timer = Timer(time.monotonic() + seconds, action)
        with self._changed:
            if self._closed:
                timer.cancel()
                return timer
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread  # not before: where there is no thread to be had, the next one tries again
            heapq.heappush(self._heap, (timer.due, next(self._order), timer))
            self._changed.notify()
        return timer

    def close(self, timeout: float | None = None) -> threading.Thread | None:
        """Drop what is pending and end the thread; returns when a running action has ended, or its thread when ``timeout`` seconds passed first."""
        with self._changed:
            self._closed = True
            self._heap.clear()
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            return thread if thread.is_alive() else None
        return None

    def _run(self) -> None:
        while (timer := self._next()) is not None:
            action = timer.action
            if action is None:
                continue
            try:
                action()
            except Exception:
                logger.exception("a timer action failed")

    def _next(self) -> Timer | None:
        with self._changed:
            while not self._closed:
                if not self._heap:
                    self._changed.wait()
                    continue
                due, _, timer = self._heap[0]
                left = due - time.monotonic()
                if left <= 0 or timer.action is None:
                    heapq.heappop(self._heap)
                    return timer
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            return None
