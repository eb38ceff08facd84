"""The demo as a newcomer runs it, on a part of the real input, and what it does when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from blackhole_core.cli.demo import show as show_module
from blackhole_core.cli.demo.api import WordCountSpecs
from blackhole_core.cli.demo.corpus import Corpus, Source
from blackhole_core.cli.demo.display import SilentDisplay
from blackhole_core.cli.demo.plainloop import Totals
from blackhole_core.cli.demo.show import Plan, play
from blackhole_core.cli.exits import Exit
from blackhole_core.cli.main import main
from blackhole_core.ids import Isolation
from blackhole_core.manager import PluginManager
from tests.levels import MACHINES

#: Enough files that all swaps and kills happen while calls are under way, few enough for a second per level.
FILES = 80


_SHOWN = [("none", FILES), ("thread", FILES), ("process", FILES), ("container", FILES), *([("vm", 20)] if MACHINES else [])]


@pytest.mark.parametrize(("level", "files"), _SHOWN)
def test_the_demo_holds_at_each_level(level: str, files: int, require_level: Callable[[str], object]) -> None:
    """S-01: swapped, rolled back and (with a worker) killed under load, and the sums are those of a plain loop."""
    require_level(level)
    result = CliRunner().invoke(main, ["demo", "--limit", str(files), "--levels", level, "--threads", "4", "--json"])
    assert result.exit_code == Exit.OK, result.output
    report = json.loads(result.stdout)
    [outcome] = report["levels"]
    assert report["ok"]
    assert outcome["totals"] == report["plain_loop"]["totals"]
    assert outcome["totals"]["files"] == outcome["calls"] == files
    assert outcome["own"] == outcome["sums_then"]
    kills = 3 if level in ("process", "container", "vm") else 0
    assert (outcome["swaps"], outcome["kills"], outcome["restarts"]) == (8 + kills, kills, kills)
    assert outcome["under_load"] >= 6  # nearly always all; the callers may be quicker than the last swap
    assert (outcome["failed"], outcome["lost"], outcome["doubled"]) == (0, 0, 0)


def test_people_get_words_and_a_table() -> None:
    """The first lines say what is shown, the last ones what to try; the table is in between."""
    result = CliRunner().invoke(main, ["demo", "--limit", "20", "--levels", "none"])
    assert result.exit_code == Exit.OK
    assert result.stdout.startswith("The plugin `wordcount` counts lines, words and identifiers of 20 files")
    assert "LEVEL  CALLS  CALLS/S  SWAPS  LONGEST GATE  KILLED  RESTARTS  RETRIED  FAILED  LOST\nnone   20 " in result.stdout
    assert "Every level gave the same sums" in result.stdout
    assert "Try next:\n  blackhole doctor" in result.stdout


def test_a_difference_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the sums differ the difference is printed and the code is 1."""
    monkeypatch.setattr(show_module, "sum_plainly", lambda sources: Totals(len(list(sources)), 1, 2, 3))
    result = CliRunner().invoke(main, ["demo", "--limit", "20", "--levels", "none"])
    assert result.exit_code == Exit.FAILED
    assert "blackhole: level none: the replies add up to" in result.stderr
    assert "Every level gave the same sums" not in result.stdout


def test_the_time_limits_the_files(tmp_path: Path) -> None:
    """With --seconds only what the plain loop manages in its share is counted, and all of that at every level."""
    clock = iter(range(10_000))
    sources = tuple(Source(f"{number}.py", "x = 1\n" * 10) for number in range(1000))
    plan = Plan(levels=(Isolation.NONE,), threads=2, seconds=100.0)
    counted: list[Source] = []
    list(show_module._until(sources, plan.share(), counted, SilentDisplay(), lambda: float(next(clock))))
    assert len(counted) == 41  # 100 s for 1 + 1.5 parts, one second for each file; the first is counted in any case
    show = play(plan, SilentDisplay(), Corpus(tmp_path, sources[:30]))
    assert (show.files, show.outcomes[0].calls, show.problems) == (30, 30, [])


def test_ctrl_c_ends_the_demo_cleanly(require_level: Callable[[str], object]) -> None:
    """Code 130, one sentence, no worker and no temporary file left."""
    require_level("process")
    process = subprocess.Popen(
        [sys.executable, "-m", "blackhole_core.cli", "demo", "--levels", "process", "--limit", "80"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("process    swapped"):
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == "blackhole: interrupted\n"
    assert process.returncode == Exit.INTERRUPTED


def test_the_demo_hosts_its_specs_as_any_host_does() -> None:
    """The specs the demo shows are what a plugin of the group wordcount implements."""
    with PluginManager("wordcount") as manager:
        manager.add_hookspecs(WordCountSpecs)
        hooks: dict[str, Any] = {caller.name: caller for caller in manager.callers()}
    assert set(hooks) == {"count", "totals", "longest"}
