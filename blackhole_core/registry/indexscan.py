"""One directory of the import path, read: which distributions lie in it, and what their ``entry_points.txt`` say. Imports no plugin.

What was read before is taken again where it can be shown to hold (:func:`read_records`). Installers replace metadata directories as a whole and write ``RECORD`` last; that
shows in the directory above. Where it cannot be relied on (no ``RECORD``: an installation in progress, an egg-info directory, a package of the operating system; a symbolic link) a record
is *loose*, and its stamp is compared at every look. ``docs/adr/0016-discovery-index.md`` explains the rules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from blackhole_core.registry.indexstamp import NOTHING, Stamp, settle, stamp_at, stamp_from_text, stamp_of, stamp_to_text
from blackhole_core.registry.indextable import FIELD, GROUP, POINTS, NotPlain, Table

__all__ = ["Record", "make_table", "name_of", "parse_points", "read_records", "records_from_text", "records_to_text"]

#: Bytes of an ``entry_points.txt``; the largest we know has 60 kB. A larger one counts as damaged.
_MOST_BYTES: Final = 1 << 20

_ENDINGS: Final = (".dist-info", ".egg-info")
_RUNS: Final = re.compile(r"[-_.]+")


class Record(NamedTuple):
    """A metadata directory as it was read."""

    place: str  #: its file name
    name: str  #: the distribution's, normalised
    stamp: Stamp  #: of its ``entry_points.txt`` when there is one, else of the directory itself
    seen: int  #: when this stamp was first seen (ns since boot), 0 once it is settled
    has_points: bool  #: there is an ``entry_points.txt``
    loose: bool  #: it may change without a trace in the directory above it
    damaged: bool  #: the ``entry_points.txt`` cannot be read
    points: tuple[str, ...]  #: group, name, value, group, name, value, …


def name_of(place: str) -> str:
    """Return a distribution's name in the one spelling ``importlib.metadata`` compares, from the name of its metadata directory."""
    return _RUNS.sub("_", place.rpartition(".")[0].partition("-")[0]).lower()


def parse_points(text: str) -> tuple[str, ...]:
    """Return group, name, value, group, name, value, … of an ``entry_points.txt``, as ``importlib.metadata`` reads it.

    :raises ValueError: a line in a group is no ``name = value``.
    """
    points: list[str] = []
    group = None
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            group = line.strip("[]")
        elif group is not None:
            name, equals, value = line.partition("=")
            if not equals:
                raise ValueError(f"wanted name = value, got {line[:100]!r}")
            points += (group, name.strip(), value.strip())
    return tuple(points)


def read_records(directory: str, names: Iterable[str], known: Mapping[str, Record], now: int) -> list[Record]:
    """Read the metadata directories among ``names``, the entries of ``directory``.

    ``known`` (by place) is what was read of them before, ``now`` is ns on the clock of ``Record.seen``. What is settled and has its stamp still is not read
    again: that is one ``stat`` each. The order is that of ``importlib.metadata``: as the directory lists them, those of one name together.

    :raises NotPlain: ask ``importlib.metadata`` about this directory.
    """
    by_name: dict[str, list[Record]] = {}
    for place in names:
        if not place.lower().endswith(_ENDINGS):
            continue
        path, record = f"{directory}/{place}", known.get(place)
        if record is not None:
            name = record.name
        # The name must be read from METADATA where it is not in the file name: "-ame-1.0.dist-info" is what an old pip was about to remove.
        elif not (name := name_of(place)) or not place.endswith(_ENDINGS) or not place.isprintable():
            raise NotPlain(place)
        if record is None or record.seen or not _holds(path, record):
            record = _read(path, place, name, record, now)
        by_name.setdefault(name, []).append(record)
    return [record for records in by_name.values() for record in records]


def _holds(path: str, record: Record) -> bool:
    return stamp_at(f"{path}/{POINTS}" if record.has_points else path) == record.stamp


