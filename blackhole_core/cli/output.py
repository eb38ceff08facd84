"""What commands print: JSON documents for programs, tables for people.

Text from plugins may hold anything; control characters never reach the terminal.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["as_table", "clean", "console", "json_option", "print_json", "print_json_line", "print_table"]

#: What would move the cursor, change the colours or hide text: C0 (but for tab and newline), DEL, C1, bidi controls.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

#: Columns where output goes to a file or pipe: wide enough that no table is ever cut.
_WIDE: Final = 4096

#: The option of every command that reads.
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def clean(text: str) -> str:
    """Return ``text`` with control characters shown as escapes; lone surrogates too, which no terminal can be sent."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text).encode("utf-8", "backslashreplace").decode()


def print_json(value: Any) -> None:
    """Print ``value`` as one JSON document."""
    click.echo(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print ``value`` as one line of JSON, at once."""
    click.echo(json.dumps(value))
    sys.stdout.flush()


def console(*, stderr: bool = False) -> Console:
    """Return a console for people: as wide as the terminal, or never cutting when it is none."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, emoji=False, width=_WIDE)
    return console


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under headings, or the sentence ``empty``. None is shown as a dash."""
    texts = _cells(rows)
    if not texts:
        click.echo(empty)
    elif sys.stdout.isatty():
        console().print(_rich_table(headings, texts))
    else:
        for line in _aligned([list(headings), *texts]):
            click.echo(line)


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    """Yield lines with columns that begin at the same place, as programs and diffs want them: never cut, no colours, no trailing blanks."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def as_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> Table | str:
    """Return what :func:`print_table` prints on a terminal."""
    texts = _cells(rows)
    return _rich_table(headings, texts) if texts else empty


def _cells(rows: Iterable[Sequence[object]]) -> list[list[str]]:
    return [["-" if cell is None else clean(str(cell)) for cell in row] for row in rows]


def _rich_table(headings: Sequence[str], rows: list[list[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
