"""Large values there and back beside their peers: ``python -m benchmarks buffers [--json FILE] [--check]``.

A hook at level process is given a NumPy array or ``bytes``, of 1 MB, 100 MB and, where the machine has room, 1 GB, and returns it. Beside it:

* two copies in one process, from warm memory to warm memory: what any way that copies once in each direction costs at least;
* ``Pipe.send`` of :mod:`multiprocessing` and a process that answers.

An array that is passed on as it came is copied once each way; in the rows "in place" the operator says ``share_results``, and it is copied on its way there alone. In the rows
"made there" another array, which the plugin has, comes back, as most plugins answer: that one is copied into the shared memory and out of it. ``bytes`` cannot arrive without a copy
of their own, there and here, so theirs are four.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

import blackhole_core as bh
from benchmarks.harness import Case, Samples, compare, options
from benchmarks.results import Document, Result, publish

_MB: Final = 1024 * 1024
#: Calls of 1 MB in a sample, fewer of what is larger.
_CALLS: Final = 20
#: Bytes of a value, its name, and the rounds that fit into a minute.
_SIZES: Final = ((_MB, "1 MB", 31), (100 * _MB, "100 MB", 7), (1024 * _MB, "1 GB", 3))
#: Copies of a value that are alive at once, here, in the worker and in the peers.
_COPIES: Final = 12

_PROJECT: Final = """
[project]
name = "bench-mirror"
version = "1.0.0"
[project.entry-points.bench]
mirror = "bench_mirror:Mirror"
"""
_SOURCE: Final = """
import pluggy
hookimpl = pluggy.HookimplMarker("bench")
class Mirror:
    own = None
    @hookimpl
    def mirror(self, value):
        return value
    @hookimpl
    def made(self, value):
        if self.own is None or self.own.nbytes != value.nbytes:
            self.own = value.copy()
        return self.own
"""


class _Specs:
    @bh.HookspecMarker("bench")
    def mirror(self, value: Any) -> Any:
        """Return ``value``."""
        raise NotImplementedError

    @bh.HookspecMarker("bench")
    def made(self, value: Any) -> Any:
        """Return another one of its size."""
        raise NotImplementedError


@contextlib.contextmanager
def _plugin(*, share_results: bool) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "pyproject.toml").write_text(_PROJECT)
        Path(directory, "bench_mirror.py").write_text(_SOURCE)
        with bh.PluginManager("bench", config={"max_message": 2**31, "share_results": share_results}) as pm:
            pm.add_hookspecs(_Specs)
            pm.load("mirror", source=directory, isolation="process")
            yield pm.hook


def _answer(connection: Connection) -> None:
    while (value := connection.recv()) is not None:
        connection.send(value)
        del value


@contextlib.contextmanager
def _pipe() -> Iterator[Callable[[Any], Any]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there,))
    process.start()

    def call(value: Any) -> Any:
        here.send(value)
        return here.recv()

    yield call
    here.send(None)
    process.join()


def _loop(call: Callable[[], Any]) -> Callable[[int], float]:
    def run(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            call()
        return time.perf_counter() - begun

    return run


def _rooms() -> int:
    """Return the bytes of memory that are free."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _measure(size: int, name: str, rounds: int, ways: dict[str, Any]) -> Iterator[Result]:
    array = np.arange(size // 8, dtype="f8")
    text = array.tobytes()
    other = np.ones_like(array)

    def copy_twice() -> None:
        np.copyto(other, array)
        np.copyto(array, other)

    hook, shared, pipe = ways["hook"], ways["shared"], ways["pipe"]
    # One contender of each row is ours; all of a group are measured in the same rounds. At 1 GB the pipes take longer than idle pages stay with a worker,
    # and use no memory again, so there is nothing to warm up.
    pipes = [
        Case(name, "Pipe.send, array", _loop(lambda: pipe(array))),
        Case(name, "Pipe.send, bytes", _loop(lambda: pipe(text))),
    ]
    cases = [
        Case(name, "two copies", _loop(copy_twice)),
        Case(name, "array", _loop(lambda: hook.mirror(value=array))),
        Case(name, "array, in place", _loop(lambda: shared.mirror(value=array))),
        Case(name, "array, made there", _loop(lambda: hook.made(value=array))),
        Case(name, "bytes", _loop(lambda: hook.mirror(value=text))),
    ]
    calls = max(1, _CALLS * _MB // size)
    samples = _sample(pipes, rounds, calls, warm=False) + _sample(cases, rounds, calls)
    least = 0.4 if size == _MB else 0.8
    for ours in ("array", "array, in place", "array, made there", "bytes"):
        kind = ours.partition(",")[0]
        peers = {"two copies": least, f"Pipe.send, {kind}": 8.0}
        kept = [one for one in samples if one.case.contender in {ours, *peers}]
        targets = {(name, peer): ratio for peer, ratio in peers.items()}
        for result in compare(name, ours, kept, targets).document().results:
            yield Result(f"{name}: {ours}", *_rest(result))


def _sample(cases: Sequence[Case], rounds: int, calls: int, *, warm: bool = True) -> list[Samples]:
    """Take ``rounds`` samples of each, of so many calls, in an order drawn anew: the harness's own way would warm up for minutes."""
    order = random.Random(0)
    seconds: list[list[float]] = [[] for _ in cases]
    if warm:
        for case in cases:
            case.loop(min(calls, 2))
    for _ in range(rounds):
        for index in order.sample(range(len(cases)), len(cases)):
            seconds[index].append(cases[index].loop(calls) / calls)
    return [Samples(case, tuple(taken)) for case, taken in zip(cases, seconds, strict=True)]


def _rest(result: Result) -> tuple[Any, ...]:
    return (result.median, result.unit, result.beside, result.peer, result.ratio, result.spread, result.at_least)


def run() -> int:
    """Measure and print."""
    asked = options(__doc__)
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        ways = {
            "hook": stack.enter_context(_plugin(share_results=False)),
            "shared": stack.enter_context(_plugin(share_results=True)),
            "pipe": stack.enter_context(_pipe()),
        }
        for size, name, rounds in _SIZES:
            if _rooms() < _COPIES * size:
                print(f"no room for {name}: {_COPIES} copies of it may be alive at once")
                continue
            results += _measure(size, name, min(rounds, asked.rounds), ways)
    return publish(Document("Large values there and back", tuple(results)), to=asked.json, check=asked.check)


if __name__ == "__main__":
    raise SystemExit(run())
