"""Swaps under callers, at level none without state and at level process with 1 MB of it: ``python -m benchmarks.swap [--rounds N] [--json FILE] [--check]``.

Threads call while a plugin is swapped to ever new versions. Every version answers with its own number, twice in each call; a call is *wrong* when it
fails, when its two answers differ, when a swap to a newer version had returned before it began, or when the version it names was not there yet.
A *stall* is how much later than it should a call was answered, as its caller saw it; the longest one that overlaps a swap is that swap's.

At level none the callers and the swap share one interpreter lock. Whether calls are right is asked of callers who call without a pause. They would have
stalls of 20 ms without any swap, as each of five busy threads takes 5 ms turns; so stalls are measured with callers who have work every
millisecond, counted from when it was due. The rows below say what the same callers meet when nothing happens, and when, instead of a swap, another
thread computes for as long.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType
from typing import Any, Final, Self
from unittest import mock

import attrs

import blackhole_core as bh
from benchmarks.harness import options
from benchmarks.results import Document, Result, number, publish
from blackhole_core.hooks import replace
from blackhole_core.hooks.switching import Store, sweep

_GROUP: Final = "benchswap"

#: Hooks of the plugin that is swapped.
_HOOKS: Final = 20

#: Seconds from one call's due time to the next where stalls at level none are measured.
_PERIOD: Final = 0.001

#: Seconds from which on a stall is remembered. At level none an ordinary call is answered 0.1 ms after it was due.
_STALLED: Final = 0.0005

#: Calls that must be made, at the least, for "0 wrong of so many" at level none.
_CALLS: Final = 1_000_000

#: Bytes of state that are handed over at level process.
_STATE: Final = 1_000_000

#: Seconds between two swaps, in which callers are alone.
_REST: Final = 0.02

_STATELESS: Final = """
import pluggy
hookimpl = pluggy.HookimplMarker("benchswap")

class Plugin:
{methods}
"""

_METHODS: Final = """
    @hookimpl
    def hook{hook}(self):
        return {number}

    @hookimpl(specname="hook{hook}")
    def also{hook}(self):
        return {number}
"""

_STATEFUL: Final = """
import pluggy
import blackhole_core as bh
hookimpl = pluggy.HookimplMarker("benchswap")

class Plugin:
    def __init__(self):
        self.state = {{"ballast": bytes({ballast}), "calls": 0}}

    @hookimpl
    def hook0(self):
        self.state["calls"] += 1
        return {number}

    @hookimpl(specname="hook0")
    def also0(self):
        return {number}

    @hookimpl
    def calls(self):
        return self.state["calls"]

    @bh.hookimpl
    def plugin_export_state(self):
        return self.state

    @bh.hookimpl
    def plugin_import_state(self, state):
        self.state = state
