"""What side-by-side generations cost beside plain imports: ``python -m benchmarks.generations [--rounds N] [--json FILE] [--check]``.

* Loading a plugin of which one file was saved: as a new generation; by dropping its modules from ``sys.modules`` and importing it; by
  ``importlib.reload`` of every module. Byte code is written and used wherever Python would.
* An ``import`` statement in a hot function, of a module of the standard library and of the plugin's own: in a generation and in plain code.
* Setting 50 modules aside and giving them their names back, on top of loading and releasing a package of one module.
* A swap of a plugin without state and with 20 hooks, while four threads call: how long calls waited, and whether one was answered wrongly.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from rich.console import Console

import blackhole_core as bh
from benchmarks.harness import Case, Loop, compare, measure, statement
from benchmarks.reload_peers.tree import Tree, plant
from blackhole_core.loader.universe import Universe

__all__ = ["Swaps", "main", "swap_under_callers"]

_SUBJECT: Final = "generation"

_tags: Final = (f"bench-{number}" for number in itertools.count(1))
_values: Final = itertools.count(1)

#: Names of the rows that have a target: how many times a plain import's time a generation may take.
_TARGETS: Final = {"load 16 files": 1.1, "load 50 files": 1.1, "import json in a function": 3.0}

_HOT: Final = """
def foreign():
    import json
    return json

def own():
    from {name} import other
    return other
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the command line. The exit status is 0 unless ``--check`` finds a target missed or a wrong answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there ('-' prints them instead of the table)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args(arguments)
    sys.dont_write_bytecode = False  # some machines set it; what is measured is what Python does by itself
    with tempfile.TemporaryDirectory(prefix="bench-generations-") as folder:
        report = compare("Generations beside plain imports", _SUBJECT, measure(list(cases(Path(folder))), rounds=options.rounds))
        swaps = swap_under_callers(Path(folder) / "swaps", options.swaps)
    missed = [row.name for row in report.rows if 1 / row.ratios.get("plain", 1.0) > _TARGETS.get(row.name, float("inf"))]
    figures = json.dumps({**report.as_data(), "swaps": attrs.asdict(swaps), "missed": missed}, indent=2)
    if options.json == Path("-"):
        print(figures)
    else:
        Console().print(report.as_table())
        print(swaps)
        print(f"targets missed: {', '.join(missed) or 'none'}")
        if options.json is not None:
            options.json.write_text(figures + "\n")
    return 1 if options.check and (missed or swaps.wrong) else 0


# --- loading and importing -------------------------------------------------------------------------------------------


def cases(folder: Path) -> Iterator[Case]:
    """Yield every row for a generation and for plain code."""
    for files in (16, 50):
        row = f"load {files} files"
        yield Case(row, _SUBJECT, _generations(plant(folder / f"g{files}", files, f"own{files}"), f"own{files}"))
        yield Case(row, "plain", _purge_and_import(plant(folder / f"p{files}", files, f"purged{files}"), f"purged{files}"))
        yield Case(row, "importlib.reload of all", _reload_all(plant(folder / f"r{files}", files, f"again{files}"), f"again{files}"))
    yield from _hot(folder)
    yield from _aside(folder)


def _timed_edits(tree: Tree, act: Callable[[], object]) -> Loop:
    """Return a loop that saves one file and then takes the time of ``act``."""

    def loop(count: int) -> float:
        taken = 0.0
        for _ in range(count):
            value = next(_values)
            tree.edit(value % len(tree.modules), value)
            begun = time.thread_time()
            act()
            taken += time.thread_time() - begun
        return taken

    return loop


def _generations(tree: Tree, package: str) -> Loop:
    serving = Universe([package], tree.root, next(_tags))
    serving.load(f"{package}.plugin:Plugin")

    def act() -> None:
        nonlocal serving
        successor = Universe([package], tree.root, next(_tags))
        successor.load(f"{package}.plugin:Plugin")
        serving.release()
        serving = successor

    return _timed_edits(tree, act)


def _modules_of(package: str) -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == package]


def _purge_and_import(tree: Tree, package: str) -> Loop:
    sys.path.insert(0, str(tree.root))
    importlib.import_module(f"{package}.plugin")

    def act() -> None:
        for name in _modules_of(package):
            del sys.modules[name]
        importlib.invalidate_caches()
        importlib.import_module(f"{package}.plugin")

    return _timed_edits(tree, act)


def _reload_all(tree: Tree, package: str) -> Loop:
    sys.path.insert(0, str(tree.root))
    importlib.import_module(f"{package}.plugin")

    def act() -> None:
        for name in _modules_of(package):
            importlib.reload(sys.modules[name])

    return _timed_edits(tree, act)


def _hot(folder: Path) -> Iterator[Case]:
    for name in ("hotgeneration", "hotplain"):
        place = folder / "hot" / name
        place.mkdir(parents=True)
        (place / "__init__.py").write_text(_HOT.format(name=name))
        (place / "other.py").write_text("")
    sys.path.insert(0, str(folder / "hot"))
    plain = importlib.import_module("hotplain")
    generation: Any = Universe(["hotgeneration"], folder / "hot", next(_tags)).load("hotgeneration")
    for row, function in (("import json in a function", "foreign"), ("import of an own module", "own")):
        yield Case(row, _SUBJECT, statement("call()", {"call": getattr(generation, function)}))
        yield Case(row, "plain", statement("call()", {"call": getattr(plain, function)}))


