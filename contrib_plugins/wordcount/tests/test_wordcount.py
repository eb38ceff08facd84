"""The plugin as a host sees it: sums, state, migration, threads, declarations."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from blackhole_wordcount import WordCount

TEXT = "x = y\n"
STATE_1 = {"files": 2, "lines": 5, "words": 9, "identifiers": 4}


def test_counts_are_added_up() -> None:
    """``totals`` is the sum of what ``count`` returned."""
    plugin = WordCount()
    for _ in range(3):
        assert plugin.count(path="a.py", source=TEXT) == {"lines": 1, "words": 3, "identifiers": 2}

    assert plugin.totals() == {"files": 3, "lines": 3, "words": 9, "identifiers": 6}


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads take turns every 10 µs, not every 5 ms: what is not guarded then goes wrong in a short test."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_no_update_is_lost_between_threads() -> None:
    """Many threads counting at once add up to what one thread would have counted."""
    plugin = WordCount()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: plugin.count(path=str(number), source=""), range(5_000)))

    assert plugin.totals() == {"files": 5_000, "lines": 0, "words": 0, "identifiers": 0}


def test_the_longest_file_is_the_first_of_the_longest() -> None:
    """A later file must have more lines to take the place."""
    plugin = WordCount()
    assert plugin.longest() is None
    for path, lines in [("a", 2), ("b", 3), ("c", 3), ("d", 1)]:
        plugin.count(path=path, source="\n" * lines)

    assert plugin.longest() == "b"


def test_state_survives_a_round_trip() -> None:
    """What one instance exports, another goes on from."""
    old, new = WordCount(), WordCount()
    old.count(path="a.py", source=TEXT)
    new.plugin_import_state(old.plugin_export_state())

    assert (new.totals(), new.longest()) == (old.totals(), "a.py")


def test_state_of_an_empty_plugin_survives_too() -> None:
    """Nothing counted is state as well."""
    plugin = WordCount()
    plugin.plugin_import_state(WordCount().plugin_export_state())

    assert (plugin.totals()["files"], plugin.longest()) == (0, None)


def test_an_upgrade_keeps_the_sums_and_does_not_know_the_longest() -> None:
    """State version 1 becomes version 2 with ``longest`` unknown."""
    plugin = WordCount()
    plugin.plugin_import_state(plugin.plugin_migrate_state(STATE_1, 1, 2))

    assert (plugin.totals(), plugin.longest()) == (STATE_1, None)


def test_a_downgrade_keeps_the_sums() -> None:
    """State version 2 becomes exactly what version 1 exported."""
    plugin = WordCount()
    plugin.plugin_import_state({**STATE_1, "longest": {"path": "a.py", "lines": 3}})

    assert plugin.plugin_migrate_state(plugin.plugin_export_state(), 2, 1) == STATE_1


def test_no_other_way_is_known() -> None:
    """A step that does not exist is refused, not guessed."""
    with pytest.raises(ValueError, match="not from 2 to 3"):
        WordCount().plugin_migrate_state({}, 2, 3)


def test_the_distribution_and_the_manifest_agree() -> None:
    """Name and version in ``plugin.yaml`` are those that pip knows."""
    manifest = yaml.safe_load(importlib.resources.files("blackhole_wordcount").joinpath("plugin.yaml").read_text(encoding="utf-8"))

    assert manifest["version"] == importlib.metadata.version("blackhole-wordcount")
    [entry] = importlib.metadata.entry_points(group="wordcount", name=manifest["name"])
    assert entry.load() is WordCount
