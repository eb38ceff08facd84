"""A counter with state version 2: ``{"total": n, "history": [the last amounts]}``."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Final, TypedDict

import blackhole_core as bh

hookimpl = bh.HookimplMarker("notes")

#: Amounts that are remembered: enough to see that they were kept, too few for a long test to make the state big.
HISTORY: Final = 16


class State(TypedDict):
    total: int
    history: list[int]


class Counter:
    """Counts and remembers. At level none many threads add at once, so total and history share a lock."""

    def __init__(self) -> None:
        self._total = 0
        self._history: deque[int] = deque(maxlen=HISTORY)
        self._lock = threading.Lock()  # guards total and history

    @bh.hookimpl
    def plugin_start(self) -> None:
        """Nothing to get ready."""

    @bh.hookimpl
    def plugin_health(self) -> bool | str:
        return True

    @hookimpl
    def add(self, amount: int) -> int:
        with self._lock:
            self._total += amount
            self._history.append(amount)
            return self._total

    @hookimpl
    def total(self) -> int:
        with self._lock:
            return self._total

    @hookimpl
    def version(self) -> str:
        return "2.0.0"

    @bh.hookimpl
    def plugin_export_state(self) -> State:
        with self._lock:
            return {"total": self._total, "history": list(self._history)}

    @bh.hookimpl
    def plugin_import_state(self, state: State) -> None:
        with self._lock:
            self._total = state["total"]
            self._history = deque(state["history"], maxlen=HISTORY)

    @bh.hookimpl
    def plugin_migrate_state(self, state: dict[str, Any], from_version: int, to_version: int) -> dict[str, Any]:
        """Know the way between 1 and 2, both ways; going back forgets the history."""
        if (from_version, to_version) == (1, 2):
            return {"total": state["count"], "history": []}
        if (from_version, to_version) == (2, 1):
            return {"count": state["total"]}
        raise ValueError(f"counter knows no way from state version {from_version} to {to_version}")
