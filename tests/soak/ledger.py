"""What becomes of every call of the soak: each has exactly one outcome, and none is run twice."""

from __future__ import annotations

import collections
import threading
from typing import Final

import blackhole_core as bh

__all__ = ["Ledger"]


class Ledger:
    """Counts calls by outcome, and what was run by call. Any thread may use it.

    The worker says of each call that it runs it, before it does anything else, so the host knows; a call is looked at when its outcome is there. What may have run
    (``executed: unknown``) is looked at once more at the next rest, because its worker's last word may come later than the news of its death.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()  # guards everything
        self._runs: dict[int, int] = {}
        self._open: set[int] = set()
        self._unknown: set[int] = set()
        self._last = 0
        self.begun = 0
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def begin(self) -> int:
        """Return the number of a new call."""
        with self._lock:
            self._last += 1
            self.begun += 1
            self._open.add(self._last)
            return self._last

    def ran(self, call: int) -> None:
        """Note that a worker runs it."""
        with self._lock:
            self._runs[call] = self._runs.get(call, 0) + 1

    def answered(self, call: int, answer: object) -> None:
        """Note its result, which is its number."""
        with self._lock:
            self._settle(call, "answered")
            runs = self._runs.pop(call, 0)
            if answer != call:
                self.wrong.append(f"call {call} was answered {answer!r}")
            if runs != 1:
                self.wrong.append(f"call {call} was answered, and run {runs} times")

    def failed(self, call: int, error: BaseException) -> None:
        """Note its error; one that nothing here should lead to is wrong."""
        with self._lock:
            if not isinstance(error, bh.WorkerDied):
                self._settle(call, type(error).__name__)
                self.wrong.append(f"call {call} failed with {type(error).__name__}: {error}")
                return
            self._settle(call, f"WorkerDied, executed: {error.executed}")
            if error.executed == "unknown":
                self._unknown.add(call)
            elif self._runs.pop(call, 0):
                self.wrong.append(f"call {call} was run, and its error says that it was not")

    def _settle(self, call: int, outcome: str) -> None:
        if call not in self._open:
            self.wrong.append(f"call {call} has a second outcome: {outcome}")
        self._open.discard(call)
        self.outcomes[outcome] += 1

    def balance(self) -> None:
        """Judge everything so far; no call is under way, and what workers said has been read. Then it holds no call any more."""
        with self._lock:
            self.wrong += [f"call {call} has no outcome" for call in sorted(self._open)]
            for call in self._unknown:
                if (runs := self._runs.pop(call, 0)) > 1:
                    self.wrong.append(f"call {call} was run {runs} times")
            self.wrong += [f"call {call} was run, and nobody made it, or it had been settled" for call in self._runs]
            if self.outcomes.total() != self.begun:
                self.wrong.append(f"{self.begun} calls have {self.outcomes.total()} outcomes")
            for seen in (self._open, self._unknown, self._runs):
                seen.clear()
