"""Telemetry at the front door: per plugin, at every level, across a swap, from the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import blackhole_core as bh
from tests.integration.managed import LEVELS, manager, wheel


@pytest.mark.parametrize("level", LEVELS)
def test_calls_are_counted_at_every_level_and_across_a_swap(level: str, tmp_path: Path) -> None:
    """S-01: a plugin's numbers go on with its next version; where calls leave the thread, each is timed."""
    with manager() as pm:
        counter = pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        assert counter.calls is None
        assert counter.as_dict()["calls"] is None
        pm.telemetry.start(sample=1000)
        for _ in range(30):
            pm.hook.add(amount=1)
        pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        for _ in range(30):
            pm.hook.add(amount=1)
        assert pm.hook.total() == [60]
        calls = counter.calls
        assert calls is not None
        assert {hook: stats.count for hook, stats in calls.hooks.items()} == {"add": 60, "total": 1}
        assert calls.total.count == 61
        added = calls.hooks["add"]
        assert added.timed < 60 if level == "none" else added.timed == 60
        assert added.p50 is not None
        shown = json.loads(json.dumps(counter.as_dict()))["calls"]
        assert (shown["count"], shown["hooks"]["add"]["errors"], shown["p99"] > 0) == (61, 0, True)
        assert pm.telemetry.read().plugin("counter") == calls


@pytest.mark.parametrize("level", LEVELS)
def test_an_error_is_the_plugins_at_every_level(level: str, tmp_path: Path) -> None:
    """What a plugin raises elsewhere comes back as an exception, and is counted as one."""
    with manager() as pm:
        faulty = pm.load("faulty", source=wheel("faulty", "1.0.0", tmp_path), isolation=level)
        pm.telemetry.start()
        for _ in range(3):
            with pytest.raises(LookupError, match="faulty knows no kind"):
                pm.hook.fail(kind="nothing")
        calls = faulty.calls
        assert calls is not None
        assert (calls.total.count, calls.total.errors) == (3, 3)


@pytest.mark.parametrize(("said", "sample"), [({}, 251), ({"sample": 3}, 3)])
def test_the_configuration_turns_it_on(said: dict[str, int], sample: int) -> None:
    """``telemetry: {}`` is enough; without the key it is off."""
    with bh.PluginManager("notes", config={"telemetry": said}) as pm:
        assert pm.telemetry.sample == sample
    with bh.PluginManager("notes", config={}) as pm:
        assert pm.telemetry.sample is None
