"""``await pm.ahook.transform(text="hi")``: hooks for code that runs on an event loop.

The hook runs in a thread of the manager's own bounded pool, with the caller's context variables; awaitable results are then
awaited on the caller's loop, in order. From its first instruction to the last await such a call counts as in flight.

A call that finds a gate closed waits on the loop, not in the pool: otherwise the waiting calls could take every thread that the
calls which the gate waits for still need.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import attrs

from blackhole_core.callcontext import get_deadline
from blackhole_core.errors import CallTimeout
from blackhole_core.hooks.inflight import Ticket, submitters, tickets_held
from blackhole_core.messages import Failure, Replies

if TYPE_CHECKING:
    from blackhole_core.hooks.caller import HookCaller
    from blackhole_core.hooks.gate import HookGate
    from blackhole_core.hooks.manager import HookManager

__all__ = ["AsyncHookCaller", "AsyncHookRelay"]


@attrs.frozen(eq=False)
class _Ran:
    """What the pool's thread hands back: the ticket still held, and the result or the exception."""

    ticket: Ticket
    result: Any = None
    error: BaseException | None = None


class AsyncHookRelay:
    """The awaitable face of ``pm.hook``: the same names, the same results."""

    def __init__(self, manager: HookManager) -> None:
        self._manager = manager

    def __getattr__(self, name: str) -> AsyncHookCaller:
        caller = self._manager.caller(name)
        if caller is None:
            raise AttributeError(f"there is no hook named {name!r}")
        return AsyncHookCaller(self._manager, caller)

    def __dir__(self) -> list[str]:
        return sorted(self._manager.hook.__dict__)


@attrs.frozen(eq=False)
class AsyncHookCaller:
    """Awaitable calls of one hook."""

    _manager: HookManager
    _caller: HookCaller

    async def __call__(self, **kwargs: object) -> Any:
        """Call the hook without blocking the event loop.

        With ``firstresult`` the first implementation that returns anything but None decides; if that is an awaitable, what
        it gives is the result, even None.

        :raises CallTimeout: a gate did not open before the deadline; the call never began.
        """
        ran = await self._run(functools.partial(self._caller.function, **kwargs))
        ticket = ran.ticket
        held = tickets_held.set((*tickets_held.get(), ticket))
        try:
            if ran.error is not None:
                raise ran.error
            return await self._resolved(ran.result)
        finally:
            tickets_held.reset(held)
            self._caller.door.leave(ticket)

    async def map(self, calls: Iterable[Mapping[str, Any]], *, window: int = 64, return_exceptions: bool = False) -> list[Any]:
        """Do what ``pm.hook.<name>.map`` does without blocking the event loop; awaitable results are awaited, in order.

        A window holds up a gate until all of its results have been awaited.
        """
        from blackhole_core.hooks.many import noted, windows

        results: list[Any] = []
        for items in windows(calls, window):
            for outcome in await self._window(items, stop=not return_exceptions):
                if isinstance(outcome, Failure) and not return_exceptions:
                    raise noted(outcome.error, len(results))
                results.append(outcome.error if isinstance(outcome, Failure) else outcome)
        return results

    async def _window(self, items: Sequence[Mapping[str, Any]], *, stop: bool) -> list[Any]:
        """Return what came of each of ``items``, a :class:`Failure` for those that failed; with ``stop`` the first of them is the last."""
        from blackhole_core.hooks.many import answer_inside

        try:
            ran = await self._run(functools.partial(answer_inside, self._caller, items, stop))
        except CallTimeout as error:  # a gate did not open: none of them began
            return [Failure(error)] * (1 if stop else len(items))
        held = tickets_held.set((*tickets_held.get(), ran.ticket))
        pending: list[Any] = []
        try:
            if ran.error is not None:
                raise ran.error
            pending = _in_order(ran.result)
            return await self._outcomes(pending, stop=stop)
        finally:
            for left in pending:
                _close(left if isinstance(left, list) else [left])
            tickets_held.reset(held)
            self._caller.door.leave(ran.ticket)

    async def _outcomes(self, pending: list[Any], *, stop: bool) -> list[Any]:
        """Await what is awaitable, taking it out of ``pending``."""
        outcomes: list[Any] = []
        while pending:
            outcome = pending.pop(0)
            if not isinstance(outcome, Failure):
                try:
                    outcome = await self._resolved(outcome)
                except Exception as error:
                    outcome = Failure(error)
            outcomes.append(outcome)
            if stop and isinstance(outcome, Failure):
                break
        return outcomes

    async def _run(self, call: Callable[[], Any]) -> _Ran:
        deadline = get_deadline()
        began = time.monotonic()
        until = began + self._manager.gate_timeout if deadline is None else deadline
        while True:
            outcome = await self._in_pool(call)
            if isinstance(outcome, _Ran):
                return outcome
            if not await _opened(outcome, until - time.monotonic()):
                raise self._caller.door.timeout(outcome, until - began)

    async def _in_pool(self, call: Callable[[], Any]) -> _Ran | HookGate:
        context = contextvars.copy_context()
        context.run(submitters.set, (*submitters.get(), threading.get_ident()))
        future = self._manager.pool().submit(context.run, self._attempt, call)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(self._abandon)  # the thread cannot be stopped: what it still brings is let go
            raise

    def _attempt(self, call: Callable[[], Any]) -> _Ran | HookGate:
        """Run the hook in this thread, unless a gate is closed. Exceptions are values: a future cannot carry StopIteration."""
        ticket = self._caller.door.try_enter()
        if not isinstance(ticket, Ticket):
            return ticket
        try:
            return _Ran(ticket, result=call())
        except BaseException as error:
            return _Ran(ticket, error=error)
        finally:
            ticket.thread = None  # from here on the call is only awaited

    def _abandon(self, future: Future[_Ran | HookGate]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        outcome = future.result()
        if isinstance(outcome, _Ran):
            for result in outcome.result.results if isinstance(outcome.result, Replies) else [outcome.result]:
                _close(result if isinstance(result, list) else [result])
            self._caller.door.leave(outcome.ticket)

    async def _resolved(self, result: Any) -> Any:
        if not isinstance(result, list) or self._caller.firstresult():
            return await self._awaited(result)
        pending = list(result)
        values = []
        try:
            while pending:
                value = await self._awaited(pending.pop(0))
                if value is not None:
                    values.append(value)
        finally:
            _close(pending)  # one raised or was cancelled: the later ones never begin
        return values

    async def _awaited(self, value: Any) -> Any:
        if not inspect.isawaitable(value):
            return value
        try:
            return await value
        except BaseException as error:
            self._caller.attribute(error, self._caller.get_hookimpls())
            raise


def _in_order(replies: Replies) -> list[Any]:
    """Return the results, a :class:`Failure` where there is none."""
    return [Failure(replies.failures[place]) if place in replies.failures else result for place, result in enumerate(replies.results)]


async def _opened(gate: HookGate, seconds: float) -> bool:
    """Wait on the loop until ``gate`` opens; False if it did not within ``seconds``."""
    loop = asyncio.get_running_loop()
    opened = asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(opened.set)

    gate.on_open(wake)
    try:
        await asyncio.wait_for(opened.wait(), max(0.0, seconds))
    except TimeoutError:
        return False
    finally:
        gate.forget(wake)
    return True


def _close(values: Iterable[Any]) -> None:
    """Close coroutines that nobody will await."""
    for value in values:
        if inspect.iscoroutine(value):
            value.close()