def _read(path: str, place: str, name: str, before: Record | None, now: int) -> Record:
    """Read one metadata directory. What is not ours to read declares nothing, as for ``importlib.metadata``; it is looked at each time."""
    stamp = stamp_at(path)  # taken before anything is read, so that what changes meanwhile shows
    points: tuple[str, ...] | None = ()
    has_points = True
    whole = place.endswith(".dist-info") and not os.path.islink(path)  # noqa: PTH114  (paths are text here: Path objects are slow)
    try:
        stamp, points = _read_points(f"{path}/{POINTS}")
        whole = whole and _is_there(f"{path}/RECORD")
    except FileNotFoundError:
        has_points = False
        # RECORD comes with the wheel and may be unpacked before entry_points.txt; INSTALLER is written when all is unpacked.
        whole = whole and _is_there(f"{path}/RECORD") and _is_there(f"{path}/INSTALLER")
    except OSError:
        whole, stamp = False, stamp_at(f"{path}/{POINTS}")
        if stamp == NOTHING:  # an egg-info file, or a directory that is closed to us
            has_points, stamp = False, stamp_at(path)
    seen = settle(now, before.seen if before is not None and before.stamp == stamp else None)
    return Record(place, name, stamp, seen, has_points, not whole, points is None, points or ())


def _is_there(path: str) -> bool:
    return stamp_at(path) != NOTHING


def _read_points(path: str) -> tuple[Stamp, tuple[str, ...] | None]:
    """Return the stamp of an ``entry_points.txt`` and what it says, None when that cannot be made out.

    :raises OSError: it is missing, or not ours to read.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe in its place must not hold us up
    try:
        found = os.fstat(file)
        data = os.read(file, min(found.st_size, _MOST_BYTES) + 1)  # to its end, and a byte more than it says it has
    finally:
        os.close(file)
    if len(data) > _MOST_BYTES or len(data) != found.st_size:  # or it is being written
        return stamp_of(found), None
    try:
        return stamp_of(found), parse_points(data.decode())
    except ValueError:  # not UTF-8, or a line that is none
        return stamp_of(found), None


def make_table(directory: str, stamp: Stamp, seen: int, records: Iterable[Record]) -> Table:
    """Return the table of ``directory``, which had ``stamp`` before ``records`` were read in it."""
    names: dict[str, None] = {}
    checks: list[tuple[str, Stamp]] = []
    damaged: list[tuple[str, str]] = []
    groups: dict[str, list[str]] = {}
    settled, count = not seen, 0
    for record in records:
        count += 1
        settled = settled and not record.seen
        name = record.name
        if record.loose:
            checks.append((f"{record.place}/{POINTS}" if record.has_points else record.place, record.stamp))
        if name not in names:  # of two of one name the first counts, whatever it declares
            if record.damaged:
                damaged.append((record.place, name))
            for group, points in _by_group(record.points).items():
                head = (record.place, name, "" if record.loose else stamp_to_text(record.stamp))
                groups.setdefault(group, []).append(FIELD.join((*head, *points)))
        names[name] = None
    sections = "".join(f"{GROUP}{group}\n" + "".join(f"{line}\n" for line in lines) for group, lines in groups.items())
    return Table(
        directory, stamp, seen, settled, count, tuple(checks), tuple(damaged), FIELD + "".join(f"{name}{FIELD}" for name in names), sections
    )


def records_to_text(records: Iterable[Record]) -> str:
    """Return ``records`` as text, one line each."""
    return "".join(f"{FIELD.join(_record_fields(record))}\n" for record in records)


def records_from_text(text: str) -> dict[str, Record]:
    """Return place → record.

    :raises ValueError: these are no records.
    """
    records = (_record(line.split(FIELD)) for line in text.split("\n") if line)
    return {record.place: record for record in records}


def _record_fields(record: Record) -> tuple[str, ...]:
    flags = ("p" if record.has_points else "") + ("l" if record.loose else "") + ("d" if record.damaged else "")
    return (record.place, record.name, stamp_to_text(record.stamp), str(record.seen), flags, *record.points)


def _record(fields: list[str]) -> Record:
    place, name, stamp, seen, flags, *points = fields
    return Record(place, name, stamp_from_text(stamp), int(seen), "p" in flags, "l" in flags, "d" in flags, tuple(points))


def _by_group(points: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Return group → name, value, name, value, …"""
    groups: dict[str, list[str]] = {}
    for index in range(0, len(points), 3):
        groups.setdefault(points[index], []).extend(points[index + 1 : index + 3])
    return groups
