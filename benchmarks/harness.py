"""Measure things side by side: all peers in one run, rounds in random order, medians, ratios per round.

A *case* is one contender in one row of the table; its ``loop(n)`` does the thing ``n`` times and returns the seconds that took.
Each round takes one sample of every case, in an order drawn anew, so that what the machine does meanwhile hits all of them alike.
A ratio is the median over the rounds of the ratios within each round. Timings never decide a test; ``--check`` is for people.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
import timeit
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from rich.console import Console
from rich.table import Table

__all__ = ["Case", "Loop", "Report", "Row", "Samples", "compare", "main", "measure", "statement"]

#: Does a thing so many times and returns the seconds it took.
Loop = Callable[[int], float]

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
    machine: Mapping[str, str]

    def as_data(self) -> dict[str, Any]:
        """Return plain data; times in nanoseconds per operation."""
        return {
            "title": self.title,
            "subject": self.subject,
            "machine": dict(self.machine),
            "rows": [
                {
                    "name": row.name,
                    "nanoseconds": {name: round(samples.median * 1e9, 1) for name, samples in row.samples.items()},
                    "spread": {name: round(samples.spread, 3) for name, samples in row.samples.items()},
                    "times_faster": {name: round(ratio, 2) for name, ratio in row.ratios.items()},
                }
                for row in self.rows
            ],
        }

    def as_table(self) -> Table:
        """Return the table for people."""
        table = Table(title=self.title, caption=", ".join(f"{key} {value}" for key, value in self.machine.items()))
        table.add_column("")
        contenders = list(dict.fromkeys(name for row in self.rows for name in row.samples))
        for name in contenders:
            table.add_column(name, justify="right")
        for name in contenders:
            if name != self.subject:
                table.add_column(f"times {name}", justify="right", style="bold")
        for row in self.rows:
            times = [_cell(row.samples.get(name)) for name in contenders]
            ratios = [_times(row.ratios.get(name)) for name in contenders if name != self.subject]
            table.add_row(row.name, *times, *ratios)
        return table

    def slower(self) -> list[str]:
        """Name the rows in which the subject takes longer than another contender."""
        return [row.name for row in self.rows if any(ratio < 1.0 for ratio in row.ratios.values())]


def statement(source: str, namespace: Mapping[str, Any], *, clock: Callable[[], float] = time.thread_time) -> Loop:
    """Return the loop of one statement. ``thread_time`` suits work in this thread, ``perf_counter`` anything that waits."""
    return timeit.Timer(source, timer=clock, globals=dict(namespace)).timeit


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


def compare(title: str, subject: str, samples: Sequence[Samples]) -> Report:
    """Put samples into rows and compute the ratios to ``subject``, round by round."""
    rows: dict[str, dict[str, Samples]] = {}
    for taken in samples:
        rows.setdefault(taken.case.row, {})[taken.case.contender] = taken
    return Report(title, subject, tuple(Row(name, row, _ratios(subject, row)) for name, row in rows.items()), _machine())


def main(
    title: str, subject: str, cases: Sequence[Case], arguments: Sequence[str] | None = None, *, known_slower: Collection[str] = ()
) -> int:
    """Be the command line of one benchmark: measure, print, and with ``--json`` write.

    The exit status is 0 unless ``--check`` finds a row, other than ``known_slower``, in which the subject loses.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--sample", type=float, default=_SAMPLE, help="seconds per sample")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there ('-' prints them instead of the table)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if any row is slower than a peer")
    options = parser.parse_args(arguments)
    report = compare(title, subject, measure(cases, rounds=options.rounds, sample=options.sample))
    figures = json.dumps(report.as_data(), indent=2)
    if options.json == Path("-"):
        print(figures)
    else:
        Console().print(report.as_table())
        if options.json is not None:
            options.json.write_text(figures + "\n")
    slower = [row for row in report.slower() if row not in known_slower]
    if slower and options.check:
        print(f"slower than a peer: {', '.join(slower)}")
        return 1
    return 0


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


def _machine() -> dict[str, str]:
    return {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}", "date": time.strftime("%Y-%m-%d")}


def _cell(samples: Samples | None) -> str:
    if samples is None:
        return "-"
    nanoseconds = samples.median * 1e9
    time_text = f"{nanoseconds:,.0f} ns" if nanoseconds < 100_000 else f"{nanoseconds / 1e6:,.2f} ms"
    return f"{time_text} ±{samples.spread:.0%}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
