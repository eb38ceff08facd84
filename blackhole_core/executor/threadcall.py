"""One call on its way to a thread of a plugin: what is to be run, what its caller sleeps on, and the outcome.

Invariants:

* The outcome is written by whoever took the call over (:mod:`blackhole_core.executor.crew`), before ``done`` is set; the bell is rung after that.
* A nested job is run or abandoned by the waiting thread, or refused: ``post`` adds it before it looks at ``closed``, the waiting thread sets
  ``closed`` before it looks for jobs for the last time, and a job belongs to whoever takes it off ``jobs``.
* A call holds its context only until it runs: then the context holds the call, as the innermost of its chain.
"""

from __future__ import annotations

import collections
import contextvars
import math
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from blackhole_core.callcontext import ActiveCall, chain, enter
from blackhole_core.errors import PluginUnloaded, RemoteError
from blackhole_core.executor.bell import Bell
from blackhole_core.executor.crew import Work
from blackhole_core.executor.failure import to_wire, type_name
from blackhole_core.executor.mailbox import Job, MailboxTimeout

__all__ = ["ThreadCall", "has_gil"]


def has_gil() -> bool:
    """Tell whether threads of this interpreter run Python code in turns."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


#: Without the interpreter lock a thread may look for sleepers before others see what it has just done: then it rings in any case.
_RING_ALWAYS: Final = not has_gil()


class ThreadCall(ActiveCall):
    """Made for each call, so what is rarely needed has its default in the class."""

    mailbox = None  # a ThreadCall is its own
    call_id = 0

    #: When its caller gives up, ``time.monotonic()``.
    deadline: float = math.inf
    #: Seconds until it is looked at for the first time, where that is before its deadline: for calls that are several.
    look: float | None = None
    #: The deadline where the call's context knows of none.
    own_deadline: float | None = None
    #: Set while a blocked thread is asked to run the call: it belongs to whoever takes it out.
    cell: list[ThreadCall] | None = None
    #: The ident of the thread that runs it, 0 before.
    worker = 0
    #: More work for the same outcome, for other threads of the plugin.
    helpers: Sequence[Work] = ()
    #: Set last: there is an outcome, in ``error`` if that is not None, else in ``result``.
    done = False
    result: Any = None
    error: BaseException | None = None

    _asleep = _RING_ALWAYS
    _expired = False
    _closed = False
    _jobs: collections.deque[Job] | None = None

    def __init__(self, runner: Any, thread: int, hook: str, function: Callable[..., Any], args: tuple[Any, ...], bell: Bell) -> None:
        self.runner = runner
        self.thread = thread
        self.hook = hook
        self.function = function
        self.args = args
        self.bell = bell
        self.outer = chain.get()
        self.context: contextvars.Context | None = contextvars.copy_context()

    # --- the calling thread ------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Sleep until the call is done, running nested jobs meanwhile.

        :raises MailboxTimeout: it was expired first.
        """
        try:
            while True:
                if self._jobs:
                    self._jobs.popleft().run()
                elif self.done:
                    return
                elif self._expired:
                    raise MailboxTimeout
                elif self._asleep:
                    self.bell.sleep()
                else:
                    self._asleep = True  # and once more round: only what comes after this rings
        finally:
            self._closed = True
            if self._jobs is not None:
                self._abandon_jobs(self._jobs)

    def _abandon_jobs(self, jobs: collections.deque[Job]) -> None:
        while jobs:
            try:
                job = jobs.popleft()
            except IndexError:  # the one who posted it took it back
                return
            job.abandon()

    # --- any thread --------------------------------------------------------------------------------------------------

    def post(self, job: Job) -> bool:
        jobs: collections.deque[Job] = self.__dict__.setdefault("_jobs", collections.deque())  # one step: several may post at once
        jobs.append(job)
        if self._closed:
            try:
                jobs.remove(job)
            except ValueError:  # the waiting thread took it, and has told or will tell it
                return True
            return False
        self.bell.ring()
        return True

    def leave_out(self) -> None:
        """Have nothing more begun; for calls that are several."""

    def expire(self) -> None:
        """Have the caller give up: its deadline has passed."""
        self.give_up()

    def give_up(self) -> None:
        """Have the caller wait no longer."""
        self._expired = True
        self.bell.ring()

    def refuse(self) -> None:
        """Take for the outcome that the plugin has stopped."""
        self.error = PluginUnloaded(self.runner.plugin, self.hook)
        self.tell()

    def running_on(self) -> tuple[int, ...]:
        """Return the idents of the threads that run it now."""
        return (self.worker,) if self.worker and not self.done else ()

    # --- the thread that runs it -------------------------------------------------------------------------------------

    def run(self) -> None:
        self.worker = threading.get_ident()
        context, self.context = self.context, None
        assert context is not None, "a call runs once"
        try:
            self.result = context.run(self._entered)
        except BaseException as error:
            self.error = self._caught(error)

    def _caught(self, error: BaseException) -> Exception:
        """Return what the caller gets for what the plugin raised: SystemExit and KeyboardInterrupt are the plugin's wish to end, not the host's."""
        if isinstance(error, Exception):
            return error
        told = to_wire(error)  # never raises, whatever its ``__str__`` does
        return RemoteError(self.runner.plugin, type_name(type(error)), told.message, told.traceback)

    def _entered(self) -> Any:
        enter(self, self.outer, self.own_deadline)
        return self.function(*self.args)

    def tell(self) -> None:
        self.done = True
        if self._asleep:
            self.bell.ring()
