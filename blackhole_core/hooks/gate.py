"""The gate: hold back new calls of some hooks, and know when the calls that had begun are over.

Closing costs the open path nothing: it is one ``__code__`` store per hook, done for all hooks at one instant. What a closed
gate waits for is fixed at that instant: the replaced codes (and older ones in which calls still run) and the tickets of calls
under way. Calls that find the gate closed wait for it to open, up to their deadline; they do not fail before. Calls made from
inside a call that the gate waits for pass. They run the plugin that is to be replaced as it was before the gate closed, and every other one as it is now: it
may have been replaced as well meanwhile, and have ended.

Several gates may be closed over the same hook; a waiting call begins when the last of them opens, in whatever order they do.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from blackhole_core.hooks.inflight import EVIDENCE, CodeWatch, Ticket, calling_threads, running_codes, tickets_held
from blackhole_core.hooks.order import replaced
from blackhole_core.hooks.switching import Compiled, Store, sweep

if TYPE_CHECKING:
    from types import CodeType

    from pluggy import HookImpl

    from blackhole_core.hooks.caller import HookCaller
    from blackhole_core.hooks.manager import HookManager

__all__ = ["EVIDENCE", "HookGate"]

#: Seconds between two looks at the stacks while only stored tracebacks seem to keep code alive. Two looks must agree: on 3.11
#: a garbage collection may run Python code while the frame of a call is being made, and that frame is not shown yet.
_CONFIRM: Final = 0.005

#: Seconds between looks at the stacks while calls are seen running. Their end is signalled; the look (43 µs at 16 threads) is
#: only for the call whose end is hidden by a stored traceback.
_LOOK: Final = 0.05

#: Implementations for which a hook is compiled in less than a millisecond. A host that ends with a thousand plugins opens as many gates over one hook.
_QUICKLY_COMPILED: Final = 32

#: Looks that must agree that no stack runs the replaced code.
_LOOKS: Final = 2


class Begun:
    """The calls that were running when a gate closed. Stays usable after the gate opened again; calls that begin then are not in it."""

    def __init__(self) -> None:
        self._watches: list[CodeWatch] = []
        self._tickets: list[Ticket] = []
        self._signals: SimpleQueue[None] = SimpleQueue()

    def drained(self, timeout: float | None = None) -> bool:
        """Wait until none of them is running; False if ``timeout`` seconds were not enough."""
        until = None if timeout is None else time.monotonic() + timeout
        quiet_looks = 0
        while True:
            if self._all_ended():
                return True
            quiet_looks = 0 if self._any_seen_running() else quiet_looks + 1
            if quiet_looks >= _LOOKS:
                return True
            pause = _CONFIRM if quiet_looks else _LOOK
            if until is not None:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                pause = min(pause, left)
            try:
                self._signals.get(timeout=pause)
            except Empty:
                continue

    def includes_this_call(self) -> bool:
        """Tell whether the calling code runs inside one of them (then waiting for it would never end)."""
        threads = calling_threads()
        held = tickets_held.get()
        if any(not ticket.ended and (ticket.thread in threads or ticket in held) for ticket in self._tickets):
            return True
        alive = self._alive()
        return bool(alive) and bool(running_codes(alive, threads))

    def add_calls_of(self, callers: Iterable[HookCaller]) -> None:
        """Count the calls that run on code that was taken out of service, and those with tickets. Under the manager's lock."""
        for caller in callers:
            for watch in caller.switch.watched():
                self._add_code(watch)
            for ticket in caller.door.tickets:
                self.add_ticket(ticket)

    def add_running_calls_of(self, callers: Iterable[HookCaller]) -> None:
        """Count the calls that run on the code in service as well, and go on counting those that begin on it. Under the manager's lock."""
        given = list(callers)
        self.add_calls_of(given)
        for caller in given:
            if caller.switch.serving.counts:  # else another gate is closed over it: what runs there has not begun
                self._add_code(CodeWatch(caller.function.__code__))

    def _add_code(self, watch: CodeWatch) -> None:
        watch.wakers.append(self._signal)
        self._watches.append(watch)

    def add_ticket(self, ticket: Ticket) -> None:
        """Count one more call. Under the manager's lock."""
        ticket.wakers = (*ticket.wakers, self._signal)
        self._tickets.append(ticket)

    def _signal(self) -> None:
        self._signals.put(None)  # may run inside a finaliser: SimpleQueue.put is re-entrant

    def _alive(self) -> list[CodeType]:
        return [code for watch in self._watches if (code := watch()) is not None]

    def _all_ended(self) -> bool:
        return all(ticket.ended for ticket in self._tickets) and not self._alive()

    def _any_seen_running(self) -> bool:
        if not all(ticket.ended for ticket in self._tickets):
            return True
        if "greenlet" in sys.modules:
            return True  # a suspended greenlet is on no thread's stack: only the end of the code itself counts
        return bool(running_codes(self._alive()))


