"""What a plugin registered outside itself, and undoing it when the plugin stops.

A :class:`Lease` is one such thing with the function that undoes it. :class:`Leases` is the stack of one instance.

Invariants:

* A lease is undone at most once: whoever takes it off the stack, under ``_lock``, runs its undo; the lock is never held while it runs.
* Leases are undone in the reverse order in which they were taken. One that fails is described in a sentence, the others are undone all the same.
* Once the end has begun no lease can be added: what was just made is undone at once, and the plugin gets :class:`PluginStopped`.
* Ending takes a bounded time. An undo that hangs is left to its thread and a fresh thread goes on with the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from blackhole_core.errors import PluginError
from blackhole_core.stacks import StackReading

__all__ = ["Lease", "Leases", "NotUndone", "PluginStopped", "standing_at"]

#: Part of the time for the end that threads, executors and tasks get to end by themselves; the rest is for what hangs.
_JOIN_SHARE: Final = 0.5
#: Part of the time for the end after which the first thread that undoes counts as hung: a little after the last join gave up.
_FIRST_ROUND_SHARE: Final = 0.6
#: Seconds that a thread gets to end when another one has used up the time: enough for one that is about to return.
_LAST_CHANCE: Final = 0.1

#: Runs a function somewhere, soon: on a new thread, on the plugin's own, or at once.
Start: TypeAlias = Callable[[Callable[[], None]], object]


class PluginStopped(PluginError, RuntimeError):
    """A plugin that has stopped asked its context for something new."""

    def __init__(self, owner: str, what: str) -> None:
        super().__init__(
            owner,
            f"{owner} has stopped, so it cannot take {what}: nothing would undo it. End the code that asks when context.stopping is set",
        )


class NotUndone(Exception):
    """Raised by an undo that knows why it could not do its work; the message is the part of a sentence after the plugin's name."""


class Lease:
    """One thing that is undone when the plugin stops, or earlier with :meth:`end`."""

    __slots__ = ("_leases", "_undo", "what")

    def __init__(self, what: str, undo: Callable[[], object], leases: Leases) -> None:
        self.what: Final = what
        self._undo: Callable[[], object] | None = undo
        self._leases = leases

    def __repr__(self) -> str:
        return f"<Lease {self.what}{' (ended)' if self.ended else ''}>"

    @property
    def ended(self) -> bool:
        """True once it is undone, or being undone."""
        return self._undo is None

    def end(self) -> None:
        """Undo it now, and raise what undoing raises. Does nothing the second time, or after the plugin stopped."""
        undo = self.forget()
        if undo is not None:
            undo()

    def forget(self) -> Callable[[], object] | None:
        """Take it off without undoing it: it has ended by itself. Returns its undo to the one caller who took it off, None to all others."""
        with self._leases.lock:
            undo, self._undo = self._undo, None
            self._leases.stack.pop(self, None)
            return undo


class Leases:
    """The leases of one instance of a plugin. ``owner`` is how sentences name it: ``plugin acme@1.0.0, generation 3``."""

    def __init__(self, owner: str) -> None:
        self.owner: Final = owner
        #: Set when the plugin begins to stop: threads of the plugin end themselves then.
        self.stopping: Final = threading.Event()
        self.lock: Final = threading.RLock()  # re-entrant: a finaliser may end a lease while this thread adds one
        self.stack: Final[dict[Lease, None]] = {}  # in the order of taking; guarded by ``lock``
        self._ended = False
        self._join_by = 0.0
        self._problems: list[str] = []
        #: A sentence for each thing that could not be undone; complete when :meth:`end` has returned.
        self.problems: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Leases of {self.owner}: {'ended' if self._ended else len(self.stack)}>"

    def check(self, what: str) -> None:
        """Raise :class:`PluginStopped` when nothing can be added any more."""
        if self._ended:
            raise PluginStopped(self.owner, what)

    def add(self, what: str, undo: Callable[[], object]) -> Lease:
        """Have ``undo`` called when the plugin stops.

        :raises PluginStopped: it has stopped already; ``undo`` has been called.
        """
        lease = Lease(what, undo, self)
        with self.lock:
            if not self._ended:
                self.stack[lease] = None
                return lease
        undo()
        raise PluginStopped(self.owner, what)

    def time_to_join(self) -> float:
        """Return the seconds that a thread which was asked to end has left; called by undo functions."""
        return max(_LAST_CHANCE, self._join_by - time.monotonic())

    def end(self, seconds: float, start: Start | None = None) -> tuple[str, ...]:
        """Undo everything within ``seconds`` and return a sentence for each thing that could not be undone.

        ``start`` runs the work where the plugin's code belongs; by default that is a new thread. A second call does nothing.
        """
        self.stopping.set()
        with self.lock:
            already, self._ended = self._ended, True
            if already or not self.stack:
                return ()
        begun = time.monotonic()
        self._join_by = begun + seconds * _JOIN_SHARE
        first, second = _Sweeper(self), _Sweeper(self)
        (start or _on_a_new_thread)(first.run)
        if not first.done.wait(seconds * _FIRST_ROUND_SHARE):
            _on_a_new_thread(second.run)
            second.done.wait(max(0.0, begun + seconds - time.monotonic()))
        with self.lock:
            hung = [sweeper.at for sweeper in (first, second) if sweeper.at is not None]
            self.problems = (
                *self._problems,
                *(f"{self.owner}: undoing {what} did not end within {seconds:g} s; it goes on by itself" for what in hung),
                *(f"{self.owner}: {lease.what} was not undone in time" for lease in self.stack),
            )
            return self.problems

    def take_last(self) -> tuple[str, Callable[[], object]] | None:
        """Take the youngest lease off the stack; None when there is none left."""
        with self.lock:
            while self.stack:
                lease = next(reversed(self.stack))
                undo = lease.forget()
                if undo is not None:
                    return lease.what, undo
            return None

    def failed(self, what: str, error: BaseException) -> None:
        """Note that an undo raised."""
        reason = str(error) if isinstance(error, NotUndone) else f"undoing {what} failed with {type(error).__name__}: {error}"
        with self.lock:
            self._problems.append(f"{self.owner}: {reason}")


class _Sweeper:
    """One thread's work at the end: undo the youngest lease until none is left. ``at`` is what it undoes now."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self.at: str | None = None
        self.done = threading.Event()

    def run(self) -> None:
        while (taken := self._leases.take_last()) is not None:
            self.at, undo = taken
            try:
                undo()
            except BaseException as error:  # SystemExit too: it is the plugin's, and becomes a sentence
                self._leases.failed(self.at, error)
            del taken, undo  # or the last one lives until this frame ends
        self.at = None
        self.done.set()


def _on_a_new_thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="blackhole-leases", daemon=True).start()


def standing_at(thread: threading.Thread) -> str:
    """Say where a thread is now, as a part of a sentence; empty when it has ended meanwhile."""
    with StackReading() as tops:
        frame = tops.get(thread.ident or -1)
        if frame is None:
            return ""
        return f", it stands in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
