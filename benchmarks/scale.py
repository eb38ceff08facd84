"""Many plugins: 250, 500 and 1,000 at level none, and up to 200 workers: ``python -m benchmarks.scale [--rounds N] [--json FILE] [--check]``.

Each number of plugins is loaded in a process of its own, in an order drawn anew in each round. It reports what loading took and cost, per plugin, and what a
call takes: of a hook that one of the plugins implements, and of one that only the host does. What grows in proportion costs each plugin the same, however
many there are: the ratios are the cost per plugin (or the call) with the smallest number of plugins over that with the largest; 1 is perfect.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import pluggy

import blackhole_core as bh
from benchmarks.harness import options, statement
from benchmarks.machine import private_memory
from benchmarks.results import Document, Result, number, publish

#: How many plugins are loaded, the smallest number first.
_PLUGINS: Final = (250, 500, 1000)
_WORKERS: Final = (50, 100, 200)

#: How much more than with few plugins each may cost, or a call take, with many. Measured times move by so much from process to process.
_LINEAR: Final = 1 / 1.25

#: Calls per sample, and samples, of which the fastest counts: a call takes 0.2 µs.
_CALLS: Final = 20_000
_SAMPLES: Final = 7

#: Descriptors that a host with 200 workers may need; the usual soft limit is 1,024.
_DESCRIPTORS: Final = 8192

_GROUP: Final = "benchscale"

_SOURCE: Final = """
import pluggy
hookimpl = pluggy.HookimplMarker("benchscale")

class Plugin:
    @hookimpl
    def every(self, value):
        return value
{more}
"""

_ONLY: Final = """
    @hookimpl
    def only_one(self, value):
        return value
"""

_marker: Final = bh.HookspecMarker(_GROUP)


class Specs:
    """One hook for all plugins, one that a single plugin implements, one that only the host does."""

    @_marker
    def every(self, value: int) -> int:
        """Return ``value``."""
        raise NotImplementedError

    @_marker
    def only_one(self, value: int) -> int:
        """Return ``value``."""
        raise NotImplementedError

    @_marker
    def host(self, value: int) -> int:
        """Return ``value``."""
        raise NotImplementedError


@attrs.frozen
class Cost:
    """What one process measured. Times in seconds, memory in bytes."""

    plugins: int
    load: float  #: seconds to load all: of processor time at level none, which others on the machine do not disturb; of the clock where workers start
    memory: int  #: bytes of this process more than before, and of its workers what they share with nobody
    descriptors: int  #: of this process more than before
    calls: dict[str, float]  #: seconds per call, by hook


# --- one process ---------------------------------------------------------------------------------------------------------


def measure_here(level: str, count: int) -> Cost:
    """Load ``count`` plugins and look what they cost."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, _DESCRIPTORS)), hard))
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as folder, bh.PluginManager(_GROUP) as pm:
        sources = [_write(Path(folder), index) for index in range(count + 1)]
        pm.add_hookspecs(Specs)
        host = pluggy.HookimplMarker(_GROUP)(lambda value: value)
        pm.register(types.SimpleNamespace(host=host), name="host")
        pm.load(
            "plugin0", source=sources[0], isolation=level
        )  # with what only the first one pays for: imports, the process that forks workers
        before, open_before = _memory(), _descriptors()
        clock = time.process_time if level == "none" else time.perf_counter
        begun = clock()
        for index in range(1, count + 1):
            pm.load(f"plugin{index}", source=sources[index], isolation=level)
        load = clock() - begun
        memory, descriptors = _memory() - before, _descriptors() - open_before
        calls = {hook: _call(getattr(pm.hook, hook), level) for hook in ("only_one", "host")}
        assert pm.hook.every(value=1) == [1] * (count + 1)
        return Cost(count, load, memory, descriptors, calls)


