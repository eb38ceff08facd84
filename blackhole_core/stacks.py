"""Reading the stacks of other threads, so that the interpreter survives it.

CPython makes a frame object when a frame is first looked at (``sys._current_frames``, ``frame.f_back``), and making one may start a
garbage collection. What that runs (finalisers, callbacks of weak references and of ``gc``) lets other threads run, one of them may
return from the very frame that is looked at, and the new object then points at memory in use for something else: a segmentation
fault, sooner or later (seen on 3.11.7), or a deadlock on the interpreter's own list of threads (python/cpython#106883).

Invariant: while ``_readers`` is not empty no collection can begin. It and ``_was_enabled`` change under ``_lock`` only.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
from types import FrameType, TracebackType
from typing import Final

__all__ = ["StackReading", "stack_lines"]


class _Pause:
    """Holds off collections while there are readers."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may come here in the middle of it
        self._readers: set[StackReading] = set()
        self._was_enabled = False

    def begin(self, reader: StackReading) -> None:
        with self._lock:
            if not self._readers:
                self._was_enabled = gc.isenabled()
            self._readers.add(reader)
            gc.disable()

    def end(self, reader: StackReading) -> None:
        """Let collections go on when ``reader`` was the last one; nothing happens when it is none."""
        with self._lock:
            if reader in self._readers:
                self._readers.discard(reader)
                if not self._readers and self._was_enabled:
                    gc.enable()

    def begin_anew_in_forked_child(self) -> None:
        """Forget the readers: their threads are not in this process."""
        if self._readers and self._was_enabled:
            gc.enable()
        self.__init__()  # type: ignore[misc]  # a new beginning of the same object


_pause: Final = _Pause()
os.register_at_fork(after_in_child=_pause.begin_anew_in_forked_child)


class StackReading:
    """A block in which the stacks of threads may be read: it is given the innermost frame of each, by thread ident.

    The frames are those at the block's start; the threads go on. The calling thread's stack begins with the frame that holds the block.
    """

    def __enter__(self) -> dict[int, FrameType]:
        try:
            _pause.begin(self)
            self._tops = sys._current_frames()
            # This frame would hold itself through the dictionary: a cycle that keeps every other stack's frames until the next collection.
            self._tops[threading.get_ident()] = sys._getframe(1)
        except BaseException:  # Ctrl-C as well: collections would stay off for good
            _pause.end(self)
            raise
        return self._tops

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._tops.clear()
        _pause.end(self)


def stack_lines(thread: threading.Thread) -> list[str]:
    """Return where ``thread`` is now, formatted as in a traceback, outermost call first; empty when it has ended."""
    with StackReading() as tops:
        top = tops.get(thread.ident or 0)
        return traceback.format_stack(top) if top is not None else []
