"""From a worker's death to its caller's error, and to the next answer: ``python -m benchmarks.crash [--rounds N] [--json FILE] [--check]``.

In each round every contender, in an order drawn anew, answers a call, is then made to die in the middle of one (SIGKILL), and answers again. Taken are the seconds from
that call to the error in its caller, and from the error to the next answer. Ours is a plugin at level process in a whole manager: a new worker is brought up, loads
the plugin and tells it to start. The peers' workers have a function to import. pebble, loky and ``concurrent.futures`` are with one worker each; what the
caller must do after a crash to be answered again is part of the time.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import blackhole_core as bh
from benchmarks.crash_peers import PEERS, Contender
from benchmarks.harness import options
from benchmarks.results import Document, Result, publish

#: Crashes of each contender: the 99th percentile is then not the worst one.
_ROUNDS: Final = 200
#: Targets, ms: from a crash to the typed error in 99 of 100 cases, and from there to the next answer.
_ERROR_P99: Final = 50.0
_ANSWER: Final = 30.0
#: Seconds between a crash and the next one: restarts in quick succession wait on purpose, and a spare worker is ready after 0.1 s.
_REST: Final = 0.15

_SOURCE: Final = """
import os, signal, time
import pluggy
hookimpl = pluggy.HookimplMarker("bench")
class Crasher:
    @hookimpl
    def echo(self, value):
        if value == "die":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(30)  # the signal ends it; it must not answer first
        return value
"""
_MANIFEST: Final = "name: crasher\nversion: 1.0.0\nentry: bench_crasher:Crasher\nisolation: process\n"


class _Specs:
    @bh.HookspecMarker("bench")
    def echo(self, value: Any) -> Any:
        """Return ``value``."""
        raise NotImplementedError


@contextlib.contextmanager
def _ours() -> Iterator[Contender]:
    patient = {"poison_deaths": 0, "restart": {"intensity": 1000, "period": 0.01, "delay": 0, "max_delay": 0}}
    with tempfile.TemporaryDirectory(prefix="bench-crash-") as folder, bh.PluginManager("bench", config=patient) as pm:
        pm.on_event(lambda event: None)  # deaths are wanted here, and no news for the log
        pm.add_hookspecs(_Specs)
        Path(folder, "bench_crasher.py").write_text(_SOURCE)
        Path(folder, "plugin.yaml").write_text(_MANIFEST)
        pm.load("crasher", source=folder)

        def crash() -> None:
            try:
                pm.hook.echo(value="die")
            except bh.WorkerDied:
                return
            raise RuntimeError("our worker was not killed")

        yield Contender("blackhole", crash, lambda: pm.hook.echo(value=1), lambda: None)


def _sample(contender: Contender) -> tuple[float, float]:
    """Return the seconds from a call that kills the worker to its error, and from there to the next answer."""
    contender.answer()
    time.sleep(_REST)
    begun = time.perf_counter()
    contender.crash()
    told = time.perf_counter()
    contender.answer()
    return told - begun, time.perf_counter() - told


def _measure(contenders: list[Contender], rounds: int) -> dict[str, list[tuple[float, float]]]:
    order = random.Random(0)
    taken: dict[str, list[tuple[float, float]]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in order.sample(contenders, len(contenders)):
            taken[contender.name].append(_sample(contender))
    return taken


def _percentile(seconds: list[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


def _rows(taken: dict[str, list[tuple[float, float]]]) -> Iterator[Result]:
    for name, parts, percent, target in (
        ("crash to typed error, median", slice(0, 1), 50, None),
        ("crash to typed error, 99th percentile", slice(0, 1), 99, _ERROR_P99),
        ("error to next answer, median", slice(1, 2), 50, _ANSWER),
        ("crash to next answer, median", slice(0, 2), 50, None),
        ("crash to next answer, 99th percentile", slice(0, 2), 99, None),
    ):
        figures = {
            contender: _percentile([sum(sample[parts]) for sample in samples], percent) * 1e3 for contender, samples in taken.items()
        }
        own = figures.pop("blackhole")
        for peer, figure in figures.items():
            yield Result(name, own, "ms", peer, figure, figure / own, at_most=target)


def main() -> int:
    """Be the command line."""
    asked = options(__doc__, default_rounds=_ROUNDS)
    with _ours() as ours:
        contenders = [ours, *(peer() for peer in PEERS)]
        try:
            taken = _measure(contenders, asked.rounds)
        finally:
            for contender in contenders:
                contender.end()
    return publish(Document("A worker's death", tuple(_rows(taken))), to=asked.json, check=asked.check)


if __name__ == "__main__":
    raise SystemExit(main())
