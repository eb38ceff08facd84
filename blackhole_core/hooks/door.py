"""Who may begin a call of one hook now: the tickets of calls under way and the gates that are closed.

Rule: a call waits while any gate that is closed over its hook does not wait for what the call is part of. A call made from
inside a call that the gate waits for must pass, or both would wait for each other. When it passes one gate and another one
is closed as well, it waits for the other: that gate's plugin may already have handed its state over.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from blackhole_core.callcontext import get_deadline
from blackhole_core.errors import CallTimeout
from blackhole_core.hooks.inflight import Ticket

if TYPE_CHECKING:
    from blackhole_core.hooks.gate import HookGate

__all__ = ["Door"]


class Door:
    """Tickets and closed gates of one hook, under the manager's lock."""

    def __init__(self, hook: str, lock: Any) -> None:
        self.hook = hook
        self.lock: threading.RLock = lock
        self.gates: tuple[HookGate, ...] = ()
        self.tickets: set[Ticket] = set()

    def enter(self, timeout: float) -> Ticket:
        """Take a ticket, waiting at closed gates until the call's deadline, or ``timeout`` seconds where it has none.

        :raises CallTimeout: the gates did not open in time; the call never began.
        """
        with self.lock:
            if not self.gates:
                return self.admit()
        began = time.monotonic()
        deadline = get_deadline()
        until = began + timeout if deadline is None else deadline
        while True:
            with self.lock:
                blocking = self.blocked_by()
                if blocking is None:
                    return self.admit()
            if not blocking.wait_until_open(until - time.monotonic()):
                raise self.timeout(blocking, until - began)

    def timeout(self, gate: HookGate, seconds: float) -> CallTimeout:
        """Return the error for a call that waited ``seconds`` for ``gate`` in vain."""
        return CallTimeout(gate.plugin, self.hook, max(0.0, seconds), where="the plugin is being swapped, the call never began")

    def try_enter(self) -> Ticket | HookGate:
        """Take a ticket if that is possible at once, else return the gate to wait for."""
        with self.lock:
            blocking = self.blocked_by()
            return self.admit() if blocking is None else blocking

    def leave(self, ticket: Ticket) -> None:
        """Hand the ticket back; gates that wait for it are told."""
        with self.lock:
            self.tickets.discard(ticket)
            ticket.ended = True
            wakers = ticket.wakers
        for wake in wakers:
            wake()

    def blocked_by(self) -> HookGate | None:
        """Return a closed gate that the calling code may not pass, if there is one. Under the lock."""
        return next((gate for gate in self.gates if not gate.waits_for_this_call()), None)

    def admit(self) -> Ticket:
        """Begin a call, without asking. Under the lock."""
        ticket = Ticket()
        self.tickets.add(ticket)
        for gate in self.gates:
            gate.wait_for(ticket)
        return ticket