def _aside(folder: Path) -> Iterator[Case]:
    """A package of one module takes the names of one with 50, and gives them back."""
    for name in ("aside50", "aside0"):
        (folder / "small" / name).mkdir(parents=True)
        (folder / "small" / name / "__init__.py").write_text("")
    big = plant(folder / "big", 50, "aside50")
    Universe(["aside50"], big.root, next(_tags)).load("aside50.plugin")

    def loop_of(name: str) -> Loop:
        def loop(count: int) -> float:
            begun = time.thread_time()
            for _ in range(count):
                one = Universe([name], folder / "small", next(_tags))
                one.load(name)
                one.release()
            return time.thread_time() - begun

        return loop

    yield Case("50 modules set aside and back", _SUBJECT, loop_of("aside50"))
    yield Case("50 modules set aside and back", "nothing to set aside", loop_of("aside0"))


# --- swaps under callers ---------------------------------------------------------------------------------------------

#: Hooks of the plugin that is swapped, and threads that call them.
_HOOKS: Final = 20
_CALLERS: Final = 4

_SWAPPED: Final = """
import pluggy
hookimpl = pluggy.HookimplMarker("benchswap")

class Plugin:
{methods}
"""


@attrs.frozen
class Swaps:
    """What callers met while a plugin was swapped under them. Times in microseconds (gate) and milliseconds (longest call)."""

    swaps: int
    calls: int
    wrong: int
    gate_us_p50: float
    gate_us_max: float
    longest_call_ms: float
    longest_call_ms_without_swaps: float

    def __str__(self) -> str:
        return (
            f"{self.swaps} swaps of {_HOOKS} hooks at level none under {_CALLERS} callers: {self.calls} calls, {self.wrong} wrong; "
            f"gate shut {self.gate_us_p50:.0f} µs (p50), {self.gate_us_max:.0f} µs (max); "
            f"longest call {self.longest_call_ms:.1f} ms, without swaps {self.longest_call_ms_without_swaps:.1f} ms"
        )


def swap_under_callers(folder: Path, swaps: int) -> Swaps:
    """Swap a plugin back and forth between two versions while threads call its hooks.

    A call is wrong when it fails, or is not answered exactly once, by a version that served while it ran.
    """
    sources = [_version(folder, number) for number in (1, 2)]
    with bh.PluginManager("benchswap") as pm:
        pm.add_hookspecs(_specs())
        pm.load("swapped", source=sources[0])
        callers = _Callers(pm)
        quiet = callers.run(lambda: time.sleep(1.0), allowed=(1,))
        gates: list[float] = []

        def act() -> None:
            gates.extend(pm.swap("swapped", source=sources[number % 2]).gate_seconds for number in range(1, swaps + 1))

        busy = callers.run(act, allowed=(1, 2))
    return Swaps(
        swaps=swaps,
        calls=busy.calls,
        wrong=quiet.wrong + busy.wrong,
        gate_us_p50=round(statistics.median(gates) * 1e6, 1),
        gate_us_max=round(max(gates) * 1e6, 1),
        longest_call_ms=round(busy.longest * 1e3, 2),
        longest_call_ms_without_swaps=round(quiet.longest * 1e3, 2),
    )


def _specs() -> object:
    marker = bh.HookspecMarker("benchswap")

    def spec() -> int: ...  # type: ignore[empty-body]  # a spec has none

    named = {f"hook{number}": types.FunctionType(spec.__code__, {}, f"hook{number}") for number in range(_HOOKS)}
    return types.SimpleNamespace(**{name: marker(function) for name, function in named.items()})


def _version(folder: Path, number: int) -> Path:
    place = folder / f"v{number}"
    (place / "swapped").mkdir(parents=True)
    methods = "\n".join(f"    @hookimpl\n    def hook{hook}(self):\n        return {number}\n" for hook in range(_HOOKS))
    (place / "swapped" / "__init__.py").write_text(_SWAPPED.format(methods=methods))
    (place / "pyproject.toml").write_text(
        f'[project]\nname = "swapped"\nversion = "{number}.0"\n[project.entry-points.benchswap]\nswapped = "swapped:Plugin"\n'
    )
    return place


@attrs.define
class _Seen:
    calls: int = 0
    wrong: int = 0
    longest: float = 0.0


class _Callers:
    """Threads that call every hook in turn while something else happens."""

    def __init__(self, pm: bh.PluginManager) -> None:
        self._hooks = [getattr(pm.hook, f"hook{number}") for number in range(_HOOKS)]

    def run(self, act: Callable[[], object], *, allowed: tuple[int, ...]) -> _Seen:
        stop = threading.Event()
        results = [_Seen() for _ in range(_CALLERS)]
        answers = [[version] for version in allowed]

        def call(seen: _Seen) -> None:
            for hook in itertools.cycle(self._hooks):
                if stop.is_set():
                    return
                begun = time.perf_counter()
                try:
                    right = hook() in answers
                except Exception:  # whatever it is: a call that fails is a wrong one
                    right = False
                seen.longest = max(seen.longest, time.perf_counter() - begun)
                seen.calls += 1
                seen.wrong += not right

        threads = [threading.Thread(target=call, args=(seen,)) for seen in results]
        for thread in threads:
            thread.start()
        try:
            act()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        return _Seen(sum(seen.calls for seen in results), sum(seen.wrong for seen in results), max(seen.longest for seen in results))


if __name__ == "__main__":
    raise SystemExit(main())
