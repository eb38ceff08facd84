"""Level thread: the plugin's own threads run its calls, one at a time unless its manifest says more.

Invariants:

* ``_pending`` counts the calls that were queued and have not ended, whether or not somebody still waits for them; it, the
  set of threads and the closed flag are guarded by ``_changed``.
* A call runs on one of the plugin's threads: a free one, or, when it is part of a chain that already runs on one of them,
  that very thread (it is blocked in the outer call and runs the nested one meanwhile).
* A thread whose call runs on ``hang_grace`` seconds after its caller gave up is *quarantined*: reported with its stack,
  replaced by a fresh one, and let go. It ends by itself when its call ever returns. A thread cannot be killed.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

from blackhole_core.callcontext import ActiveCall, bound_deadline, chain, get_deadline
from blackhole_core.errors import CallTimeout, LoadFailed, PluginUnloaded, RemoteError
from blackhole_core.executor.context import leases_of
from blackhole_core.executor.failure import attribute, type_name
from blackhole_core.executor.hosted import Hosted
from blackhole_core.executor.inline import load_hosted, report_leases, universe_of
from blackhole_core.executor.leases import Leases
from blackhole_core.executor.mailbox import Job, Mailbox, MailboxTimeout
from blackhole_core.executor.proxy import make_proxy, wrapper_stub
from blackhole_core.executor.runner import Host, RunnerSpec
from blackhole_core.ids import Isolation
from blackhole_core.messages import Call, Failure, Implementation, Reply, Surface, Value
from blackhole_core.stacks import stack_lines

__all__ = ["ThreadRunner"]

#: Frames of a stuck thread's stack in its report: enough to see where it hangs.
_STACK_LINES: Final = 20


class _Task:
    """One call on its way through the plugin's queue. ``claimed`` is set once, by the thread that begins or the caller that gives up."""

    __slots__ = ("args", "claimed", "context", "ended", "function", "hook", "mailbox", "thread")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], hook: str, mailbox: Mailbox[Reply]) -> None:
        self.function = function
        self.args = args
        self.hook = hook
        self.mailbox = mailbox
        self.context: contextvars.Context | None = None
        self.claimed = threading.Lock()
        self.thread: threading.Thread | None = None
        self.ended = False


