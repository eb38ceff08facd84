"""What a benchmark found, row by row, whatever was measured: the values, the table for people, the JSON for programs.

A row is about the *subject* (mostly a part of Blackhole) and stands beside a peer or alone. It may have a target: so many times
faster than the peer (``at_least``), or no more than a limit in the row's own unit (``at_most``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import attrs
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe, versions

__all__ = ["Document", "Result", "number", "publish", "read", "scaled"]

#: Units of time and how many of them are a second; a figure is given in the largest in which it is at least 10, or else in ns.
_UNITS: Final = {"s": 1.0, "ms": 1e3, "µs": 1e6, "ns": 1e9}

#: Columns of a table that is not printed on a terminal.
_WIDTH: Final = 160

Verdict = Literal["met", "missed", ""]


@attrs.frozen
class Result:
    """One figure of the subject, beside one peer's or alone."""

    row: str
    median: float  #: the subject's, in ``unit``; most figures are medians, ``row`` says so where one is not
    unit: str
    beside: str = ""  #: the peer, "" where there is none
    peer: float | None = None  #: the peer's figure, in ``unit``
    ratio: float | None = None  #: how many times better than the peer, the median of the rounds' ratios; 2 = half the time
    spread: float | None = None  #: inter-quartile range of the subject's samples over their median
    at_least: float | None = None  #: the target for ``ratio``
    at_most: float | None = None  #: the target for ``median``
    note: str = ""

    @property
    def target(self) -> str:
        """The target in words, "" where there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g} times"
        return "" if self.at_most is None else f"≤ {self.at_most:g} {self.unit}".rstrip()

    @property
    def verdict(self) -> Verdict:
        """What became of the target."""
        if self.at_least is not None:
            return "met" if self.ratio is not None and self.ratio >= self.at_least else "missed"
        if self.at_most is not None:
            return "met" if self.median <= self.at_most else "missed"
        return ""

    def figure(self, value: float | None) -> str:
        """Return one of its figures for people."""
        return "" if value is None else f"{number(value)} {self.unit}".rstrip()

    def as_data(self) -> dict[str, Any]:
        """Return plain data; what is not there is left out."""
        given = attrs.asdict(self, filter=lambda field, value: field.default is attrs.NOTHING or value != field.default)
        found = {name: _rounded(value) for name, value in given.items()}
        return {**found, "verdict": self.verdict} if self.target else found


@attrs.frozen
class Document:
    """What one benchmark found. ``more`` is whatever else it wants to keep, plain data."""

    title: str
    results: tuple[Result, ...]
    subject: str = "blackhole"  #: whom the rows are about
    machine: Mapping[str, str] = attrs.field(factory=describe)
    versions: Mapping[str, str] = attrs.field(factory=versions)
    more: Mapping[str, Any] = attrs.field(factory=dict)

    def missed(self) -> list[str]:
        """Name the rows whose target was missed."""
        return [f"{result.row} ({result.target})" for result in self.results if result.verdict == "missed"]

    def as_data(self) -> dict[str, Any]:
        """Return plain data, which :func:`read` understands."""
        return {
            "title": self.title,
            "subject": self.subject,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "results": [result.as_data() for result in self.results],
            **self.more,
        }

    def as_table(self) -> Table:
        """Return the table for people, with the columns that are needed."""
        table = Table(title=self.title, caption=", ".join(f"{key} {value}" for key, value in self.machine.items()))
        shown = [(heading, cells) for heading, cells in columns(self) if any(cells)]
        for place, (heading, _cells) in enumerate(shown):
            table.add_column(heading, justify="left" if place == 0 or heading == "beside" else "right")
        for cells in zip(*(cells for _heading, cells in shown), strict=True):
            table.add_row(*cells)
        return table


def columns(found: Document) -> list[tuple[str, list[str]]]:
    """Return the columns of the table, with their headings; some may be empty."""
    results = found.results
    return [
        ("row", [result.row for result in results]),
        (found.subject, [result.figure(result.median) for result in results]),
        ("spread", ["" if result.spread is None else f"±{result.spread:.0%}" for result in results]),
        ("beside", [result.beside for result in results]),
        ("its figure", [result.figure(result.peer) for result in results]),
        ("times", ["" if result.ratio is None else number(result.ratio) for result in results]),
        ("target", [result.target for result in results]),
        ("", [result.verdict for result in results]),
        ("note", [result.note for result in results]),
    ]


def number(value: float) -> str:
    """Return three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def _rounded(value: Any) -> Any:
    """Return a figure with four significant digits: more would be noise."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def scaled(seconds: Iterable[float]) -> tuple[str, list[float]]:
    """Return the unit of time that suits the first of ``seconds``, and all of them in it."""
    given = list(seconds)
    unit = next((unit for unit, per_second in _UNITS.items() if given[0] * per_second >= 10), "ns")
    return unit, [one * _UNITS[unit] for one in given]


def publish(found: Document, *, to: Path | None, check: bool, lost: Sequence[str] = ()) -> int:
    """Print the table, or write the JSON (``-`` prints that instead), and return the exit status: 1 if ``check`` and something was missed.

    ``lost`` are rows without a target in which the subject should not have lost and did.
    """
    figures = json.dumps(found.as_data(), indent=2, ensure_ascii=False)
    if to == Path("-"):
        print(figures)
    else:
        console = Console()
        if not console.is_terminal:
            console.width = _WIDTH  # a file or a pipe has room for whole words
        console.print(found.as_table())
        if to is not None:
            to.write_text(figures + "\n")
    if lost and check:
        print(f"slower than a peer: {', '.join(lost)}")
    missed = found.missed()
    if missed and check:
        print(f"targets missed: {', '.join(missed)}")
    return 1 if check and (missed or lost) else 0


def read(data: Mapping[str, Any]) -> Document:
    """Return what :meth:`Document.as_data` was made from."""
    known = {field.name for field in attrs.fields(Result)}
    results = tuple(Result(**{name: value for name, value in result.items() if name in known}) for result in data["results"])
    more = {name: value for name, value in data.items() if name not in {"title", "machine", "versions", "results", "subject"}}
    return Document(data["title"], results, data["subject"], data["machine"], data["versions"], more)
