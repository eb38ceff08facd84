"""Release 1.0.0: sums and state."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from blackhole_wordcount import WordCount


def test_counts_are_added_up() -> None:
    """``totals`` is the sum of what ``count`` returned."""
    plugin = WordCount()
    for _ in range(3):
        assert plugin.count(source="x = y\n") == {"lines": 1, "words": 3, "identifiers": 2}

    assert plugin.totals() == {"files": 3, "lines": 3, "words": 9, "identifiers": 6}


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads take turns every 10 µs, not every 5 ms: what is not guarded then goes wrong in a short test."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_no_half_update_is_seen() -> None:
    """Whoever asks for the totals while others count gets sums that belong together."""
    plugin = WordCount()

    def count_and_look(_: int) -> bool:
        plugin.count(source="\n")
        totals = plugin.totals()
        return totals["files"] == totals["lines"]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(count_and_look, range(5_000)))


def test_state_survives_a_round_trip() -> None:
    """What one instance exports, another goes on from."""
    old, new = WordCount(), WordCount()
    old.count(source="x = y\n")
    new.plugin_import_state(old.plugin_export_state())

    assert new.totals() == old.totals()
