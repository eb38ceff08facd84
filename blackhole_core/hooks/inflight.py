"""Which calls of a hook are still running: the evidence that a gate waits for.

Two kinds, chosen by :data:`EVIDENCE` when this module is imported:

``frames``
    CPython with the GIL. A running frame keeps its code object alive, so a weak reference to a replaced code object dies
    when the last call that began on it has returned: counting costs the open path nothing. A stored traceback keeps a
    finished frame alive as well, so the stacks of all threads are read as a cross-check.
``counter``
    Everywhere else every compiled call takes a :class:`Ticket`.

Calls that do not run in a compiled body (``call_extra``, ``call_historic``, subset callers, pending awaits) take a ticket
in both kinds.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Final, Literal, Self

from blackhole_core.callcontext import origin_threads
from blackhole_core.stacks import StackReading

__all__ = ["EVIDENCE", "CodeWatch", "Evidence", "Ticket", "calling_threads", "running_codes", "submitters", "tickets_held"]

Evidence = Literal["frames", "counter"]

#: How this interpreter tells which compiled calls are running.
EVIDENCE: Final[Evidence] = "frames" if sys.implementation.name == "cpython" and "free-threading" not in sys.version else "counter"

#: The tickets this code runs under, outermost first; follows awaits and copied contexts.
tickets_held: Final[ContextVar[tuple[Ticket, ...]]] = ContextVar("blackhole_tickets", default=())

#: Threads (usually an event loop's) that handed this code to another thread and may be blocked on its answer.
submitters: Final[ContextVar[tuple[int, ...]]] = ContextVar("blackhole_submitters", default=())


class Ticket:
    """One call under way that no frame of a compiled body stands for. ``thread`` is None while it is only awaited."""

    __slots__ = ("ended", "thread", "wakers")

    def __init__(self) -> None:
        self.thread: int | None = threading.get_ident()
        self.ended = False
        self.wakers: tuple[Callable[[], object], ...] = ()


class CodeWatch(weakref.ref[CodeType]):
    """A weak reference to a code object that was taken out of service; it tells its wakers when the last call in it returned.

    ``counts`` is False for code that only waits at a gate: a call in it has not begun. The reference dies in whatever thread
    returns last, at any point of its execution: wakers must be re-entrant and may take no lock (``SimpleQueue.put`` is such).
    """

    __slots__ = ("counts", "wakers")

    counts: bool
    wakers: list[Callable[[], object]]

    def __new__(cls, code: CodeType) -> Self:
        return super().__new__(cls, code, _code_died)

    def __init__(self, code: CodeType) -> None:
        super().__init__(code, _code_died)  # type: ignore[call-arg]  # what typeshed leaves out
        self.counts = True
        self.wakers = []


def _code_died(watch: weakref.ref[CodeType]) -> None:
    assert isinstance(watch, CodeWatch)
    for wake in tuple(watch.wakers):
        wake()


def calling_threads() -> tuple[int, ...]:
    """Return the idents of this thread and of those known to be blocked until it answers."""
    return (threading.get_ident(), *origin_threads(), *submitters.get())


def running_codes(codes: Sequence[CodeType], threads: Iterable[int] | None = None) -> list[CodeType]:
    """Return those of ``codes`` that a frame on the stack of one of ``threads`` (all when None) is running right now."""
    wanted = {id(code): code for code in codes}
    found: dict[int, CodeType] = {}
    with StackReading() as tops:
        for thread in dict.fromkeys(tops if threads is None else threads):
            _find(tops.get(thread), wanted, found)
    return list(found.values())


def _find(frame: FrameType | None, wanted: Mapping[int, CodeType], found: dict[int, CodeType]) -> None:
    """Add to ``found`` what runs in ``frame`` or above it, until all is found.

    A function of its own, because a variable of :func:`running_codes` could be left holding that function's own frame: a cycle that keeps the codes
    alive until the next collection, and with them the sign that their last call has ended.
    """
    while frame is not None and len(found) < len(wanted):
        key = id(frame.f_code)
        if key in wanted:
            found[key] = wanted[key]
        frame = frame.f_back
