"""What a call carries along without being an argument: its deadline, and the chain of calls it is part of.

Both live in context variables, so they follow a call through nested hooks, callbacks from workers, plugin threads and
asyncio tasks. A new thread that a plugin starts by itself begins with an empty chain and no deadline.

The chain answers two questions that would otherwise be deadlocks: may this call pass a closed gate (it is part of a call
the gate is waiting for), and which blocked thread must run a nested call (see :mod:`blackhole_core.executor.mailbox`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

import attrs

__all__ = ["ActiveCall", "bound_deadline", "chain", "deadline", "earliest", "enter", "get_deadline", "origin_threads", "remaining"]


@attrs.define(eq=False)
class ActiveCall:
    """One call under way through a runner. Not frozen: one is made for each call, and that would take five times as long.

    ``runner`` runs it, ``thread`` is the ident of the thread that made the call and is blocked until its answer, ``mailbox`` what that
    thread is blocked on, ``call_id`` the runner's own number for the call.
    """

    runner: Any
    thread: int
    mailbox: Any
    call_id: int

    def post(self, job: Any) -> bool:
        """Have the blocked thread run ``job``; False when it is not blocked any more."""
        return bool(self.mailbox.post(job))


#: The calls this code runs inside of, outermost first.
chain: Final[ContextVar[tuple[ActiveCall, ...]]] = ContextVar("blackhole_chain", default=())

_deadline: Final[ContextVar[float | None]] = ContextVar("blackhole_deadline", default=None)


def get_deadline() -> float | None:
    """Return the absolute ``time.monotonic()`` value by which calls made here must be answered, or None."""
    return _deadline.get()


def earliest(*instants: float | None) -> float | None:
    """Return the earliest of several absolute deadlines; None means no deadline."""
    known = [instant for instant in instants if instant is not None]
    return min(known) if known else None


def remaining(instant: float | None, now: float) -> float | None:
    """Return the seconds left until ``instant``, never negative; None for no deadline."""
    return None if instant is None else max(0.0, instant - now)


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Give every hook call made inside the block at most ``seconds`` from now; an outer, earlier deadline wins.

    At level none a running call cannot be interrupted: there the deadline only bounds the wait at a closed gate.
    """
    token = _deadline.set(earliest(_deadline.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def bound_deadline(instant: float) -> None:
    """Set the deadline of the current context for good; for code that runs each call in a context of its own."""
    known = _deadline.get()
    if known is None or instant < known:
        _deadline.set(instant)


def enter(call: ActiveCall, outer: tuple[ActiveCall, ...], instant: float | None) -> None:
    """Make ``call`` the innermost of the current context's chain for good, after ``outer``; ``instant`` is its deadline where the context has none."""
    chain.set((*outer, call))
    if instant is not None:
        _deadline.set(instant)


def origin_threads() -> tuple[int, ...]:
    """Return the idents of the threads blocked in the calls this code runs inside of, outermost first."""
    return tuple(active.thread for active in chain.get())
