"""What the discovery index knows of one directory, and its form as text. Pure.

The form is our own, and plain, because reading it must cost less than a quarter of a millisecond with everything that it imports: ``json`` takes 1.6 ms to import, msgspec 10.
No separator can be part of what it separates: entry points come out of ``str.splitlines``, which breaks at all of them, and the names of
metadata directories are printable.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from blackhole_core.registry.indexstamp import Stamp, stamp_from_text, stamp_to_text

__all__ = ["FIELD", "GROUP", "PART", "POINTS", "Member", "NotPlain", "Table", "empty_table", "pairs", "table_from_text", "table_to_text"]

#: The file in which a distribution declares its entry points.
POINTS: Final = "entry_points.txt"

GROUP: Final = "\x1c"  #: before the section of a group
PART: Final = "\x1d"  #: between the parts of a table, or of an answer
FIELD: Final = "\x1e"  #: between fields, and around names


class NotPlain(Exception):
    """A directory in which something must be read by other rules than ours; ``importlib.metadata`` is asked in our place."""


class Member(NamedTuple):
    """A metadata directory with entry points of the group that was asked for."""

    place: str  #: its file name
    name: str  #: the distribution's, normalised
    stamp: Stamp | None  #: of its ``entry_points.txt``; None when that is among what is checked at every look anyway
    points: tuple[tuple[str, str], ...]  #: name and value of each


class Table(NamedTuple):
    """What a look needs of one directory."""

    directory: str
    stamp: Stamp
    seen: int  #: when that stamp was first seen (ns since boot), 0 once it is settled
    settled: bool  #: the directory and all that was read in it
    distributions: int  #: how many metadata directories there are
    checks: tuple[tuple[str, Stamp], ...]  #: what may change without a trace in the directory: path below it → stamp
    damaged: tuple[tuple[str, str], ...]  #: file name and name of those whose entry points cannot be made out
    names: str  #: the distributions' names, each between two separators
    groups: str  #: the sections of all groups

    def has(self, name: str) -> bool:
        """Tell whether a distribution of this (normalised) name is here."""
        return f"{FIELD}{name}{FIELD}" in self.names

    def members(self, group: str) -> list[Member]:
        """Return those with entry points of ``group``; of one name the first."""
        start = self.groups.find(f"{GROUP}{group}\n")
        if start < 0 or "\n" in group or GROUP in group:
            return []
        body = start + len(group) + 2
        end = self.groups.find(GROUP, body)
        return [_member(line) for line in self.groups[body : None if end < 0 else end].split("\n") if line]


def empty_table(directory: str, stamp: Stamp, seen: int) -> Table:
    """Return the table of a ``directory`` without distributions, which had ``stamp`` before it was listed."""
    return Table(directory, stamp, seen, settled=not seen, distributions=0, checks=(), damaged=(), names=FIELD, groups="")


def table_to_text(table: Table, clock: str) -> str:
    """Return ``table`` as text; ``clock`` says on which clock its moments are."""
    return PART.join(
        (
            clock,
            table.directory,
            stamp_to_text(table.stamp),
            str(table.seen),
            "1" if table.settled else "",
            str(table.distributions),
            FIELD.join(f"{path}{FIELD}{stamp_to_text(stamp)}" for path, stamp in table.checks),
            FIELD.join(f"{place}{FIELD}{name}" for place, name in table.damaged),
            table.names,
            table.groups,
        )
    )


def table_from_text(text: str) -> tuple[Table, str]:
    """Return the table and on which clock its moments are.

    :raises ValueError: this is no table.
    """
    clock, directory, stamp, seen, settled, count, checks, damaged, names, groups = text.split(PART)
    loose = tuple((path, stamp_from_text(was)) for path, was in pairs(checks.split(FIELD)))
    return Table(
        directory, stamp_from_text(stamp), int(seen), bool(settled), int(count), loose, pairs(damaged.split(FIELD)), names, groups
    ), clock


def _member(line: str) -> Member:
    place, name, stamp, *points = line.split(FIELD)
    return Member(place, name, stamp_from_text(stamp) if stamp else None, pairs(points))


def pairs(flat: list[str]) -> tuple[tuple[str, str], ...]:
    """Return the fields two by two; none of the one empty field that nothing was split into."""
    return () if flat == [""] else tuple(zip(flat[::2], flat[1::2], strict=True))
