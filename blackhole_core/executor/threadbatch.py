"""Several calls of one caller on their way to a plugin's threads together: one piece of work for each thread, one wake-up for the caller.

Invariants:

* Calls are begun in order, each by the thread that took its place off the iterator ``_places``; :meth:`ThreadBatch.leave_out` takes all that are left,
  also in one step of the interpreter, and none is begun after that. So it is known which were begun: those before the first that was left out. (A
  range's iterator is such only with the interpreter lock; without it there are no batches, see :data:`BATCHES`.)
* A thread is in ``workers`` from before it begins calls until it begins no more. Whoever leaves last tells the caller, and by
  then every call that was begun has its outcome.
* After that a worker's context in ``workers`` is entered by the timers' thread alone (:meth:`ThreadBatch.expire`); the worker only copies it.
"""

from __future__ import annotations

import contextvars
import math
import operator
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from blackhole_core.callcontext import enter
from blackhole_core.executor.bell import Bell
from blackhole_core.executor.threadcall import ThreadCall, has_gil
from blackhole_core.messages import Calls, Replies

__all__ = ["BATCHES", "BatchHelp", "ThreadBatch"]

#: Whether this interpreter can have them.
BATCHES: Final = has_gil()

#: The part of ``call_timeout`` after which the calls to come get a later deadline: a call counts as begun when the last one was set. To look at
#: the clock for each call would cost half as much as the call.
_LOOK: Final = 0.01
#: Seconds; more often would keep the timers' thread busy.
_LEAST_LOOK: Final = 0.001

#: What stands where a call has no outcome yet.
_OPEN: Final = object()


class ThreadBatch(ThreadCall):
    """Calls of one function. As a call it has an ``error`` when it was refused; the outcomes of its calls are in :meth:`replies`."""

    def __init__(self, runner: Any, thread: int, calls: Calls, function: Callable[..., Any], bell: Bell) -> None:
        super().__init__(runner, thread, calls.hook, function, (), bell)
        self.stop_at_failure = calls.stop_at_failure
        self.workers: dict[int, contextvars.Context | None] = {}  # the context that its calls begin in
        self._single = len(calls.columns) == 1
        self._arguments = calls.columns[0] if self._single else calls.rows()  # to make 64 rows takes 2 µs
        self._places = iter(range(calls.count))
        self._left_out: list[int] = []  # of each time that there were any, the first
        self._results: list[Any] = [_OPEN] * calls.count  # each place written by the one thread that began the call
        self._failures: dict[int, BaseException] = {}
        self._timeout = self._until = math.inf
        self._left = calls.count

    # --- the calling thread ------------------------------------------------------------------------------------------

    def give_each(self, timeout: float) -> None:
        """Give each call ``timeout`` seconds for itself; else the context's deadline holds for all."""
        self._timeout = timeout
        self._until = time.monotonic() + timeout
        self.look = min(timeout, max(timeout * _LOOK, _LEAST_LOOK))

    def leave_out(self) -> None:
        """Have no further call begun."""
        if rest := list(self._places):
            self._left_out.append(rest[0])

    def replies(self, unanswered: BaseException | None = None) -> Replies:
        """Return what came of the calls that were begun. Those that still run failed with ``unanswered``, and so did the first one if none was begun.

        None may be begun any more: the batch is done, or left out.
        """
        if unanswered is None and not self._failures and not self._left_out:
            return Replies(self._results, {})
        begun = min(self._left_out, default=len(self._results))
        results, failures = self._results[:begun], dict(self._failures)
        if unanswered is not None:
            failures |= {place: unanswered for place, result in enumerate(results) if result is _OPEN and place not in failures}
            if not begun:
                results, failures = [None], {0: unanswered}
        for place in failures:
            results[place] = None
        return Replies(results, failures)

    def forget(self) -> None:
        """Let go of everything: a late thread finds nothing to do, and tracebacks that hold the batch hold no more than that."""
        self.leave_out()
        self.context = None
        self._failures = {}

    # --- any thread --------------------------------------------------------------------------------------------------

    def running_on(self) -> tuple[int, ...]:
        return tuple(self.workers)

    def expire(self) -> None:
        """Have the caller give up, unless each call has time for itself and the last one that was begun has some left."""
        if self.look is None:
            self.give_up()
            return
        now, left = time.monotonic(), operator.length_hint(self._places)
        if left != self._left:
            self._left, self._until = left, now + self._timeout
        if now >= self._until:
            self.give_up()
            return
        for clean in list(self.workers.values()):
            if clean is not None:
                clean.run(enter, self, self.outer, now + self._timeout)
        self.deadline = min(now + self.look, self._until)

    # --- the threads that run it -------------------------------------------------------------------------------------

    def run(self) -> None:
        ident = threading.get_ident()
        self.workers[ident] = None
        context = self.context
        if context is not None:  # else it is over: this help came too late
            clean = context.copy()
            if self.look is not None:
                self.own_deadline = self._until = time.monotonic() + self._timeout
            clean.run(enter, self, self.outer, self.own_deadline)
            self.workers[ident] = clean
            while clean.copy().run(self._work, clean):
                pass
        del self.workers[ident]

    def _work(self, clean: contextvars.Context) -> bool:
        """Run calls in a copy of ``clean``, until none is left, or until the next one needs another: then return True.

        Each call is to begin in a context of its own, but most leave it as it was, and to see that takes a tenth of a copy. (A value that a call
        replaced by an equal one counts as left alone.) ``clean`` itself changes when the calls get a later deadline.
        """
        function, results, current = self.function, self._results, contextvars.copy_context
        single, arguments = self._single, self._arguments
        for place in self._places:
            try:
                results[place] = function(arguments[place]) if single else function(*arguments[place])
            except BaseException as error:
                self._fail(place, error)
            try:
                if current() != clean:
                    return True
            except BaseException:  # raised by a value that the call set, as it was compared
                return True
        return False

    def _fail(self, place: int, error: BaseException) -> None:
        self._failures[place] = self._caught(error)
        if self.stop_at_failure:
            self.leave_out()

    def refuse(self) -> None:
        self.leave_out()
        super().refuse()

    def tell(self) -> None:
        if not self.workers:
            super().tell()


class BatchHelp:
    """Another thread's part in a batch."""

    __slots__ = ("_batch",)

    def __init__(self, batch: ThreadBatch) -> None:
        self._batch = batch

    def run(self) -> None:
        self._batch.run()

    def tell(self) -> None:
        self._batch.tell()

    def refuse(self) -> None:
        """Do nothing: the batch does not need it, and may be about to begin on another thread."""
