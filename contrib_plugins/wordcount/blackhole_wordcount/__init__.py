"""Count lines, words and identifiers of Python source, and keep the sums across swaps and restarts.

The rule of counting stands in :mod:`blackhole_wordcount.counting`, what is kept in :mod:`blackhole_wordcount.sums`.
"""

from __future__ import annotations

import threading

import blackhole_core as bh
from blackhole_wordcount.counting import count_source
from blackhole_wordcount.sums import State, Sums, migrate

__all__ = ["WordCount"]

hookimpl = bh.HookimplMarker("wordcount")


class WordCount:
    """The plugin. ``_sums`` is a frozen value that is replaced under the lock, so a reader needs no lock and never sees half an update."""

    def __init__(self) -> None:
        self._sums = Sums()
        self._lock = threading.Lock()  # held by whoever replaces the sums, never while counting

    @hookimpl
    def count(self, path: str, source: str) -> dict[str, int]:
        """Return lines, words and identifiers of ``source``, and add them to the sums."""
        counts = count_source(source)
        with self._lock:
            self._sums = self._sums.plus(path, counts)
        return counts._asdict()

    @hookimpl
    def totals(self) -> dict[str, int]:
        """Return the sums over all files counted so far, and how many files that were."""
        return self._sums.totals()

    @hookimpl
    def longest(self) -> str | None:
        """Return the path of the longest file counted by a version that keeps it, or None."""
        longest = self._sums.longest
        return None if longest is None else longest.path

    @bh.hookimpl
    def plugin_export_state(self) -> State:
        return self._sums.to_state()

    @bh.hookimpl
    def plugin_import_state(self, state: State) -> None:
        with self._lock:
            self._sums = Sums.from_state(state)

    @bh.hookimpl
    def plugin_migrate_state(self, state: State, from_version: int, to_version: int) -> State:
        return migrate(state, from_version, to_version)