class HookGate:
    """Holds back calls of ``hooks``. ``plugin`` is who the waiting callers are told about when they wait too long; ``part_of_other`` tells whether
        the calling code is part of something else that the gate's owner waits for, so that its calls must pass. ``of`` is the name under which the plugin is registered
    that may be replaced behind the gate; None for a gate behind which none is.

        Usable again after :meth:`open`, from one thread at a time. As a context manager it is closed inside the block.
    """

    def __init__(
        self,
        manager: HookManager,
        hooks: Iterable[str],
        *,
        plugin: str = "behind the gate",
        part_of_other: Callable[[], bool] = lambda: False,
        of: str | None = None,
    ) -> None:
        self.plugin = plugin
        self._of = of
        self._part_of_other = part_of_other
        self._manager = manager
        self._hooks = tuple(dict.fromkeys(hooks))
        self._opened = threading.Event()
        self._opened.set()
        self._callers: list[HookCaller] = []
        self._before: dict[str, Sequence[HookImpl]] = {}
        self._on_open: list[Callable[[], object]] = []
        #: The calls that the gate waits for, since it closed last.
        self.begun = Begun()
        #: When it closed last, seconds of ``time.monotonic()``.
        self.closed_at = 0.0

    def __repr__(self) -> str:
        return f"<HookGate {'open' if self.is_open else 'closed'} over {', '.join(self._hooks) or 'no hook'}>"

    def __enter__(self) -> Self:
        self.close()
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None) -> None:
        self.open()

    @property
    def is_open(self) -> bool:
        """True while calls may begin."""
        return self._opened.is_set()

    def close(self) -> None:
        """Let new calls wait from this instant. Hooks that do not exist are skipped: nobody can be calling them."""
        with self._manager.hook_lock:
            if not self.is_open:
                return
            self._callers = [caller for name in self._hooks if (caller := self._manager.caller(name)) is not None]
            self._before = {caller.name: caller._hookimpls for caller in self._callers}
            self.begun = Begun()
            states = [(caller, caller.gate_state()) for caller in self._callers if not caller.door.gates]
            self._opened.clear()
            for caller in self._callers:
                caller.door.gates = (*caller.door.gates, self)
            stores: list[Store] = [caller.switch.stage(state) for caller, state in states]
            self.closed_at = time.monotonic()
            replaced: list[CodeType] = sweep(stores)
            self.begun.add_calls_of(self._callers)
            del stores, replaced  # the codes that nobody runs die here

    def drained(self, timeout: float | None = None) -> bool:
        """Wait until no call that began before :meth:`close` is running; False if ``timeout`` seconds were not enough."""
        return self.begun.drained(timeout)

    def open(self) -> None:
        """Let the waiting calls begin, all at once, on what stands behind the hooks now. Does nothing when open."""
        with self._manager.hook_lock:
            if self.is_open:
                return
            ready = []
            for caller in self._callers:
                caller.door.gates = tuple(gate for gate in caller.door.gates if gate is not self)
                if not caller.door.gates:
                    ready.append((caller, caller.ready or self._state_of(caller)))
                    caller.ready = None
            replaced = sweep([caller.switch.stage(state) for caller, state in ready])
            del replaced
            self._callers, self._before = [], {}
            self._opened.set()
            callbacks, self._on_open = self._on_open, []
            for callback in callbacks:
                callback()

    @staticmethod
    def _state_of(caller: HookCaller) -> Compiled:
        """Compile for those who wait, unless that takes long: then it is left to the first who calls."""
        quick = len(caller._hookimpls) <= _QUICKLY_COMPILED
        return caller.build(caller._hookimpls) if quick else caller.next_state()

    # --- asked by the callers at the door ------------------------------------------------------------------------------

    def wait_until_open(self, seconds: float) -> bool:
        """Wait for :meth:`open`; False if it did not come within ``seconds``."""
        return self._opened.wait(max(0.0, seconds))

    def on_open(self, callback: Callable[[], Any]) -> None:
        """Call ``callback`` once when the gate opens (now, if it is open), under the manager's lock: it must only wake someone."""
        with self._manager.hook_lock:
            if not self.is_open:
                self._on_open.append(callback)
                return
        callback()

    def forget(self, callback: Callable[[], Any]) -> None:
        """Take back :meth:`on_open`; when this returns, the callback is not running and will not run."""
        with self._manager.hook_lock:
            if callback in self._on_open:
                self._on_open.remove(callback)

    def waits_for_this_call(self) -> bool:
        """Tell whether the calling code runs inside a call that this gate waits for (then draining would never end)."""
        return self._part_of_other() or self.begun.includes_this_call()

    def wait_for(self, ticket: Ticket) -> None:
        """Wait for one more call: it was let through. Under the manager's lock."""
        self.begun.add_ticket(ticket)

    def as_before(self, hook: str, impls: Sequence[HookImpl]) -> Sequence[HookImpl]:
        """Return ``impls`` of ``hook`` with the gate's plugin as it was when the gate closed. Under the manager's lock."""
        before = self._before[hook]
        if self._of is None or impls is before:
            return impls
        if self._others(before) == self._others(impls):
            return before
        own = [impl for impl in before if impl.plugin_name == self._of]
        return replaced(impls, self._manager.get_plugin(self._of), own)

    def _others(self, impls: Sequence[HookImpl]) -> list[HookImpl]:
        return [impl for impl in impls if impl.plugin_name != self._of]