class ThreadRunner:
    """An actor: a queue, ``limits.threads`` threads, and the plugin object they call."""

    level = Isolation.THREAD

    def __init__(self, spec: RunnerSpec, host: Host) -> None:
        self._spec = spec
        self._host = host
        #: What the plugin takes through its context.
        self.leases: Leases = leases_of(spec.id, spec.generation)
        self.universe = universe_of(spec)
        self._hosted: Hosted | None = None
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._threads: dict[int, threading.Thread] = {}
        self._pending = 0
        self._closed = False
        self._started = 0

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> Surface:
        """Import the plugin on its own thread, so that what it binds to a thread is bound to the right one."""
        self._add_thread()
        timeout = self._spec.limits.start_timeout
        try:
            self._hosted = self._run(self._load, (), "import", time.monotonic() + timeout)
        except CallTimeout:
            self.stop()
            raise LoadFailed(
                str(self._spec.id), f"its import did not end within {timeout:g} s (start_timeout); its thread is left"
            ) from None
        except BaseException:
            self.stop()
            raise
        for _ in range(self._spec.limits.threads - 1):
            self._add_thread()
        return self._hosted.surface

    def _load(self) -> Hosted:
        hosted = load_hosted(self._spec, self.universe)
        if self._closed:  # nobody waited for it: what it imported after stop() is released again
            self.universe.release()
        return hosted

    def stop(self) -> None:
        end = time.monotonic() + self._spec.limits.stop_grace
        report_leases(self.leases.end(self._spec.limits.stop_grace, self._post), self._spec, self._host)
        with self._changed:
            self._closed = True
            threads = [thread for thread in self._threads.values() if thread is not threading.current_thread()]
            self._end_idle(len(self._threads))
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._refuse_queued()
        for thread in threads:
            if thread.is_alive():
                self._report("plugin.thread_left", thread)
        self._hosted = None
        self.universe.release()

    def _end_idle(self, count: int) -> None:
        for _ in range(count):
            self._queue.put(None)

    def drained(self, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._pending == 0, timeout)

    def plugin_object(self) -> Any:
        hosted = self._require("plugin_object")

        def target(index: int, implementation: Implementation) -> Callable[..., Any]:
            function = hosted.implementations[index]
            if implementation.is_generator:
                return wrapper_stub(lambda step, args: self._run(step, args, implementation.hook, self._deadline()), function)
            return lambda *args: self._attributed(function, args, implementation.hook)

        return make_proxy(str(self._spec.id), self._spec.project, hosted.surface, target)

    # --- calls -------------------------------------------------------------------------------------------------------

    def call(self, call: Call) -> Any:
        return self._attributed(self._require(call.hook).function(call.space, call.hook, call.index), call.args, call.hook)

    def _attributed(self, function: Callable[..., Any], args: tuple[Any, ...], hook: str) -> Any:
        try:
            return self._run(function, args, hook, self._deadline())
        except Exception as error:
            attribute(error, self._spec.id, hook, self.level)
            raise

    def _deadline(self) -> float | None:
        own = self._spec.limits.call_timeout
        inherited = get_deadline()
        return inherited if own is None or inherited is not None else time.monotonic() + own

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...], hook: str, deadline: float | None) -> Any:
        """Run ``function(*args)`` on a thread of the plugin and return or raise what it did."""
        if threading.get_ident() in self._threads:
            return function(*args)
        begun = time.monotonic()
        task = _Task(function, args, hook, Mailbox())
        self._enqueue(task, deadline)
        try:
            reply = task.mailbox.wait(deadline)
        except MailboxTimeout:
            where = self._abandon(task)
            raise CallTimeout(str(self._spec.id), hook, time.monotonic() - begun, where=where) from None
        except BaseException:  # Ctrl-C, here or in a nested call
            self._abandon(task)
            raise
        if isinstance(reply, Value):
            return reply.result
        error = reply.error
        try:
            raise error
        finally:
            del error, reply, task  # or the traceback holds the frame that holds the traceback

    def _abandon(self, task: _Task) -> str:
        """Note that nobody waits for a call any more, and say what is known of it."""
        if task.claimed.acquire(blocking=False):
            self._ended(task)
            return "executed: no, it was still queued"
        self._host.timers.after(self._spec.limits.hang_grace, lambda: self._quarantine(task))
        return "executed: unknown, it is still running"

    def _enqueue(self, task: _Task, deadline: float | None = None) -> None:
        outer = chain.get()
        active = ActiveCall(self, threading.get_ident(), task.mailbox, 0)
        task.context = contextvars.copy_context()
        task.context.run(chain.set, (*outer, active))
        if deadline is not None:
            task.context.run(bound_deadline, deadline)
        with self._changed:  # held over the put, or stop() could overlook the task
            if self._closed:
                raise PluginUnloaded(str(self._spec.id), task.hook)
            self._pending += 1
            if not self._post_to_blocked_thread(task, outer):
                self._queue.put(task)

    def _post(self, function: Callable[[], object]) -> None:
        """Run ``function`` soon on a thread of the plugin; nobody waits for a result."""
        if threading.get_ident() in self._threads:
            function()
        else:
            self._enqueue(_Task(function, (), "undo leases", Mailbox()), None)

    def _post_to_blocked_thread(self, task: _Task, outer: tuple[ActiveCall, ...]) -> bool:
        """Give the task to the thread of ours that is blocked inside this chain, if there is one."""
        for position in range(len(outer) - 1, 0, -1):
            blocked = outer[position]
            if outer[position - 1].runner is self and blocked.thread in self._threads:
                return bool(blocked.mailbox.post(Job(lambda: self._perform(task), lambda: self._give_up(task))))
        return False

    def _give_up(self, task: _Task) -> None:
        if task.claimed.acquire(blocking=False):
            self._ended(task)
            task.mailbox.deliver(Failure(CallTimeout(str(self._spec.id), task.hook, 0.0, where="executed: no, the outer call timed out")))

    # --- the plugin's threads ----------------------------------------------------------------------------------------

    def _add_thread(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._started += 1
            thread = threading.Thread(target=self._work, name=f"blackhole-{self._spec.id.name}-{self._started}", daemon=True)
            thread.start()  # under the lock: _work waits for it before it looks itself up
            assert thread.ident is not None
            self._threads[thread.ident] = thread

    def _work(self) -> None:
        ident = threading.get_ident()
        with self._changed:
            pass  # until _add_thread has entered us
        while ident in self._threads:
            task = self._queue.get()
            if task is None:
                break
            self._perform(task)
            del task  # or the last arguments live until the next call
        with self._changed:
            self._threads.pop(ident, None)

    def _perform(self, task: _Task) -> None:
        if not task.claimed.acquire(blocking=False):
            return
        task.thread = threading.current_thread()
        context = task.context or contextvars.copy_context()
        reply: Reply
        try:
            reply = Value(context.run(task.function, *task.args))
        except Exception as error:
            reply = Failure(error)
        except BaseException as error:
            # SystemExit and KeyboardInterrupt are the plugin's wish to end, not the host's.
            reply = Failure(RemoteError(str(self._spec.id), type_name(type(error)), str(error), traceback.format_exc()))
        self._ended(task)
        task.mailbox.deliver(reply)

    def _ended(self, task: _Task) -> None:
        with self._changed:
            task.ended = True
            self._pending -= 1
            if not self._pending:
                self._changed.notify_all()

    def _quarantine(self, task: _Task) -> None:
        """Replace the thread of a call that nobody waits for and that does not end."""
        thread = task.thread
        with self._changed:
            if task.ended or self._closed or thread is None or self._threads.get(thread.ident or 0) is not thread:
                return
            del self._threads[thread.ident or 0]
        self._report("plugin.quarantined", thread, hook=task.hook)
        self._add_thread()

    def _report(self, event: str, thread: threading.Thread, **facts: Any) -> None:
        stack = stack_lines(thread)[-_STACK_LINES:]
        self._host.emit(event, self._spec.id.name, version=self._spec.id.version, thread=thread.name, stack="".join(stack), **facts)

    def _refuse_queued(self) -> None:
        """Refuse what was queued when the plugin stopped; a thread that still runs a call ends when that call does."""
        while True:
            try:
                task = self._queue.get_nowait()
            except queue.Empty:
                break
            if task is not None and task.claimed.acquire(blocking=False):
                self._ended(task)
                task.mailbox.deliver(Failure(PluginUnloaded(str(self._spec.id), task.hook)))
        with self._changed:
            self._end_idle(len(self._threads))

    def _require(self, hook: str) -> Hosted:
        if self._hosted is None:
            raise PluginUnloaded(str(self._spec.id), hook)
        return self._hosted
