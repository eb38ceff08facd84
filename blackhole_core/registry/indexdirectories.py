"""What lies in the directories of an import path: what is known of each, compared with what the file system says now, and read again where that does not hold."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from blackhole_core.registry.indexanswer import Declarer
from blackhole_core.registry.indexfile import IndexFiles
from blackhole_core.registry.indexfinders import asked, search
from blackhole_core.registry.indexstamp import NOTHING, Stamp, settle, stamp_at, stamp_of
from blackhole_core.registry.indextable import POINTS, Member, NotPlain, Table, empty_table, table_to_text

if TYPE_CHECKING:
    from blackhole_core.registry.indexscan import Record

__all__ = ["Directories"]

#: Entries of a directory, and metadata directories in it, from which on a file about it is quicker to read than itself.
_LARGE, _MANY = 48, 8


class Directories:
    """What is known of directories, in memory and in ``files``.

    Invariant: what is known of a directory is only ever used after its stamp was compared in the same call, and is replaced as a whole. So threads need no
    lock: two that look at once may read a directory twice, and an older reading that replaces a newer one is found out by its stamp.
    """

    def __init__(
        self, files: IndexFiles | None = None, *, deep: bool = False, read: bool = True, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """``deep``: nothing is believed without a look at each distribution; not ``read``: ``importlib.metadata`` is asked of each directory, each time."""
        self._files = files
        self._deep = deep
        self._reads = read
        self._clock = clock  # ns; the one that ``files`` were written by
        #: Directory → what is known of it: its table, and the text of its records (a tenth of their size), None while only the disk has that.
        self._known: dict[str, tuple[Table, str | None]] = {}

    def tables(self) -> list[Table]:
        """Return what is known in memory."""
        return [table for table, _records in list(self._known.values())]

    def piece(self, group: str, entry: str) -> tuple[Table | None, list[Declarer]]:
        try:
            table, fresh = self._look(entry)
            members = [] if table is None else table.members(group)
            if table is not None and not fresh and not _hold(entry, members):
                table = self._read(entry, table.stamp)
                members = [] if table is None else table.members(group)
        except NotPlain:
            return None, asked(search(entry), group)
        if table is None:
            return None, []
        found = [Declarer(member.name, _join(entry, member.place), member.points) for member in members]
        if table.damaged:
            found += [Declarer(name, _join(entry, place), (), damaged=True) for place, name in table.damaged]
        return table, found

    def _look(self, entry: str) -> tuple[Table | None, bool]:
        """Return what is in the directory ``entry`` (None: that is not ours to see), and whether all of it was read or compared just now.

        :raises NotPlain: ``importlib.metadata`` has to be asked.
        """
        if not self._reads:
            raise NotPlain(entry)
        try:
            found = os.stat(entry or os.curdir)  # noqa: PTH116  (asked of every entry of the path at every look)
        except (OSError, ValueError):
            return empty_table(entry, NOTHING, 0), True
        if not stat.S_ISDIR(found.st_mode) or entry.rpartition("/")[2].lower().endswith(".egg"):
            raise NotPlain(entry)
        stamp = stamp_of(found)
        if entry not in self._known and self._files is not None and _has_file(entry):
            table = self._files.read(entry)
            if table is not None:
                self._known[entry] = (table, None)
        known = self._known.get(entry)
        if known is not None and not self._deep and _holds(entry, known[0], stamp):
            return known[0], False
        return self._read(entry, stamp), True

    def _read(self, entry: str, stamp: Stamp) -> Table | None:
        """Read the directory ``entry``, which had ``stamp`` a moment ago; None when it cannot be listed.

        :raises NotPlain: ``importlib.metadata`` has to be asked.
        """
        now = self._clock()
        before, _text = self._known.get(entry, (None, None))
        seen = settle(now, before.seen if before is not None and before.stamp == stamp else None)
        try:
            names = os.listdir(entry or os.curdir)
            if _may_be_metadata(names):
                from blackhole_core.registry.indexscan import make_table, read_records, records_to_text  # half a millisecond

                records = read_records(entry or os.curdir, names, self._records(entry), now)
                table, text = make_table(entry, stamp, seen, records), records_to_text(records)
            else:
                table, text = empty_table(entry, stamp, seen), ""
        except OSError:
            self._known.pop(entry, None)
            return None
        self._known[entry] = (table, text)
        if self._files is not None and table != before and _has_file(entry) and (len(names) >= _LARGE or table.distributions >= _MANY):
            self._files.write(entry, table_to_text(table, self._files.clock), text)
        return table

    def _records(self, entry: str) -> dict[str, Record]:
        from blackhole_core.registry.indexscan import records_from_text

        _table, text = self._known.get(entry, (None, ""))
        if text is None:
            text = self._files.records(entry) if self._files is not None else ""
        return records_from_text(text)


def _may_be_metadata(names: Iterable[str]) -> bool:
    """Tell whether there may be a metadata directory among ``names``; in most directories of a path there is none."""
    return "-info\n" in "\n".join((*names, "")).lower()


def _has_file(entry: str) -> bool:
    """Tell whether there may be a file about ``entry``: a relative one is another directory in every process."""
    return entry.startswith("/") and entry.isprintable()


def _holds(entry: str, table: Table, stamp: Stamp) -> bool:
    """Tell whether a directory that has ``stamp`` now is as ``table`` says."""
    if not table.settled or table.stamp != stamp:
        return False
    return all(was != NOTHING and stamp_at(_join(entry, path)) == was for path, was in table.checks)


def _hold(entry: str, members: Iterable[Member]) -> bool:
    """Tell whether the files that declare entry points are as they were; those that :func:`_holds` compares have no stamp."""
    return all(stamp_at(_join(entry, f"{member.place}/{POINTS}")) == member.stamp for member in members if member.stamp)


def _join(entry: str, path: str) -> str:
    return f"{entry}/{path}" if entry else path
