"""Level thread: the plugin's own threads run its calls, one at a time unless its manifest says more.

Rules:

* A call runs on one of the plugin's threads: a free one, or, when it is part of a chain that already runs on one of them,
  that very thread (it is blocked in the outer call and runs the nested one meanwhile).
* A thread whose call runs on ``hang_grace`` seconds after its caller gave up is *quarantined*: reported with its stack,
  replaced by a fresh one, and let go. It ends by itself when its call ever returns.
* What a call costs is two wake-ups and little else; where its steps meet those of other threads is told in :mod:`crew
  <blackhole_core.executor.crew>` (the threads and their queue) and :mod:`threadcall <blackhole_core.executor.threadcall>` (one call).
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from blackhole_core.callcontext import ActiveCall, get_deadline
from blackhole_core.errors import CallTimeout, LoadFailed, PluginUnloaded
from blackhole_core.executor.bell import SILENT, Bell, new_bell
from blackhole_core.executor.context import leases_of
from blackhole_core.executor.crew import Crew
from blackhole_core.executor.expiry import Expiry
from blackhole_core.executor.failure import attribute
from blackhole_core.executor.hosted import Hosted
from blackhole_core.executor.inline import hosted_enforcement, load_hosted, release_hosted, report_leases, universe_of
from blackhole_core.executor.leases import Leases
from blackhole_core.executor.mailbox import Job, MailboxTimeout
from blackhole_core.executor.proxy import make_proxy, wrapper_stub
from blackhole_core.executor.runner import Host, RunnerSpec, call_one_by_one
from blackhole_core.executor.threadbatch import BATCHES, BatchHelp, ThreadBatch
from blackhole_core.executor.threadcall import ThreadCall
from blackhole_core.ids import Isolation
from blackhole_core.messages import Call, Calls, Implementation, Replies, Surface
from blackhole_core.stacks import stack_lines

__all__ = ["ThreadRunner"]

#: Frames of a stuck thread's stack in its report: enough to see where it hangs.
_STACK_LINES: Final = 20

#: Bells kept for the next callers, each a descriptor: as many as are usually blocked in one plugin at once.
_KEPT_BELLS: Final = 64

_QUEUED: Final = "executed: no, it was still queued"


class ThreadRunner:
    """An actor: ``limits.threads`` threads with a queue, and the plugin object they call."""

    level = Isolation.THREAD

    def __init__(self, spec: RunnerSpec, host: Host) -> None:
        self._spec = spec
        self._host = host
        #: How errors name it.
        self.plugin = str(spec.id)
        self._call_timeout = spec.limits.call_timeout
        #: What the plugin takes through its context.
        self.leases: Leases = leases_of(spec.id, spec.generation)
        self.universe = universe_of(spec)
        self._hosted: Hosted | None = None
        self._crew = Crew(f"blackhole-{spec.id.name}")
        self._expiry = Expiry(host.timers)
        #: For the next callers. A late ring for the last owner wakes the next one too often, no more.
        self._bells: collections.deque[Bell] = collections.deque(maxlen=_KEPT_BELLS)

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> Surface:
        """Import the plugin on its own thread, so that what it binds to a thread is bound to the right one."""
        self._crew.add_thread()
        timeout = self._spec.limits.start_timeout
        try:
            self._hosted = self._run(self._load, (), "import", time.monotonic() + timeout)
        except CallTimeout:
            self.stop()
            raise LoadFailed(self.plugin, f"its import did not end within {timeout:g} s (start_timeout); its thread is left") from None
        except BaseException:
            self.stop()
            raise
        for _ in range(self._spec.limits.threads - 1):
            self._crew.add_thread()
        return self._hosted.surface

    def _load(self) -> Hosted:
        hosted = load_hosted(self._spec, self.universe, self._host.auditor)
        if self._crew.closed:  # nobody waited for it: what it imported after stop() is released again
            release_hosted(self.universe, self._host.auditor)
        return hosted

    def stop(self) -> None:
        end = time.monotonic() + self._spec.limits.stop_grace
        report_leases(self.leases.end(self._spec.limits.stop_grace, self._post), self._spec, self._host)
        for thread in self._crew.stop(end):
            self._report("plugin.thread_left", thread)
        self._bells.clear()
        self._expiry.close()
        self._hosted = None
        release_hosted(self.universe, self._host.auditor)

    def enforcement(self) -> Mapping[str, str]:
        return hosted_enforcement(self.level, self._spec, self._host)

    def drained(self, timeout: float | None) -> bool:
        return self._crew.drained(timeout)

    def plugin_object(self) -> Any:
        hosted = self._require("plugin_object")

        def target(index: int, implementation: Implementation) -> Callable[..., Any]:
            function, hook = hosted.implementations[index], implementation.hook
            if implementation.is_generator:
                return wrapper_stub(lambda step, args: self._run(step, args, hook), function)
            return lambda *args: self._attributed(function, args, hook)

        return make_proxy(self.plugin, self._spec.project, hosted.surface, target, self.call_many)

    # --- calls -------------------------------------------------------------------------------------------------------

    def call(self, call: Call) -> Any:
        return self._attributed(self._require(call.hook).function(call.space, call.hook, call.index), call.args, call.hook)

    def call_many(self, calls: Calls) -> Replies:
        thread, hosted = threading.get_ident(), self._hosted
        if hosted is None or not BATCHES or self._crew.closed or thread in self._crew.threads or calls.count == 1:
            return call_one_by_one(self.call, calls)
        batch = ThreadBatch(self, thread, calls, hosted.implementations[calls.index], self._take_bell())
        if self._call_timeout is not None and get_deadline() is None:
            batch.give_each(self._call_timeout)
        batch.helpers = [BatchHelp(batch) for _ in range(min(self._spec.limits.threads, calls.count) - 1)]
        try:
            self._await(batch, None)
            replies = batch.replies(batch.error)
        except CallTimeout as error:
            replies = batch.replies(error)
        finally:
            batch.forget()
        for failure in replies.failures.values():
            attribute(failure, self._spec.id, calls.hook, self.level)
        return replies

    def _attributed(self, function: Callable[..., Any], args: tuple[Any, ...], hook: str) -> Any:
        try:
            return self._run(function, args, hook)
        except Exception as error:
            attribute(error, self._spec.id, hook, self.level)
            raise

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...], hook: str, deadline: float | None = None) -> Any:
        """Run ``function(*args)`` on a thread of the plugin and return or raise what it did.

        Without a ``deadline`` the context's holds, or else the plugin's ``call_timeout``.
        """
        thread = threading.get_ident()
        if thread in self._crew.threads:
            return function(*args)
        if self._crew.closed:  # before anything is touched that a forked child shares with its parent
            raise PluginUnloaded(self.plugin, hook)
        call = ThreadCall(self, thread, hook, function, args, self._take_bell())
        try:
            self._await(call, deadline)
            if call.error is None:
                return call.result
            raise call.error
        finally:
            call.error = None  # or the traceback holds a frame that holds the traceback

    def _await(self, call: ThreadCall, deadline: float | None) -> None:
        """Have ``call`` run and wait until it is done."""
        begun = time.monotonic()
        if deadline is not None:
            call.own_deadline = deadline
        elif (deadline := get_deadline()) is None and self._call_timeout is not None:
            deadline = call.own_deadline = begun + self._call_timeout
        if deadline is not None:
            if deadline <= begun:
                call.error = CallTimeout(self.plugin, call.hook, 0.0, where=_QUEUED)
                return
            call.deadline = deadline if call.look is None else begun + call.look
        try:
            self._expiry.add(call)
            if (call.outer and self._post_to_blocked_thread(call)) or self._submit(call):
                call.wait()
            else:
                call.refuse()
            self._keep_bell(call.bell)
        except MailboxTimeout:
            where = self._abandon(call)
            raise CallTimeout(self.plugin, call.hook, time.monotonic() - begun, where=where) from None
        except BaseException:  # Ctrl-C, here or in a nested call
            self._abandon(call)
            raise
        finally:
            self._expiry.waiting.discard(call)
            call.bell = SILENT  # or a descriptor lives as long as the traceback of what the plugin raised

    def _submit(self, call: ThreadCall) -> bool:
        taken = self._crew.submit(call)
        for help_with_it in call.helpers:
            self._crew.submit(help_with_it)
        return taken

    def _take_bell(self) -> Bell:
        try:
            return self._bells.pop()
        except IndexError:
            return new_bell()

    def _keep_bell(self, bell: Bell) -> None:
        self._bells.append(bell)
        if self._crew.closed:  # looked at last, so that none is kept behind stop()
            self._bells.clear()

    def _post(self, function: Callable[[], object]) -> None:
        """Run ``function`` soon on a thread of the plugin; nobody waits for a result."""
        if threading.get_ident() in self._crew.threads:
            function()
            return
        call = ThreadCall(self, threading.get_ident(), "undo leases", function, (), SILENT)
        if not self._crew.submit(call):
            raise PluginUnloaded(self.plugin, call.hook)

    def _post_to_blocked_thread(self, call: ThreadCall) -> bool:
        """Give the call to the thread of ours that is blocked inside this chain, if there is one."""
        blocked = self._blocked_in(call.outer)
        if blocked is None or self._crew.closed:
            return False
        cell = call.cell = [call]
        if blocked.post(Job(lambda: self._run_posted(cell), lambda: self._give_up(cell))):
            return True
        call.cell = None
        return False

    def _blocked_in(self, outer: tuple[ActiveCall, ...]) -> ActiveCall | None:
        """Return the innermost call of ``outer`` that a thread of ours made and is blocked in."""
        for position in range(len(outer) - 1, 0, -1):
            if outer[position - 1].runner is self and outer[position].thread in self._crew.threads:
                return outer[position]
        return None

    def _run_posted(self, cell: list[ThreadCall]) -> None:
        if (call := _taken(cell)) is not None:
            call.run()
            call.tell()

    def _give_up(self, cell: list[ThreadCall]) -> None:
        if (call := _taken(cell)) is not None:
            call.error = CallTimeout(self.plugin, call.hook, 0.0, where="executed: no, the outer call timed out")
            call.tell()

    def _abandon(self, call: ThreadCall) -> str:
        """Note that nobody waits for a call any more, and say what is known of it."""
        call.leave_out()
        if self._crew.withdraw(call) if call.cell is None else _taken(call.cell) is not None:
            return _QUEUED
        self._host.timers.after(self._spec.limits.hang_grace, lambda: self._quarantine(call))
        return "executed: unknown, it is still running"

    def _quarantine(self, call: ThreadCall) -> None:
        """Replace the threads of a call that nobody waits for and that does not end."""
        for ident in call.running_on():
            # Asked again: while the thread before it was reported, this one may have come to its end.
            if ident in call.running_on() and (thread := self._crew.let_go(ident)) is not None:
                self._report("plugin.quarantined", thread, hook=call.hook)
                self._crew.add_thread()

    def _report(self, event: str, thread: threading.Thread, **facts: Any) -> None:
        stack = stack_lines(thread)[-_STACK_LINES:]
        self._host.emit(event, self._spec.id.name, version=self._spec.id.version, thread=thread.name, stack="".join(stack), **facts)

    def _require(self, hook: str) -> Hosted:
        if self._hosted is None:
            raise PluginUnloaded(self.plugin, hook)
        return self._hosted


def _taken(cell: list[ThreadCall]) -> ThreadCall | None:
    """Take the call out of its cell; None for all but the first who tries."""
    try:
        return cell.pop()
    except IndexError:
        return None
