"""A plugin in a container: ``python -m benchmarks.container [--rounds N] [--json FILE] [--check]``.

*Start* is from the wish to load a plugin until its first call has answered, beside ``runc run`` of the same interpreter in the same bundle until its first byte has come: alone,
and after it has imported what a worker imports. The end of each is not counted. *Round trip* is one call of about 110 bytes there and back, beside level process.
All take turns within one run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import blackhole_core as bh
from benchmarks.harness import options
from benchmarks.levels import PAYLOAD, plugin_at
from benchmarks.results import Document, Result, publish
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.launch.oci.binds import binds_of, interpreter
from blackhole_core.executor.launch.oci.bundle import Box, config
from blackhole_core.executor.launch.oci.choosing import choose_engine
from blackhole_core.executor.sandbox.plan import draw_up

_ROUNDS: Final = 20
#: Calls of which one round trip is the mean: a few milliseconds of them.
_CALLS: Final = 200
#: What is aimed at, as times better than the peer: at most twice its time, at most 1.2 times.
_START, _TRIP = 1 / 2, 1 / 1.2

_ALONE: Final = "import os; os.write(1, b'x')"
_IMPORTS: Final = (
    "import sys; sys.path[:] = sys.argv[1:]; import blackhole_core.executor.working, blackhole_core.executor.sandbox.enclose; " + _ALONE
)


@contextlib.contextmanager
def _bare(program: str) -> Iterator[Callable[[], float]]:
    """Yield what runs ``program`` once in a container and returns the seconds until its first byte."""
    engine = choose_engine()
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    path = [str(Path(entry).absolute()) for entry in sys.path]
    policy = draw_up(Confinement(), plugin=directory, import_path=path, layers=(), temporary=None)
    box = Box(str(directory / "root"), (interpreter(), "-I", "-S", "-c", program, *path), {}, tuple(binds_of(policy.places)))
    (directory / "root").mkdir()
    (directory / "config.json").write_text(json.dumps(config(box)))
    command = [engine.program, "--root", str(directory / "state"), "run", "--bundle", str(directory), f"bench-{os.getpid()}"]

    def run() -> float:
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            assert running.stdout.read(1) == b"x"
            return time.perf_counter() - begun

    yield run
    shutil.rmtree(directory)


def _start(pm: bh.PluginManager, name: str, source: Path) -> float:
    begun = time.perf_counter()
    pm.load(name, source=source, isolation="container")
    pm.hook.echo(value=PAYLOAD)
    taken = time.perf_counter() - begun
    pm.unload(name)
    return taken


def _trip(echo: Any) -> float:
    begun = time.perf_counter()
    for _ in range(_CALLS):
        echo(value=PAYLOAD)
    return (time.perf_counter() - begun) / _CALLS


def _measure(rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {}
    with contextlib.ExitStack() as opened:
        in_process, in_container = (opened.enter_context(plugin_at(level)) for level in ("process", "container"))
        pm, source = opened.enter_context(_manager())
        what: dict[str, Callable[[], float]] = {
            "alone": opened.enter_context(_bare(_ALONE)),
            "imports": opened.enter_context(_bare(_IMPORTS)),
            "start": lambda: _start(pm, "echo", source),
            "process": lambda: _trip(in_process),
            "container": lambda: _trip(in_container),
        }
        for turn in range(rounds + 1):
            for name, measure in what.items():
                seconds = measure()
                if turn:  # the first one is for what is done once
                    taken.setdefault(name, []).append(seconds)
    return taken


@contextlib.contextmanager
def _manager() -> Iterator[tuple[bh.PluginManager, Path]]:
    from benchmarks import levels

    with tempfile.TemporaryDirectory() as directory, bh.PluginManager("bench") as pm:
        Path(directory, "pyproject.toml").write_text(levels._PROJECT)
        Path(directory, "bench_echo.py").write_text(levels._SOURCE)
        pm.add_hookspecs(levels._Specs)
        yield pm, Path(directory)


def _rows(taken: dict[str, list[float]]) -> Iterator[Result]:
    medians = {name: statistics.median(samples) for name, samples in taken.items()}
    for row, own, peer, called, unit, scale, target in (
        ("start to first answer", "start", "alone", "runc run, interpreter alone", "ms", 1e3, _START),
        ("start to first answer", "start", "imports", "runc run, interpreter and a worker's imports", "ms", 1e3, None),
        ("round trip", "container", "process", "level process", "µs", 1e6, _TRIP),
    ):
        ratio = statistics.median(other / mine for mine, other in zip(taken[own], taken[peer], strict=True))
        yield Result(row, medians[own] * scale, unit, called, medians[peer] * scale, ratio, at_least=target)


def main() -> int:
    """Be the command line."""
    asked = options(__doc__, default_rounds=_ROUNDS)
    return publish(Document("A plugin in a container", tuple(_rows(_measure(asked.rounds)))), to=asked.json, check=asked.check)


if __name__ == "__main__":
    raise SystemExit(main())