"""


@attrs.frozen
class Stall:
    """A call that took long."""

    begun: float
    ended: float

    def overlaps(self, window: tuple[float, float]) -> bool:
        return self.begun < window[1] and self.ended > window[0]


@attrs.define
class Seen:
    """What one caller met."""

    calls: int = 0
    wrong: int = 0
    stalls: list[Stall] = attrs.field(factory=list)


@attrs.define
class Served:
    """Which versions may answer: from the last that a swap has returned with to the last that a swap has begun with. Written by one thread."""

    returned: int = 1
    begun: int = 1


@attrs.frozen
class Window:
    """One swap: when it ran (``time.perf_counter``) and what it reported; None where a thread only computed."""

    begun: float
    ended: float
    report: Any = None


class Callers:
    """Threads that call every hook in turn, from the start to the end of a ``with`` block; without a pause, or once in every ``period`` seconds."""

    def __init__(self, hooks: Sequence[Callable[[], list[int]]], served: Served, count: int, period: float) -> None:
        self._hooks = hooks
        self._served = served
        self._period = period
        self._stop = threading.Event()
        self.seen = [Seen() for _ in range(count)]
        self._threads = [threading.Thread(target=self._work, args=(seen,)) for seen in self.seen]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def calls(self) -> int:
        return sum(seen.calls for seen in self.seen)

    @property
    def wrong(self) -> int:
        return sum(seen.wrong for seen in self.seen)

    def longest(self, window: Window) -> float:
        """Return the longest stall that overlaps ``window``, seconds; what is not remembered as one counts as nothing."""
        found = (stall for seen in self.seen for stall in seen.stalls if stall.overlaps((window.begun, window.ended)))
        return max((stall.ended - stall.begun for stall in found), default=0.0)

    def _work(self, seen: Seen) -> None:
        due = time.perf_counter()
        for hook in itertools.cycle(self._hooks):
            if self._stop.is_set():
                return
            if self._period:
                due += self._period
                time.sleep(max(0.0, due - time.perf_counter()))
            else:
                due = time.perf_counter()
            self._call(hook, seen)
            ended = time.perf_counter()
            if ended - due > _STALLED:
                seen.stalls.append(Stall(due, ended))
                due = ended  # what came due meanwhile is dropped, it would only count the same stall again

    def _call(self, hook: Callable[[], list[int]], seen: Seen) -> None:
        at_least = self._served.returned
        try:
            answers = hook()
        except Exception:  # whatever it is: a call that fails is a wrong one
            answers = []
        seen.calls += 1
        seen.wrong += not (len(answers) == 2 and answers[0] == answers[1] and at_least <= answers[0] <= self._served.begun)


class Stage:
    """A plugin at one level, its callers, and swaps to versions that are written as they are needed."""

    def __init__(self, pm: bh.PluginManager, folder: Path, source: Callable[[int], str], level: str) -> None:
        self._pm = pm
        self._folder = folder
        self._source = source
        self._served = Served()
        self._pm.load("swapped", source=self._version(1), isolation=level)

    def callers(self, hooks: Sequence[str], count: int, *, period: float = 0.0) -> Callers:
        return Callers([getattr(self._pm.hook, hook) for hook in hooks], self._served, count, period)

    def swap(self) -> Window:
        """Swap to the next version."""
        number = self._served.returned + 1
        source = self._version(number)
        self._served.begun = number
        begun = time.perf_counter()
        report = self._pm.swap("swapped", source=source)
        self._served.returned = number
        return Window(begun, time.perf_counter(), report)

    def _version(self, number: int) -> Path:
        place = self._folder / f"v{number}"
        (place / "swapped").mkdir(parents=True)
        (place / "swapped" / "__init__.py").write_text(self._source(number))
        (place / "pyproject.toml").write_text(
            f'[project]\nname = "swapped"\nversion = "{number}.0"\n[project.entry-points.{_GROUP}]\nswapped = "swapped:Plugin"\n'
        )
        return place


def stateless(number: int) -> str:
    """Return the source of a version with every hook and no state."""
    return _STATELESS.format(methods="".join(_METHODS.format(hook=hook, number=number) for hook in range(_HOOKS)))


def stateful(number: int) -> str:
    """Return the source of a version that hands its state over and counts calls in it."""
    return _STATEFUL.format(number=number, ballast=_STATE)


@contextlib.contextmanager
def stage(source: Callable[[int], str], level: str) -> Iterator[tuple[Stage, bh.PluginManager]]:
    """Yield a running plugin."""
    with tempfile.TemporaryDirectory(prefix="bench-swap-") as folder, bh.PluginManager(_GROUP) as pm:
        pm.add_hookspecs(_specs())
        yield Stage(pm, Path(folder), source, level), pm


def _specs() -> object:
    marker = bh.HookspecMarker(_GROUP)

    def spec() -> int: ...

    names = ["calls", *(f"hook{number}" for number in range(_HOOKS))]
    return types.SimpleNamespace(**{name: marker(types.FunctionType(spec.__code__, {}, name)) for name in names})


def at_none(swaps: int) -> list[Result]:
    """Swap a plugin with 20 hooks and no state under 4 callers."""
    hooks = [f"hook{number}" for number in range(_HOOKS)]
    with stage(stateless, "none") as (scene, _pm):
        with _sweeps_timed() as sweeps, scene.callers(hooks, 4, period=_PERIOD) as callers:
            windows = _swaps(scene, swaps)
            length = statistics.median(window.ended - window.begun for window in windows)
            quiet = [_during(lambda: time.sleep(length)) for _ in windows]
            busy = [_during(lambda: _compute(length)) for _ in windows]
        with scene.callers(hooks, 4) as hot:
            hard = _swaps(scene, swaps)
            while hot.calls < _CALLS:
                hard += _swaps(scene, 1)
    switches = [window.report.phases["switch"] * 1e6 for window in windows]
    wrong, calls = callers.wrong + hot.wrong, callers.calls + hot.calls
    return [
        _row("none, 20 hooks, stateless, 4 callers: all hooks change within", sweeps, "µs", at_most=50),
        _row("none, the whole phase `switch` of the report, in which no call waits", switches, "µs"),
        _row("none, longest stall of a caller", _stalls(callers, windows), "ms", at_most=5),
        _row("none, the same callers with nothing swapped", _stalls(callers, quiet), "ms"),
        _row("none, the same callers while a thread computes", _stalls(callers, busy), "ms"),
        Result("none, wrong calls", wrong, "", at_most=0, note=f"{len(windows) + len(hard)} swaps, {calls:,} calls"),
    ]


@contextlib.contextmanager
def _sweeps_timed() -> Iterator[list[float]]:
    """Collect how long each switch took from the first hook to the last, µs: the one step from which on the new version serves."""
    taken: list[float] = []

    def timed(stores: Iterable[Store]) -> list[CodeType]:
        begun = time.perf_counter()
        replaced = sweep(stores)
        taken.append((time.perf_counter() - begun) * 1e6)
        return replaced

    with mock.patch.object(replace, "sweep", timed):
        yield taken


def _stalls(callers: Callers, windows: Sequence[Window]) -> list[float]:
    return [callers.longest(window) * 1e3 for window in windows]


def _during(act: Callable[[], object]) -> Window:
    time.sleep(_REST)
    begun = time.perf_counter()
    act()
    return Window(begun, time.perf_counter())


def _compute(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def at_process(swaps: int) -> list[Result]:
    """Swap a worker with 1 MB of state under 16 callers."""
    with stage(stateful, "process") as (scene, pm):
        with scene.callers(["hook0"], 16) as callers:
            windows = _swaps(scene, swaps)
        lost = callers.calls - sum(pm.hook.calls())
    beyond = [max(0.0, callers.longest(window) - window.report.drain_seconds) * 1e3 for window in windows]
    return [
        _row("process, 1 MB of state, 16 callers: longest stall beyond the drain", beyond, "ms", at_most=20),
        _row("process, the whole longest stall", _stalls(callers, windows), "ms"),
        _row("process, gate shut", [window.report.gate_seconds * 1e3 for window in windows], "ms"),
        _row("process, drain", [window.report.drain_seconds * 1e3 for window in windows], "ms"),
        Result("process, wrong calls", callers.wrong, "", at_most=0, note=f"{len(windows)} swaps, {callers.calls:,} calls"),
        Result("process, updates of the state lost", lost, "", at_most=0),
    ]


def _swaps(scene: Stage, count: int) -> list[Window]:
    windows = []
    for _ in range(count):
        time.sleep(_REST)
        windows.append(scene.swap())
    return windows


def _row(name: str, values: Sequence[float], unit: str, *, at_most: float | None = None) -> Result:
    return Result(name, statistics.median(values), unit, at_most=at_most, note=f"at worst {number(max(values))} {unit}")


def run(arguments: Sequence[str] | None = None) -> int:
    """Be the command line; a round is a swap."""
    asked = options(__doc__, arguments)
    results = [*at_none(asked.rounds), *at_process(asked.rounds)]
    return publish(Document("Swaps under callers: medians over the swaps", tuple(results)), to=asked.json, check=asked.check)


if __name__ == "__main__":
    raise SystemExit(run())
