"""The contenders of :mod:`benchmarks.worker_start`, and how they are measured."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks.harness import Case, Samples, compare, options
from benchmarks.hosting import hosting, one_file
from benchmarks.levels import PAYLOAD, SOURCE, Specs
from benchmarks.machine import private_memory
from benchmarks.results import Document, Result, publish
from benchmarks.start_contenders.answering import answer
from blackhole_core.executor.confinement import Confinement, Sandbox
from blackhole_core.executor.launch.child import LaunchSpec
from blackhole_core.executor.launch.process import ProcessLauncher
from blackhole_core.executor.levels import import_path
from blackhole_core.executor.remote import RemoteRunner
from blackhole_core.executor.sandbox.walls import Enclosure, Walls
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.frames import frame
from blackhole_core.ids import Isolation
from blackhole_core.messages import Call

_SUBJECT: Final = "forked"
_BARE: Final = "process up, nothing of a plugin loaded"
_ONE: Final = "start to first answer"
_CROWD: Final = 100
_MANY: Final = f"{_CROWD} workers, until each has answered"
_MEMORY: Final = f"private memory of one of {_CROWD} workers"
#: (row, peer) → how many times faster; MB.
_TARGETS: Final = {(_ONE, "spawn"): 20.0, (_MANY, "spawn"): 25.0}
_PRIVATE: Final = 2.0
#: Seconds between two starts: the worker that is forked ahead is ready after 0.1 s.
_REST: Final = 0.15
#: Starts of each contender, and crowds: with both the whole takes a minute, which is as long as a machine is quiet.
_ROUNDS: Final = 11
_CROWDS: Final = 1
#: Threads that bring up a crowd of ours.
_STARTERS: Final = 4


@attrs.frozen
class _Up:
    """A worker that has answered: its process id, and what ends it and waits for that."""

    pid: int
    end: Callable[[], object]


@attrs.frozen
class _Contender:
    """``bare`` brings up a process and hears its first word, ``one`` has it load what it must and answer, ``crowd`` does so many at once."""

    name: str
    bare: Callable[[], _Up]
    one: Callable[[], _Up]
    crowd: Callable[[int], list[_Up]]


# --- ours --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _ours(name: str, *, zygote: bool, sandbox: Sandbox = Sandbox.OFF) -> Iterator[_Contender]:
    with (
        hosting(Specs, zygote=zygote) as (levels, host),
        tempfile.TemporaryDirectory(prefix="bench-start-") as folder,
        ThreadPoolExecutor(_STARTERS) as threads,
    ):
        spec = one_file(Path(folder), "bench_echo:Echo", SOURCE, Confinement(sandbox=sandbox))

        def one() -> _Up:
            runner = levels.make(Isolation.PROCESS, spec)
            assert isinstance(runner, RemoteRunner)
            runner.start()
            if runner.call(Call("echo", (PAYLOAD,), index=0)) != PAYLOAD:
                raise RuntimeError(f"the worker of contender {name} answered something else")
            assert runner.pid is not None
            return _Up(runner.pid, runner.stop)

        def bare() -> _Up:
            enclosure = Enclosure() if sandbox is Sandbox.OFF else Walls(Isolation.PROCESS).around(spec, import_path(), host.scratch.new)
            child = launcher.launch(LaunchSpec("echo", tuple(sys.path)))
            os.write(child.send, frame(codec.encode(codec.Confine(enclosure.policy))))
            if not os.read(child.receive, 4096):
                raise RuntimeError(f"the worker of contender {name} ended")
            return _Up(child.pid, child.discard)

        launcher = ProcessLauncher(zygote=zygote)
        yield _Contender(name, bare, one, lambda count: list(threads.map(lambda _: one(), range(count))))
        launcher.close()


# --- peers -------------------------------------------------------------------------------------------------------------


def _peer(method: str) -> _Contender:
    context = multiprocessing.get_context(method)

    def begin() -> tuple[Connection, Any]:
        here, there = context.Pipe()
        process = context.Process(target=answer, args=(there,))
        process.start()
        there.close()
        here.send(PAYLOAD)
        return here, process

    def finish(here: Connection, process: Any) -> _Up:
        if here.recv() != PAYLOAD:
            raise RuntimeError(f"the worker of contender {method} answered something else")

        def end() -> None:
            here.send(None)
            process.join()
            process.close()
            here.close()

        return _Up(process.pid, end)

    return _Contender(
        method,
        lambda: finish(*begin()),
        lambda: finish(*begin()),
        lambda count: [finish(*begun) for begun in [begin() for _ in range(count)]],
    )


# --- measuring ---------------------------------------------------------------------------------------------------------


def _start(bring_up: Callable[[], _Up]) -> float:
    begun = time.perf_counter()
    up = bring_up()
    taken = time.perf_counter() - begun
    up.end()
    time.sleep(_REST)
    return taken


def _start_crowd(contender: _Contender) -> tuple[float, float]:
    """Return the seconds until all have answered, and the median of their private memory in MB."""
    begun = time.perf_counter()
    crowd = contender.crowd(_CROWD)
    taken = time.perf_counter() - begun
    memory = statistics.median(private_memory(up.pid) for up in crowd) / 1e6
    for up in crowd:
        up.end()
    return taken, memory


def _measure(contenders: Sequence[_Contender], rounds: int, crowds: int) -> tuple[list[Samples], dict[str, float]]:
    order = random.Random(0)
    for contender in contenders:
        _start(contender.bare)  # a zygote or a fork server is started with the first
        _start(contender.one)
    bares: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    ones: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    manies: dict[str, list[tuple[float, float]]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in order.sample(contenders, len(contenders)):
            bares[contender.name].append(_start(contender.bare))
            ones[contender.name].append(_start(contender.one))
    for _ in range(crowds):
        for contender in order.sample(contenders, len(contenders)):
            manies[contender.name].append(_start_crowd(contender))
    samples = [Samples(Case(_BARE, name, lambda _: 0.0), tuple(taken)) for name, taken in bares.items()]
    samples += [Samples(Case(_ONE, name, lambda _: 0.0), tuple(taken)) for name, taken in ones.items()]
    samples += [Samples(Case(_MANY, name, lambda _: 0.0), tuple(taken for taken, _ in many)) for name, many in manies.items() if many]
    return samples, {name: statistics.median(memory for _, memory in many) for name, many in manies.items() if many}


def run(about: str) -> int:
    """Measure and print; ``about`` is the help text."""
    crowds = ("--crowds", {"type": int, "default": _CROWDS, "help": "crowds of each contender (%(default)s); 0 leaves them out"})
    asked = options(about, None, crowds, default_rounds=_ROUNDS)
    with (
        _ours(_SUBJECT, zygote=True) as forked,
        _ours("forked, walls", zygote=True, sandbox=Sandbox.NATIVE) as walled,
        _ours("executed", zygote=False) as executed,
        _ours("executed, walls", zygote=False, sandbox=Sandbox.NATIVE) as executed_walled,
    ):
        ours = [forked, walled, executed, executed_walled]
        samples, memory = _measure([*ours, _peer("spawn"), _peer("forkserver")], asked.rounds, asked.crowds)
    targets = {key: target for key, target in _TARGETS.items() if key[0] != _MANY or memory}
    found = compare("From the wish for a worker to its first answer", _SUBJECT, samples, targets).document()
    own = memory.get(_SUBJECT)
    results = [Result(_MEMORY, own, "MB", name, peer, peer / own) for name, peer in memory.items() if own and name != _SUBJECT]
    if own is not None:
        results.append(Result(_MEMORY, own, "MB", at_most=_PRIVATE))
    return publish(Document(found.title, (*found.results, *results), _SUBJECT), to=asked.json, check=asked.check)
