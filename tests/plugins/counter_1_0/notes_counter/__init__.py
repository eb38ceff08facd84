"""A counter with state version 1: ``{"count": n}``."""

from __future__ import annotations

import threading
from typing import TypedDict

import blackhole_core as bh

hookimpl = bh.HookimplMarker("notes")


class State(TypedDict):
    count: int


class Counter:
    """Counts. At level none many threads add at once, so the count has a lock."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()  # guards the count

    @hookimpl
    def add(self, amount: int) -> int:
        with self._lock:
            self._count += amount
            return self._count

    @hookimpl
    def total(self) -> int:
        with self._lock:
            return self._count

    @hookimpl
    def version(self) -> str:
        return "1.0.0"

    @bh.hookimpl
    def plugin_export_state(self) -> State:
        with self._lock:
            return {"count": self._count}

    @bh.hookimpl
    def plugin_import_state(self, state: State) -> None:
        with self._lock:
            self._count = state["count"]
