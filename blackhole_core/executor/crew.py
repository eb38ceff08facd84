"""The threads of one plugin, and the queue they take their work from.

Invariants:

* Work belongs to whoever takes it out of the queue, in one step of the interpreter: a thread that runs it, a caller who withdraws it,
  or :meth:`Crew.stop`, which refuses it. So none is run twice, and none is lost.
* A thread says that it sleeps (``_asleep``) before it looks at the queue for the last time, and a caller looks there after it has put
  work in: one of the two sees the other. In the same way ``closed``, ``_refusing`` and ``_draining`` are set before
  what they ask about is looked at.
* A thread is in ``_busy`` from before it takes work until that work has ended and before its caller is told. So queue and ``_busy``
  are both empty only when nothing is queued or running, which is what ``drained`` means; a thread that finds another one faster is
  busy for a moment without work, never the other way round.
* A thread that has been let go (:meth:`Crew.let_go`) ends by itself when its work does. A thread cannot be killed.
* A thread that ends rings once more: the ring that woke it may have been meant for another one.
* A forked child has the queue, the locks and the bell, but none of the threads: there the crew has ended (:func:`_end_in_child`).

Callers take no lock, and may be interrupted (Ctrl-C) between any two steps: what they leave behind is work in the queue, which they
withdraw, or a ring too many, which is harmless.
"""

from __future__ import annotations

import collections
import os
import threading
import time
import weakref
from typing import Final, Protocol

from blackhole_core.executor.bell import SILENT, Bell, new_bell

__all__ = ["Crew", "Work"]


class Work(Protocol):
    """What a thread of the plugin is to do."""

    def run(self) -> None:
        """Do it and keep its outcome; never raises."""

    def tell(self) -> None:
        """Tell who waits for the outcome that it is there."""

    def refuse(self) -> None:
        """Take the refusal for the outcome and tell who waits for it: it was never run."""


class Crew:
    """``start`` threads with :meth:`add_thread`, :meth:`stop` ends them. ``name`` begins the threads' names."""

    def __init__(self, name: str) -> None:
        self._name = name
        #: The threads that take work, by ident; read without the lock.
        self.threads: dict[int, threading.Thread] = {}
        self._queue: collections.deque[Work] = collections.deque()
        self._bell: Bell = new_bell(counting=True)
        self._asleep: set[int] = set()
        self._busy: set[int] = set()
        self._changed = threading.Condition()  # guards changes of what follows and of ``threads``
        self._draining = 0  # who wait for the crew to be idle
        #: True once the end has begun: nothing more is taken.
        self.closed = False
        self._refusing = False  # nothing that is still queued will be run
        self._started = 0
        _crews.add(self)

    # --- for callers -------------------------------------------------------------------------------------------------

    def submit(self, work: Work) -> bool:
        """Have ``work`` run by a free thread; False when the crew has ended, and then it never will be."""
        if self.closed:
            return False
        self._queue.append(work)
        if self._asleep:
            self._bell.ring()
        return not (self._refusing and self.withdraw(work))

    def withdraw(self, work: Work) -> bool:
        """Take ``work`` back; False when it is not queued any more."""
        try:
            self._queue.remove(work)
        except ValueError:
            return False
        self._tell_idle()
        return True

    def drained(self, timeout: float | None) -> bool:
        """Wait until nothing is queued or running; False when ``timeout`` seconds passed first."""
        with self._changed:
            self._draining += 1
            try:
                return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout)
            finally:
                self._draining -= 1

    # --- the threads' life -------------------------------------------------------------------------------------------

    def add_thread(self) -> None:
        """Start one more thread, unless the end has begun."""
        with self._changed:
            if self.closed:
                return
            self._started += 1
            thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)
            thread.start()  # under the lock: _work waits for it before it looks itself up
            assert thread.ident is not None
            self.threads[thread.ident] = thread

    def let_go(self, ident: int) -> threading.Thread | None:
        """Give that thread no more work, and return it; None when it is none of ours any more, or the end has begun."""
        with self._changed:
            return None if self.closed else self.threads.pop(ident, None)

    def stop(self, end: float) -> list[threading.Thread]:
        """Take nothing more, let what is queued and running end until ``end`` (``time.monotonic()``), refuse the rest.

        Returns the threads that run on; they end with the work they are at. The calling thread may be one of the crew, and is not waited for.
        """
        with self._changed:
            self.closed = True
            threads = [thread for thread in self.threads.values() if thread is not threading.current_thread()]
        for _ in threads:
            self._bell.ring()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._refusing = True
        while self._queue:
            try:
                work = self._queue.popleft()
            except IndexError:  # a thread was faster
                break
            work.refuse()
        self._tell_idle()
        self._bell = SILENT  # who is left finds the end when its work is over, and sleeps no more
        return [thread for thread in threads if thread.is_alive()]

    # --- a thread ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        with self._changed:
            pass  # until add_thread has entered us
        ident, bell = threading.get_ident(), self._bell
        threads, queue, asleep, busy = self.threads, self._queue, self._asleep, self._busy
        while ident in threads:
            if not queue:
                if self.closed:
                    break
                asleep.add(ident)
                if not queue and not self.closed:
                    bell.sleep()
                asleep.discard(ident)
                continue
            busy.add(ident)
            try:
                work = queue.popleft()
            except IndexError:  # another thread was faster
                busy.discard(ident)
            else:
                work.run()
                busy.discard(ident)
                work.tell()
                del work  # or the last arguments live until the next call
            if self._draining:
                self._tell_idle()
        bell.ring()  # who is let go in its sleep may have been woken by a ring for work, which another one is to do
        del bell  # a stored traceback of the plugin's may hold this frame, and would hold the descriptor
        with self._changed:
            threads.pop(ident, None)

    def _tell_idle(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def end_in_child(self) -> None:
        """Take nothing more and forget what the parent has: it does its work, and a ring here would wake its threads."""
        ident = threading.get_ident()
        self.closed = self._refusing = True
        self._bell = SILENT
        self._changed = threading.Condition()  # a thread that is no more may hold the old one
        self._queue.clear()
        for threads in (self._asleep, self._busy):
            threads.intersection_update({ident})
        for other in self.threads.keys() - {ident}:
            del self.threads[other]  # a thread of the child may get its number


#: Those of this process, for its forked children.
_crews: Final[weakref.WeakSet[Crew]] = weakref.WeakSet()


def _end_in_child() -> None:
    for crew in list(_crews):
        crew.end_in_child()


os.register_at_fork(after_in_child=_end_in_child)
