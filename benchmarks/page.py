"""Write the tables and the chart of the page "How fast it is" from what benchmarks found: ``python -m benchmarks.page FILE.json … [--page PAGE.md]``.

A file is what ``python -m benchmarks … --json FILE`` wrote; of several that have the same benchmark the last one counts. On the page all between
``<!-- benchmarks: begin -->`` and ``<!-- benchmarks: end -->`` is replaced, nothing else; the chart stands beside it with the suffix ``.svg``. Benchmarks that
are on the page and in none of the files are kept: the figures of all of them lie in a JSON file beside the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.chart import chart
from benchmarks.results import Document, columns, number, read

__all__ = ["main", "tables", "with_tables"]

_PAGE: Final = Path(__file__).parent.parent / "docs" / "explanation" / "performance.md"
_BEGIN: Final = "<!-- benchmarks: begin -->"
_END: Final = "<!-- benchmarks: end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Be the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument("--page", type=Path, default=_PAGE, metavar="PAGE.md")
    options = parser.parse_args(arguments)
    page: Path = options.page
    kept = page.with_suffix(".json")
    figures: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for file in options.files:
        figures.update(json.loads(file.read_text()))
    documents = {name: read(data) for name, data in sorted(figures.items())}
    picture = page.with_suffix(".svg")
    page.write_text(with_tables(page.read_text(), tables(documents, picture.name)))
    picture.write_text(chart(documents.values()))
    kept.write_text(json.dumps(figures, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    return 0


def with_tables(page: str, made: str) -> str:
    """Return ``page`` with ``made`` between its marks.

    :raises ValueError: the page does not have the two marks, once each and in order.
    """
    before, begin, rest = page.partition(_BEGIN)
    _old, end, after = rest.partition(_END)
    if not begin or not end or _BEGIN in rest or _END in before + after:
        raise ValueError(f"the page needs the lines {_BEGIN} and {_END} once each, in this order: the tables go between them")
    return f"{before}{begin}\n\n{made}\n\n{end}{after}"


def tables(documents: Mapping[str, Document], picture: str) -> str:
    """Return the chart and a table for each benchmark, with where and when it was measured, as Markdown."""
    parts = [f"![How many times better than each peer, on a logarithmic scale]({picture})"]
    parts.append(
        "Bars to the right of 1 are better than the peer; green ones met their target, which is the upright mark, orange ones missed it."
    )
    if behind := missed(documents):
        parts += ["### Missed targets", "Every target that the tables below miss, with the figure that missed it.", behind]
    for name, document in documents.items():
        parts += [f"### {document.title}", _source(name, document), _table(document)]
    return "\n\n".join(parts)


def missed(documents: Mapping[str, Document]) -> str:
    """Return one table of all rows that missed their target, "" where none did; a target without a peer is told of once."""
    found = {
        (name, result.row, result.beside if result.at_least is not None else ""): result
        for name, document in documents.items()
        for result in document.results
        if result.verdict == "missed"
    }
    lines = [
        _line(
            (
                name,
                row,
                peer,
                f"{number(result.ratio)} times" if peer and result.ratio is not None else result.figure(result.median),
                result.target,
            )
        )
        for (name, row, peer), result in found.items()
    ]
    return "\n".join((_line(("benchmark", "row", "beside", "found", "target")), _line(["---"] * 5), *lines)) if lines else ""


def _source(name: str, document: Document) -> str:
    machine = dict(document.machine)
    where = f"{machine.pop('date', 'no date')}: {machine.pop('cpu', 'unknown processor')}, {machine.pop('cores', '?')} cores, "
    peers = {result.beside for result in document.results}
    versions = [f"{peer} {document.versions[peer.lower()]}" for peer in sorted(peers) if peer.lower() in document.versions]
    return f"`python -m benchmarks.{name}`, {where}{', '.join((*machine.values(), *versions))}."


def _table(document: Document) -> str:
    shown = [(heading, cells) for heading, cells in columns(document) if any(cells)]
    rows: Iterable[Sequence[str]] = zip(*(cells for _heading, cells in shown), strict=True)
    lines = [_line([heading if place else "" for place, (heading, _cells) in enumerate(shown)]), _line(["---"] * len(shown))]
    return "\n".join((*lines, *(_line(row) for row in rows)))


def _line(cells: Sequence[str]) -> str:
    kept_apart = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(kept_apart)} |"


if __name__ == "__main__":
    raise SystemExit(main())