def _write(folder: Path, index: int) -> Path:
    place = folder / f"p{index}"
    place.mkdir()
    (place / f"plugin{index}.py").write_text(_SOURCE.format(more=_ONLY if index == 0 else ""))
    (place / "pyproject.toml").write_text(
        f'[project]\nname = "plugin{index}"\nversion = "1.0"\n[project.entry-points.{_GROUP}]\nplugin{index} = "plugin{index}:Plugin"\n'
    )
    return place


def _call(hook: Any, level: str) -> float:
    calls = _CALLS if level == "none" else _CALLS // 100
    clock = time.thread_time if level == "none" else time.perf_counter
    loop = statement("hook(value=1)", {"hook": hook}, clock=clock)
    loop(10)
    return min(loop(calls) for _ in range(_SAMPLES)) / calls


def _memory() -> int:
    """Return what this process and its children would give back: resident here, private in the children."""
    own = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return own + sum(private_memory(pid) for pid in _descendants(os.getpid()))


def _descendants(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *_descendants(child))]


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- many processes ------------------------------------------------------------------------------------------------------


def measure_all(level: str, counts: Sequence[int], rounds: int) -> dict[int, list[Cost]]:
    """Measure each of ``counts`` in a fresh process, ``rounds`` times."""
    order = random.Random(0)
    found: dict[int, list[Cost]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in order.sample(list(counts), len(counts)):
            command = [sys.executable, "-m", "benchmarks.scale", "--here", level, str(count)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)
            found[count].append(Cost(**json.loads(done.stdout)))
    return found


def results(level: str, found: dict[int, list[Cost]]) -> list[Result]:
    """Return the rows of one level: what each plugin costs with the largest number of them, beside the smallest."""
    few, many = min(found), max(found)
    things: list[tuple[str, Callable[[Cost], float], float, str]] = [
        ("load, per plugin", lambda cost: cost.load / cost.plugins, 1e3, "ms"),
        ("memory, per plugin", lambda cost: cost.memory / cost.plugins, 1 / 1024, "KiB"),
        (
            "call of a hook of one plugin",
            lambda cost: cost.calls["only_one"],
            1e9 if level == "none" else 1e6,
            "ns" if level == "none" else "µs",
        ),
        ("call of a hook of the host", lambda cost: cost.calls["host"], 1e9, "ns"),
    ]
    rows = []
    for what, of, scale, unit in things:
        medians = {count: statistics.median(of(cost) for cost in costs) for count, costs in found.items()}
        ratio = statistics.median(of(small) / of(large) for small, large in zip(found[few], found[many], strict=True))
        between = ", ".join(f"{count}: {number(medians[count] * scale)}" for count in sorted(found) if count not in {few, many})
        name = f"{level}, {many:,} plugins: {what}"
        rows.append(
            Result(name, medians[many] * scale, unit, f"{few} plugins", medians[few] * scale, ratio, at_least=_LINEAR, note=between)
        )
    descriptors = statistics.median(cost.descriptors / cost.plugins for cost in found[many])
    if descriptors >= 0.5:
        rows.append(Result(f"{level}, {many:,} plugins: open descriptors of the host, per plugin", descriptors, ""))
    return rows


def run(arguments: Sequence[str] | None = None) -> int:
    """Be the command line; a round is one process for each number of plugins."""
    here = ("--here", {"nargs": 2, "metavar": ("LEVEL", "COUNT"), "help": "measure in this process and print JSON"})
    asked = options(__doc__, arguments, here, default_rounds=3)
    if asked.here is not None:
        level, count = asked.here
        print(json.dumps(attrs.asdict(measure_here(level, int(count)))))
        return 0
    rows = [
        row
        for level, counts in (("none", _PLUGINS), ("process", _WORKERS))
        for row in results(level, measure_all(level, counts, asked.rounds))
    ]
    return publish(Document("Many plugins: the cost of each of many beside each of few", tuple(rows)), to=asked.json, check=asked.check)


if __name__ == "__main__":
    raise SystemExit(run())
