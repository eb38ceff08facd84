"""One plugin with one hook, loaded at a level by a real manager: what the benchmarks of calls measure."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

import blackhole_core as bh
from benchmarks.results import Result

__all__ = ["PAYLOAD", "SOURCE", "Beside", "Specs", "in_turns", "manager", "plugin_at", "rows", "start", "trip"]

#: About 110 bytes of msgpack, pickle makes some more of it.
PAYLOAD: Final = {"id": 123456, "name": "a name of some length", "tags": ["alpha", "beta", "gamma"], "score": 0.75, "text": "x" * 40}

_PROJECT: Final = """
[project]
name = "bench-echo"
version = "1.0.0"
[project.entry-points.bench]
echo = "bench_echo:Echo"
"""
SOURCE: Final = """
import pluggy
hookimpl = pluggy.HookimplMarker("bench")
class Echo:
    @hookimpl
    def echo(self, value):
        return value
"""


#: Calls of which one round trip is the mean: a few milliseconds of them.
_CALLS: Final = 200


class Specs:
    """What the plugin implements."""

    @bh.HookspecMarker("bench")
    def echo(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return ``value``."""
        raise NotImplementedError


@contextlib.contextmanager
def manager(config: Mapping[str, Any] | None = None) -> Iterator[tuple[bh.PluginManager, Path]]:
    """Yield a manager, and where the plugin lies, which it has not loaded."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "pyproject.toml").write_text(_PROJECT)
        Path(directory, "bench_echo.py").write_text(SOURCE)
        with bh.PluginManager("bench", config=config) as pm:
            pm.add_hookspecs(Specs)
            yield pm, Path(directory)


@contextlib.contextmanager
def plugin_at(level: str) -> Iterator[Any]:
    """Yield the hook caller of a plugin that runs at ``level``."""
    with manager() as (pm, source):
        pm.load("echo", source=source, isolation=level)
        yield pm.hook.echo


def start(pm: bh.PluginManager, source: Path, level: str) -> float:
    """Return the seconds from the wish to load the plugin at ``level`` until it has answered; its end is not counted."""
    begun = time.perf_counter()
    pm.load("echo", source=source, isolation=level)
    pm.hook.echo(value=PAYLOAD)
    taken = time.perf_counter() - begun
    pm.unload("echo")
    return taken


def trip(echo: Any) -> float:
    """Return the seconds of one call, the mean of many."""
    begun = time.perf_counter()
    for _ in range(_CALLS):
        echo(value=PAYLOAD)
    return (time.perf_counter() - begun) / _CALLS


@attrs.frozen
class Beside:
    """One row: whose samples are ours, whose are the peer's and what that is called; ``scale`` of ``unit`` are a second."""

    row: str
    own: str
    peer: str
    called: str
    unit: str
    scale: float
    target: float | None = None


def in_turns(what: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each thing once in every round; return the seconds of each. A round before them is for what is done once."""
    taken: dict[str, list[float]] = {name: [] for name in what}
    for turn in range(rounds + 1):
        for name, measure in what.items():
            seconds = measure()
            if turn:
                taken[name].append(seconds)
    return taken


def rows(taken: Mapping[str, Sequence[float]], table: Sequence[Beside]) -> Iterator[Result]:
    """Compare samples that were taken in turns, round by round."""
    medians = {name: statistics.median(samples) for name, samples in taken.items()}
    for one in table:
        ratio = statistics.median(other / mine for mine, other in zip(taken[one.own], taken[one.peer], strict=True))
        yield Result(
            *(one.row, medians[one.own] * one.scale, one.unit, one.called, medians[one.peer] * one.scale, ratio), at_least=one.target
        )
