"""Release 1.0.0: sums and state."""

from __future__ import annotations

from blackhole_wordcount import WordCount


def test_counts_are_added_up() -> None:
    """``totals`` is the sum of what ``count`` returned."""
    plugin = WordCount()
    for _ in range(3):
        assert plugin.count(source="x = y\n") == {"lines": 1, "words": 3, "identifiers": 2}

    assert plugin.totals() == {"files": 3, "lines": 3, "words": 9, "identifiers": 6}


def test_state_survives_a_round_trip() -> None:
    """What one instance exports, another goes on from."""
    old, new = WordCount(), WordCount()
    old.count(source="x = y\n")
    new.plugin_import_state(old.plugin_export_state())

    assert new.totals() == old.totals()
