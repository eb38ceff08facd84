"""What a caller waits on: its answer, and the nested calls that only its thread can run.

A call that comes back into a plugin, or into the host, while an outer call of the same chain is blocked, runs on the
thread that is blocked: no second thread is needed, so such calls cannot deadlock, and the stack shows who called whom.

Invariants: ``deliver`` happens at most once. After :meth:`Mailbox.wait` returned or raised, ``post`` returns False and no
job is left behind: every job that was accepted has been run or told that it was abandoned.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

__all__ = ["Job", "Mailbox", "MailboxTimeout"]

_R = TypeVar("_R")


class MailboxTimeout(Exception):
    """The deadline passed before the answer came."""


class Job:
    """A nested call for the waiting thread. ``run`` raises only what must end the waiting as well (Ctrl-C); ``abandon`` is called instead when nobody waits any more."""

    __slots__ = ("abandon", "run")

    def __init__(self, run: Callable[[], object], abandon: Callable[[], object]) -> None:
        self.run: Final = run
        self.abandon: Final = abandon


class Mailbox(Generic[_R]):
    """One blocked caller's inbox. Made per call, used by one waiter."""

    __slots__ = ("_closed", "_lock", "_queue")

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()  # orders post against closing; never held while anything runs
        self._closed = False

    def deliver(self, answer: _R) -> None:
        """Hand over the answer. Never blocks, any thread."""
        self._queue.put((True, answer))

    def post(self, job: Job) -> bool:
        """Have the waiting thread run ``job``; False when it does not wait any more."""
        with self._lock:
            if self._closed:
                return False
            self._queue.put((False, job))
            return True

    def wait(self, deadline: float | None) -> _R:
        """Return the answer, running nested jobs meanwhile.

        :raises MailboxTimeout: ``deadline`` (``time.monotonic()``) passed first.
        """
        try:
            while True:
                is_answer, item = self._next(deadline)
                if is_answer:
                    return item  # type: ignore[no-any-return]  # mypy cannot know more
                item.run()
        finally:
            self.close()

    def poll(self) -> _R | None:
        """Run the jobs that are here, and return the answer when it is; for one who waits elsewhere and closes this afterwards."""
        while True:
            try:
                is_answer, item = self._queue.get_nowait()
            except queue.Empty:
                return None
            if is_answer:
                return item  # type: ignore[no-any-return]  # mypy cannot know more
            item.run()

    def _next(self, deadline: float | None) -> tuple[bool, Any]:
        # Far deadlines are cut to what the platform can wait for, some 292 years.
        timeout = None if deadline is None else min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        try:
            found: tuple[bool, Any] = self._queue.get(timeout=timeout)
        except queue.Empty:
            raise MailboxTimeout from None
        return found

    def close(self) -> None:
        """Take no more jobs, and abandon those that were not run."""
        with self._lock:
            self._closed = True
        while True:
            try:
                is_answer, item = self._queue.get_nowait()
            except queue.Empty:
                return
            if not is_answer:
                item.abandon()
