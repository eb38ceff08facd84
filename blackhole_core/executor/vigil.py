"""Watching over one worker: is it alive, where does it stand, and ending one that hangs, with what can be learnt of it first.

The ladder, each step bounded, on the timers' thread, which never waits:

1. *ask*: the worker's reader thread is asked where the threads that run calls stand. Not where it has not answered a heartbeat.
2. *abort*: SIGABRT, then SIGCONT, for it may be stopped: ``faulthandler`` writes the stacks of all threads to the worker's output, from a signal handler
   that needs no interpreter lock, and the process ends. No further call begins meanwhile: the thread that takes the signal cannot, and the others are told by
   ``condemn``; where there is no lane to tell them by, or the plugin has threads of its own that may take it, one that waits in the worker still may.
3. *kill*: SIGKILL to the process group, which nothing can catch and which works on a stopped process.

Invariants, guarded by ``_lock``, which is the lock of the worker's runner: ``awake`` is true exactly while a look is due; ``condemned`` is set
once, by whoever begins the ladder, and never taken back; at most one question for stacks, and one ping, is open.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.connection import Connection
from blackhole_core.executor.heartbeat import Beat, HeartbeatPolicy, Pulse, beat
from blackhole_core.executor.mailbox import Mailbox, MailboxTimeout
from blackhole_core.executor.timers import Timers
from blackhole_core.executor.wire import codec
from blackhole_core.printable import printable

__all__ = ["ABORT_SECONDS", "ASK_SECONDS", "Vigil"]

#: Seconds for the worker's reader to say where the others stand: it takes 1 ms, and 5 ms more for each thread that wants the interpreter too.
ASK_SECONDS: Final = 0.5
#: Seconds for a worker to write its stacks and die of SIGABRT: it takes 2 ms; a core dump, where the system makes one, is cut off.
ABORT_SECONDS: Final = 0.5


class Vigil:
    """One worker's. ``owes`` tells, under ``lock``, whether it has calls to answer; ``condemn``, under it as well, has it begin no other, as far as it can be told."""

    def __init__(
        self,
        connection: Connection,
        timers: Timers,
        policy: HeartbeatPolicy,
        lock: threading.Lock,
        *,
        owes: Callable[[], object],
        paused: Callable[[], bool],
        condemn: Callable[[], object],
    ) -> None:
        self._connection = connection
        self._timers = timers
        self._policy = policy
        self._lock = lock
        self._owes = owes
        self._paused = paused
        self._condemn = condemn
        #: True while it is looked at, and for a worker that never is; read by callers to whom a look would be due. Under the lock.
        self.awake = not policy
        self._ended = False
        self._pulse = Pulse(0.0)
        self._pings = 0
        self._asks = 0
        self._open_ask = 0  # 0: none
        self._answers: list[Mailbox[tuple[str, ...]]] = []  # of those who wait for the open one
        #: Why it is being ended; None as long as it is not.
        self.condemned: str | None = None

    # --- the heartbeat -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look at the worker from now on: it owes something. Under the lock, when not ``awake``."""
        self.awake = True
        self._pulse = self._pulse.resumed(time.monotonic())
        self._timers.after(self._policy.heartbeat, self._look)

    def _look(self) -> None:
        paused = self._paused()
        with self._lock:
            if self._ended or self.condemned is not None:
                self.awake = False
                return
            self._pulse, what = beat(self._pulse, time.monotonic(), self._policy, owes=bool(self._owes()), paused=paused)
            again = self.awake = what in (Beat.ASK, Beat.WAIT)
            self._pings += what is Beat.ASK
            number = self._pings
        if what is Beat.ASK:
            self._connection.send(codec.Ping(number))
        elif what is Beat.HUNG:
            self.end_hung(
                f"it gave no sign of life for {self._policy.hung_after:g} s (hung_after): it is stopped, or code in it keeps the interpreter",
                answers=False,
            )
        if again:
            self._timers.after(self._policy.heartbeat, self._look)

    def hear(self, message: codec.Pong | codec.Stacks) -> None:
        """Take in what the worker says of itself.

        :raises ProtocolError: it was not asked.
        """
        with self._lock:
            asked = self._pings if self._pulse.asked else 0
            if isinstance(message, codec.Pong):
                if not asked or message.id != asked:
                    raise ProtocolError(f"an answer to ping {message.id}, {f'ping {asked} is open' if asked else 'none is open'}")
                self._pulse = self._pulse.answered()
                return
            if not self._open_ask or message.id != self._open_ask:
                raise ProtocolError(f"stacks for question {message.id}, which is not open")
            self._open_ask = 0
            waiting, self._answers = self._answers, []
            reason = self.condemned
        stack = tuple(printable(line) for line in message.lines)
        for mailbox in waiting:
            mailbox.deliver(stack)
        if reason is not None:
            self._connection.stack = stack
            self._connection.kill(reason)

    # --- where it stands ---------------------------------------------------------------------------------------------

    def ask_stack(self, seconds: float) -> tuple[str, ...]:
        """Return where its calls stand, as lines of a traceback; empty when it does not say within ``seconds``."""
        mailbox: Mailbox[tuple[str, ...]] = Mailbox()
        with self._lock:
            if self._ended or self.condemned is not None:
                return ()
            self._answers.append(mailbox)
            number = self._next_ask()
        if number:
            self._connection.send(codec.AskStacks(number))
        try:
            return mailbox.wait(time.monotonic() + seconds)
        except MailboxTimeout:
            return ()
        finally:
            with self._lock:
                if mailbox in self._answers:
                    self._answers.remove(mailbox)

    def _next_ask(self) -> int:
        """Return the number of a new question, 0 while one is open: its answer will do."""
        if self._open_ask:
            return 0
        self._asks += 1
        self._open_ask = self._asks
        return self._asks

    # --- the ladder --------------------------------------------------------------------------------------------------

    def end_hung(self, reason: str, *, answers: bool = True) -> None:
        """End a worker that hangs; ``answers``: its reader may still run. Returns at once; all steps together take at most a second."""
        with self._lock:
            if self._ended or self.condemned is not None:
                return
            self.condemned = reason
            number = self._next_ask() if answers else 0
        if not answers:
            self._abort()
            return
        if number:
            self._connection.send(codec.AskStacks(number))
        self._timers.after(ASK_SECONDS, self._abort)

    def _abort(self) -> None:
        with self._lock:
            if self._ended:
                return
            self._condemn()
        assert self.condemned is not None
        self._connection.condemn(self.condemned)  # it may be quicker than the kill that says why
        # In this order: what waits for a process that is let go on is done before its own code is, so it begins no other call.
        self._connection.child.signal(signal.SIGABRT)
        self._connection.child.signal(signal.SIGCONT)
        self._timers.after(ABORT_SECONDS, lambda: self._connection.kill(self.condemned))

    def end(self) -> None:
        """Take in that the worker ended. Under the lock."""
        self._ended = True
        waiting, self._answers = self._answers, []
        for mailbox in waiting:
            mailbox.deliver(())
