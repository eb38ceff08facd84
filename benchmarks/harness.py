"""Measure things side by side: all peers in one run, rounds in random order, medians, ratios per round.

A *case* is one contender in one row of the table; its ``loop(n)`` does the thing ``n`` times and returns the seconds that took.
Each round takes one sample of every case, in an order drawn anew, so that what the machine does meanwhile hits all of them alike.
A ratio is the median over the rounds of the ratios within each round. Timings never decide a test; ``--check`` is for people.

Most benchmarks are a list of cases given to :func:`main`. One that measures something else fills a
:class:`~benchmarks.results.Document` and calls :func:`~benchmarks.results.publish`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import timeit
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.results import Document, Result, publish, scaled

__all__ = ["Case", "Loop", "Report", "Row", "Samples", "Targets", "burst", "compare", "main", "measure", "options", "rested", "statement"]

#: Does a thing so many times and returns the seconds it took.
Loop = Callable[[int], float]

#: (row, peer) → how many times faster than that peer the subject must be in that row.
Targets = Mapping[tuple[str, str], float]

#: Seconds that one sample should take: a thousand times the clock's resolution, and short enough that a time slice is lost rarely.
_SAMPLE: Final = 0.004

#: Operations before anything is measured.
_WARM_UP: Final = 10

#: Rounds; the median of 31 moves less than 2 % between runs here.
_ROUNDS: Final = 31

#: Samples are taken at stack depths drawn anew. CPython keeps Python frames in chunks of 16 KiB; where a loop's calls happen to
#: cross from one chunk into the next, each of them allocates a chunk (seen: 2.0 µs became 9.5 µs, for whoever stood there).
_DEPTHS: Final = 120


@attrs.frozen
class Case:
    """One contender in one row."""

    row: str
    contender: str
    loop: Loop = attrs.field(eq=False)


@attrs.frozen
class Samples:
    """Seconds per operation, one sample per round."""

    case: Case
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds per operation."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Inter-quartile range over the median: 0.05 means that half of the samples lie within 5 %."""
        if len(self.seconds) < 2:
            return 0.0
        low, _middle, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / self.median


@attrs.frozen
class Row:
    """One row: every contender's samples and how many times faster than each the subject is."""

    name: str
    samples: Mapping[str, Samples]
    ratios: Mapping[str, float]


@attrs.frozen
class Report:
    """What one run found. ``subject`` is the contender that the ratios are about: 2.0 means that it takes half the time."""

    title: str
    subject: str
    rows: tuple[Row, ...]
    targets: Targets = attrs.field(factory=dict)
    machine: Mapping[str, str] = attrs.field(factory=describe)

    def document(self) -> Document:
        """Return a row for the subject beside each peer (alone, where there is none)."""
        return Document(self.title, tuple(result for row in self.rows for result in self._results(row)), self.subject, self.machine)

    def _results(self, row: Row) -> Iterator[Result]:
        own = row.samples.get(self.subject)
        if own is None:
            return
        peers = [(name, samples) for name, samples in row.samples.items() if name != self.subject]
        if not peers:
            unit, [median] = scaled([own.median])
            yield Result(row.name, median, unit, spread=own.spread)
        for name, samples in peers:
            unit, [median, peer] = scaled([own.median, samples.median])
            at_least = self.targets.get((row.name, name))
            yield Result(row.name, median, unit, name, peer, row.ratios[name], own.spread, at_least)

    def as_data(self) -> dict[str, Any]:
        """Return plain data, see :class:`~benchmarks.results.Result`."""
        return self.document().as_data()

    def as_table(self) -> Table:
        """Return the table for people."""
        return self.document().as_table()

    def slower(self) -> list[str]:
        """Name the rows without a target in which the subject takes longer than another contender."""
        return [
            row.name for row in self.rows if any(ratio < 1.0 and (row.name, peer) not in self.targets for peer, ratio in row.ratios.items())
        ]


def statement(source: str, namespace: Mapping[str, Any], *, clock: Callable[[], float] = time.thread_time) -> Loop:
    """Return the loop of one statement. ``thread_time`` suits work in this thread, ``perf_counter`` anything that waits."""
    return timeit.Timer(source, timer=clock, globals=dict(namespace)).timeit


