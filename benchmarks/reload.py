"""Save a file, and the next call is answered by new code: ``python -m benchmarks.reload [--rounds N] [--files N …] [--json FILE] [--check]``.

Each contender is a process of its own with a plugin of its own (:mod:`benchmarks.reload_peers.tree`); all of them stand ready at once. Each
round makes one edit for every contender, in an order drawn anew and at a moment drawn anew, and takes the time from closing the file to the
return of the first call that is answered by new code. What each contender reloads differs: Blackhole the whole plugin as a new generation,
``importlib.reload`` the saved module, IPython and jurigged the saved functions, uvicorn its process (with an application of one file).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Case, Report, Samples, compare
from benchmarks.reload_peers.drivers import Driver, InProcess, Server

__all__ = ["Target", "main", "measure"]

_SUBJECT: Final = "blackhole none"

#: What is measured, in the order of the table: name → contender, and the package it needs.
_IN_PROCESS: Final = {
    _SUBJECT: ("none", "blackhole_core"),
    "blackhole process": ("process", "blackhole_core"),
    "importlib.reload": ("importlib.reload", "watchfiles"),
    "IPython autoreload": ("IPython", "IPython"),
    "jurigged": ("jurigged", "jurigged"),
    "hmr": ("hmr", "reactivity"),
}

#: Seconds between two edits: what follows an answer (the old generation ends) is over, and the moment is unrelated to any timer.
_REST: Final = (0.05, 0.15)

#: Edits per contender before anything is measured.
_WARM_UP: Final = 3


@attrs.frozen
class Target:
    """A promise about one row: what it is about, the limit, and what was measured (both in ``unit``)."""

    what: str
    limit: float
    got: float
    unit: str

    @property
    def met(self) -> bool:
        return self.got <= self.limit

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'MISSED'} {self.what}: {self.got:.3g} {self.unit} (at most {self.limit:g})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the command line. The exit status is 0 unless ``--check`` finds a target missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="edits per contender and size")
    parser.add_argument("--files", type=int, nargs="+", default=[10, 16, 50], help="Python files of the plugin")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there ('-' prints them instead of the tables)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args(arguments)
    samples = [taken for files in options.files for taken in measure(files, options.rounds)]
    report = compare("Close of a saved file to the first answer of new code", _SUBJECT, samples)
    found = targets(report)
    figures = json.dumps(as_data(report, found), indent=2)
    if options.json == Path("-"):
        print(figures)
    else:
        show(report, found)
        if options.json is not None:
            options.json.write_text(figures + "\n")
    return 1 if options.check and not all(target.met for target in found) else 0


def measure(files: int, rounds: int, *, seed: int = 0) -> list[Samples]:
    """Take ``rounds`` samples of every contender that is installed, with a plugin of ``files`` files."""
    order = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="bench-reload-") as folder, contextlib.ExitStack() as opened:
        drivers = [opened.enter_context(driver) for driver in _drivers(Path(folder), files)]
        seconds: dict[str, list[float]] = {driver.name: [] for driver in drivers}
        for number in range(1, rounds + _WARM_UP + 1):
            for driver in order.sample(drivers, len(drivers)):
                time.sleep(order.uniform(*_REST))
                taken = driver.edit(number)
                if number > _WARM_UP:
                    seconds[driver.name].append(taken)
    return [Samples(Case(_row(files), name, lambda _count: 0.0), tuple(taken)) for name, taken in seconds.items()]


def _drivers(folder: Path, files: int) -> list[Driver]:
    drivers: list[Driver] = [
        InProcess(name, contender, folder, files)
        for name, (contender, package) in _IN_PROCESS.items()
        if importlib.util.find_spec(package) is not None
    ]
    if importlib.util.find_spec("uvicorn") is not None:
        drivers.append(Server(folder))
    return drivers


def _row(files: int) -> str:
    return f"{files} files"


def targets(report: Report) -> list[Target]:
    """Return what issue 3 promises, with what was measured."""
    found = []
    for row in report.rows:
        own = row.samples[_SUBJECT].seconds
        if row.name == _row(16):
            found.append(Target("16 files, p50", 30, statistics.median(own) * 1e3, "ms"))
            found.append(Target("16 files, p95", 50, percentile(own, 95) * 1e3, "ms"))
        if row.name == _row(50):
            found.append(Target("50 files, p50", 100, statistics.median(own) * 1e3, "ms"))
            found.append(Target("50 files, p95", 100, percentile(own, 95) * 1e3, "ms"))
        for peer, limit in (("jurigged", 0.5), ("uvicorn", 0.1)):
            if peer in row.ratios:
                found.append(Target(f"{row.name}, of {peer}'s time", limit, 1 / row.ratios[peer], "times"))
    return found


def percentile(seconds: Sequence[float], percent: int) -> float:
    """Return the smallest sample that is not below ``percent`` % of all."""
    ranked = sorted(seconds)
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


def as_data(report: Report, found: Sequence[Target]) -> Mapping[str, Any]:
    """Return plain data: the report's own, and p50, p95 and max in ms per row and contender."""
    return {
        **report.as_data(),
        "milliseconds": {row.name: {name: _figures(samples.seconds) for name, samples in row.samples.items()} for row in report.rows},
        "targets": [{"what": target.what, "limit": target.limit, "got": round(target.got, 3), "met": target.met} for target in found],
    }


def _figures(seconds: Sequence[float]) -> dict[str, float]:
    values = {"p50": statistics.median(seconds), "p95": percentile(seconds, 95), "max": max(seconds)}
    return {name: round(value * 1e3, 1) for name, value in values.items()}


def show(report: Report, found: Sequence[Target]) -> None:
    """Print a table per size, and what became of the targets."""
    console = Console()
    caption = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    for row in report.rows:
        table = Table(title=f"{report.title}: {row.name}, {len(row.samples[_SUBJECT].seconds)} edits", caption=caption)
        for heading in ("", "p50 ms", "p95 ms", "max ms", f"times {_SUBJECT}"):
            table.add_column(heading, justify="right" if heading else "left")
        for name, samples in row.samples.items():
            ratio = f"{row.ratios[name]:.2f}" if name in row.ratios else ""
            table.add_row(name, *(f"{value:.1f}" for value in _figures(samples.seconds).values()), ratio)
        console.print(table)
    for target in found:
        print(target)


if __name__ == "__main__":
    raise SystemExit(main())
