"""What one thread sleeps on until another one rings.

A write to an eventfd gives the interpreter lock away before it wakes the sleeper, which therefore finds it free; releasing a lock
wakes it first, and it goes to sleep again at once (measured, there and back: 7 µs and 16). Where the platform has no eventfd, or no
descriptor is left, a :class:`queue.SimpleQueue` serves.

Rules:

* A ring is never lost: rung before the sleep, it ends the sleep at once.
* A ring may be one too many. Who wakes looks for what it waits for, and sleeps again when it is not there.
* A descriptor lives as long as anybody can ring or sleep on it, that is as long as the object: a number that was closed too early
  may already be somebody else's file. It is closed where the last reference goes.
"""

from __future__ import annotations

import os
import queue
import sys
from typing import Final, Protocol

__all__ = ["SILENT", "Bell", "new_bell"]


class Bell(Protocol):
    """Rung by any thread, also from a finaliser; never blocks them."""

    def ring(self) -> None:
        """Wake one sleeper, now or when it goes to sleep."""

    def sleep(self) -> None:
        """Return when rung. May return early: a signal came."""


class _QueueBell:
    """Counts its rings, whether or not it is asked to."""

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> None:
        self._rings.put(None)

    def sleep(self) -> None:
        self._rings.get()


class _SilentBell:
    __slots__ = ()

    def ring(self) -> None: ...

    def sleep(self) -> None:
        raise AssertionError("nobody would ever wake who sleeps here")


#: Where a bell hung that nobody sleeps on any more.
SILENT: Final[Bell] = _SilentBell()


if sys.platform == "linux":

    class _EventBell:
        """An eventfd: the kernel adds up the rings."""

        __slots__ = ("_fd",)

        def __init__(self, flags: int) -> None:
            self._fd: Final = os.eventfd(0, flags)

        def ring(self) -> None:
            os.eventfd_write(self._fd, 1)

        def sleep(self) -> None:
            try:
                os.eventfd_read(self._fd)
            except InterruptedError:  # the only blocking call in os that does not go on after a signal by itself
                return

        def __del__(self) -> None:
            if hasattr(self, "_fd"):  # else there was no descriptor to be had
                os.close(self._fd)


def new_bell(*, counting: bool = False) -> Bell:
    """Return a bell. One that is ``counting`` wakes one sleeper for each ring; any other may take many rings for one."""
    if sys.platform == "linux" and hasattr(os, "eventfd"):
        try:
            return _EventBell(os.EFD_CLOEXEC | (os.EFD_SEMAPHORE if counting else 0))
        except OSError:  # no descriptor left: slower, and no reason to fail a call
            return _QueueBell()
    return _QueueBell()