def burst(call: Callable[[], object]) -> Loop:
    """Return a loop in which one call follows the other."""

    def loop(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            call()
        return time.perf_counter() - begun

    return loop


def rested(call: Callable[[], object], pause: float) -> Loop:
    """Return a loop with ``pause`` seconds before each call, which are not counted."""

    def loop(count: int) -> float:
        taken = 0.0
        for _ in range(count):
            time.sleep(pause)
            begun = time.perf_counter()
            call()
            taken += time.perf_counter() - begun
        return taken

    return loop


def measure(cases: Sequence[Case], *, rounds: int = _ROUNDS, sample: float = _SAMPLE, seed: int = 0) -> list[Samples]:
    """Take ``rounds`` samples of every case, each about ``sample`` seconds long, in an order drawn anew for every round."""
    order = random.Random(seed)
    counts = [_enough(case.loop, sample) for case in cases]
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for index in order.sample(range(len(cases)), len(cases)):
            taken = _deeper(order.randrange(_DEPTHS), cases[index].loop, counts[index])
            seconds[index].append(taken / counts[index])
    return [Samples(case, tuple(taken)) for case, taken in zip(cases, seconds, strict=True)]


def compare(title: str, subject: str, samples: Sequence[Samples], targets: Targets | None = None) -> Report:
    """Put samples into rows and compute the ratios to ``subject``, round by round.

    :raises ValueError: a target is about a row or a peer that was not measured.
    """
    rows: dict[str, dict[str, Samples]] = {}
    for taken in samples:
        rows.setdefault(taken.case.row, {})[taken.case.contender] = taken
    unknown = [f"{row!r} beside {peer}" for row, peer in targets or {} if peer not in rows.get(row, {})]
    if unknown:
        raise ValueError(f"there are targets for what was not measured: {', '.join(unknown)}")
    return Report(title, subject, tuple(Row(name, row, _ratios(subject, row)) for name, row in rows.items()), targets or {})


def options(
    about: str | None,
    arguments: Sequence[str] | None = None,
    *more: tuple[str, dict[str, Any]],
    default_rounds: int = _ROUNDS,
    default_sample: float = _SAMPLE,
) -> argparse.Namespace:
    """Parse what every benchmark understands: ``rounds``, ``sample``, ``json``, ``check``; and ``more``: a name and what ``add_argument`` takes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=default_rounds, help="samples of each contender (%(default)s)")
    parser.add_argument("--sample", type=float, default=default_sample, help="seconds per sample (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there ('-' prints them instead of the table)")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 if a target is missed, or a row without one is slower than a peer"
    )
    for name, how in more:
        parser.add_argument(name, **how)
    return parser.parse_args(arguments)


def main(
    title: str,
    subject: str,
    cases: Sequence[Case],
    arguments: Sequence[str] | None = None,
    *,
    known_slower: Collection[str] = (),
    targets: Targets | None = None,
    default_sample: float = _SAMPLE,
) -> int:
    """Be the command line of one benchmark: measure, print, and with ``--json`` write.

    The exit status is 0 unless ``--check`` finds that a target was missed, or a row without one, other than ``known_slower``, in which the
    subject loses.
    """
    asked = options(title, arguments, default_sample=default_sample)
    report = compare(title, subject, measure(cases, rounds=asked.rounds, sample=asked.sample), targets)
    lost = [row for row in report.slower() if row not in known_slower]
    return publish(report.document(), to=asked.json, check=asked.check, lost=lost)


def _enough(loop: Loop, sample: float) -> int:
    """Return how often the loop must go round to take about ``sample`` seconds."""
    loop(_WARM_UP)  # what is compiled or connected at the first call would make the thing look slow
    count = 1
    while (taken := loop(count)) < sample / 4:
        count *= 2
    return max(1, round(count * sample / taken))


def _deeper(depth: int, loop: Loop, count: int) -> float:
    return loop(count) if depth == 0 else _deeper(depth - 1, loop, count)


def _ratios(subject: str, row: Mapping[str, Samples]) -> dict[str, float]:
    own = row.get(subject)
    if own is None:
        return {}
    return {
        name: statistics.median(other / mine for other, mine in zip(samples.seconds, own.seconds, strict=True))
        for name, samples in row.items()
        if name != subject
    }
