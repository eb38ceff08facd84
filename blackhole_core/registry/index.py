"""The discovery index: the entry points of a group in all installed distributions, without reading their files each time.

The answer is ``importlib.metadata``'s, from what the file system says now: every directory of the path is compared with what was known of it, and read again where
that cannot be shown to hold (:mod:`~blackhole_core.registry.indexstamp` and :mod:`~blackhole_core.registry.indexscan` have the rules). What is known is kept in memory and, for the
first look of the next process, on disk (:mod:`~blackhole_core.registry.indexfile`). What is no plain directory (a zip file, an egg, a finder of its own on ``sys.meta_path``) is
``importlib.metadata``'s to say, each time. No plugin is imported.

One change goes unseen unless ``BLACKHOLE_DISCOVERY_INDEX=deep``: an ``entry_points.txt`` that is edited by hand where an installer put it, so that its distribution
joins a group in which it had no entry point. To see that, every distribution must be asked for at every look, which takes ten times as long.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from blackhole_core.registry.indexanswer import Answer, Declarer, answer_from_text, answer_key, answer_to_text, make_answer
from blackhole_core.registry.indexfile import IndexFiles, cache_directory, machine
from blackhole_core.registry.indexstamp import NOTHING, Stamp, settle, stamp_at, stamp_of
from blackhole_core.registry.indextable import POINTS, Member, NotPlain, Table, empty_table, table_to_text

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from blackhole_core.registry.indexscan import Record

__all__ = [
    "VARIABLE",
    "Declarer",
    "DiscoveryIndex",
    "IndexedPoint",
    "Status",
    "clear_index",
    "declarers",
    "entry_points",
    "index_status",
    "the_index",
]

#: The environment variable that says how far the index is used.
VARIABLE: Final = "BLACKHOLE_DISCOVERY_INDEX"

#: Its values: in memory and on disk; the same, and every distribution's metadata is compared at every look; in memory only; not at all.
_MODES: Final = ("on", "deep", "memory", "off")

#: Answers that are kept in memory; a host asks for some groups on one path.
_MOST_ANSWERS: Final = 64

#: Entries of a directory, and metadata directories in it, from which on a file about it is quicker to read than itself.
_LARGE, _MANY = 48, 8


class IndexedPoint(NamedTuple):
    """An entry point: ``name = value`` in a ``group``, declared by a distribution."""

    name: str
    value: str
    group: str
    declarer: Declarer

    @property
    def dist(self) -> Distribution:
        """The distribution that declares it."""
        return self.declarer.distribution


class Status(NamedTuple):
    """What there is of the index."""

    mode: str  #: on, deep, memory or off
    directory: str | None  #: where it lies on disk; None when it does not
    directories: int  #: how many directories of import paths it knows
    distributions: int  #: how many distributions lie in them
    trouble: str  #: what keeps it from being kept on disk, or went wrong last


class DiscoveryIndex:
    """Answers who has entry points of a group.

    Invariant: what is known of a directory is only ever used after its stamp was compared in the same call, and is replaced as a whole. So threads need no
    lock: two that look at once may read a directory twice, and an older reading that replaces a newer one is found out by its stamp.
    """

    def __init__(self, files: IndexFiles | None = None, *, deep: bool = False, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.files = files
        self._deep = deep
        self._clock = clock  # ns; the one that ``files`` were written by
        #: Group and path → the last answer.
        self._answers: dict[str, Answer] = {}
        #: Directory → what is known of it: its table, and the text of its records (a tenth of their size), None while only the disk has that.
        self._known: dict[str, tuple[Table, str | None]] = {}

    def declarers(self, group: str, path: Sequence[str] | None = None) -> Iterator[Declarer]:
        """Yield the distributions on ``path`` (on ``sys.path`` and with all finders when it is None) that have entry points of ``group``.

        Of two distributions of one name the first counts. Damaged ones are among them, whatever they declare.
        """
        entries = _plain_entries(path)
        key = None if entries is None or self._deep else answer_key(group, entries)
        if key is None:
            yield from self._declared(group, path, [])
            return
        before = self._answers.get(key) or self._kept(key)
        if before is not None and before.holds():
            self._answers[key] = before
            yield from before.declarers
        else:
            yield from self._ask(key, group, entries, before)

    def _ask(self, key: str, group: str, path: Sequence[str] | None, before: Answer | None) -> list[Declarer]:
        """Ask the directories, and keep their answer."""
        tables: list[Table | None] = []
        begun = self._clock()
        found = list(self._declared(group, path, tables))
        known = [table for table in tables if table is not None]
        answer = make_answer(group, known, found, before, begun, self._clock()) if len(known) == len(tables) else None
        if answer is None:
            self._answers.pop(key, None)
            return found
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers = {}
        self._answers[key] = answer
        if self.files is not None and answer.kept and answer != before:
            self.files.keep_answer(key, answer_to_text(answer, key, self.files.machine, self.files.clock))
        return found

    def _kept(self, key: str) -> Answer | None:
        """Return the answer that is kept on disk."""
        text = "" if self.files is None else self.files.answer(key)
        if self.files is None or not text:
            return None
        try:
            read = answer_from_text(text, key, self.files.machine)
        except ValueError:
            self.files.trouble = f"an answer in {self.files.directory} cannot be made out; it is made anew"
            return None
        if read is None or (read[0].seen and read[1] != self.files.clock):
            return None
        return read[0]

    def _declared(self, group: str, path: Sequence[str] | None, tables: list[Table | None]) -> Iterator[Declarer]:
        """Yield them, and put the tables they come from into ``tables``: None for what is no plain directory."""
        names: set[str] = set()
        for table, found in self._pieces(group, path):
            for declarer in found:
                known = declarer.name in names or any(before is not None and before.has(declarer.name) for before in tables)
                if not known and (declarer.points or declarer.damaged):
                    yield declarer
                if table is None:
                    names.add(declarer.name)
            tables.append(table)

    def tables(self) -> list[Table]:
        """Return what is known in memory."""
        return [table for table, _records in list(self._known.values())]

    def _pieces(self, group: str, path: Sequence[str] | None) -> Iterator[tuple[Table | None, list[Declarer]]]:
        """Yield the table of a directory with those of ``group`` in it; or None with all distributions in something else."""
        if path is not None:
            yield from (self._piece(group, os.fsdecode(entry)) for entry in path)
            return
        searched = False
        for finder in list(sys.meta_path):
            find: Any = getattr(finder, "find_distributions", None)
            if find is None:
                continue
            if not _searches_the_path(finder):
                yield None, _asked(find(_context()), group)
            elif not searched:
                searched = True
                yield from (self._piece(group, os.fsdecode(entry)) for entry in list(sys.path))

    def _piece(self, group: str, entry: str) -> tuple[Table | None, list[Declarer]]:
        try:
            table, fresh = self._look(entry)
            members = [] if table is None else table.members(group)
            if table is not None and not fresh and not _hold(entry, members):
                table = self._read(entry, table.stamp)
                members = [] if table is None else table.members(group)
        except NotPlain:
            return None, _asked(_search(entry), group)
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
        try:
            found = os.stat(entry or os.curdir)  # noqa: PTH116  (asked of every entry of the path at every look)
        except (OSError, ValueError):
            return empty_table(entry, NOTHING, 0), True
        if not stat.S_ISDIR(found.st_mode) or entry.rpartition("/")[2].lower().endswith(".egg"):
            raise NotPlain(entry)
        stamp = stamp_of(found)
        if entry not in self._known and self.files is not None and _has_file(entry):
            table = self.files.read(entry)
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
        if self.files is not None and table != before and _has_file(entry) and (len(names) >= _LARGE or table.distributions >= _MANY):
            self.files.write(entry, table_to_text(table, self.files.clock), text)
        return table

    def _records(self, entry: str) -> dict[str, Record]:
        from blackhole_core.registry.indexscan import records_from_text

        _table, text = self._known.get(entry, (None, ""))
        if text is None:
            text = self.files.records(entry) if self.files is not None else ""
        return records_from_text(text)


def declarers(group: str, path: Sequence[str] | None = None) -> Iterator[Declarer]:
    """Yield the distributions that have entry points of ``group``, as :meth:`DiscoveryIndex.declarers`, by this process's index."""
    return the_index().declarers(group, path)


def entry_points(group: str, path: Sequence[str] | None = None) -> tuple[IndexedPoint, ...]:
    """Return the entry points of ``group``: those, and in the order, that ``importlib.metadata.entry_points(group=group)`` returns."""
    return tuple(IndexedPoint(name, value, group, declarer) for declarer in declarers(group, path) for name, value in declarer.points)


def the_index() -> DiscoveryIndex:
    """Return this process's index, as the environment wants it now.

    :raises ConfigError: the environment says something else than one of the modes.
    """
    environ = os.environ
    return _index_for(environ.get(VARIABLE, "on"), environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", ""))


def index_status() -> Status:
    """Return what there is of the index: on disk, or in memory when it is only there."""
    index = the_index()
    tables = index.tables() if index.files is None else index.files.tables()
    return Status(
        os.environ.get(VARIABLE, "on"),
        None if index.files is None else index.files.directory,
        len(tables),
        sum(table.distributions for table in tables),
        "" if index.files is None else index.files.obstacle() or index.files.trouble,
    )


def clear_index() -> int:
    """Remove the index from the disk and from this process; the next look makes it anew. Returns how many files there were.

    :raises OSError: they cannot be removed, or are not this user's.
    """
    files = the_index().files
    _index_for.cache_clear()
    return 0 if files is None else files.clear()


@lru_cache(maxsize=8)
def _index_for(mode: str, cache: str, home: str) -> DiscoveryIndex:
    if mode not in _MODES:
        from blackhole_core.errors import ConfigError, Problem

        wanted = f"one of {', '.join(_MODES)}"
        raise ConfigError([Problem(file="the environment", line=None, path=VARIABLE, wanted=wanted, got=repr(mode[:40]))])
    if mode == "off":
        return _NoIndex()
    where = cache_directory({"XDG_CACHE_HOME": cache, "HOME": home}) if mode != "memory" and hasattr(time, "CLOCK_BOOTTIME") else None
    name = machine() if where is not None else None
    if where is None or name is None:
        return DiscoveryIndex(deep=mode == "deep")
    return DiscoveryIndex(IndexFiles(where, name), deep=mode == "deep", clock=_since_boot)


class _NoIndex(DiscoveryIndex):
    """Asks ``importlib.metadata`` for everything, each time."""

    def _look(self, entry: str) -> tuple[Table | None, bool]:
        raise NotPlain(entry)


def _since_boot() -> int:
    """Return ns since this machine was started, asleep or awake: the one clock that all processes share and nobody sets."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


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


# --- what importlib.metadata is asked -------------------------------------------------------------------------------------


def _plain_entries(path: Sequence[str] | None) -> list[str] | None:
    """Return the entries of ``path``, of ``sys.path`` when it is None; None when there are finders that have distributions elsewhere."""
    if path is None:
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_distributions")]
        if not finders or not all(map(_searches_the_path, finders)):
            return None
        path = sys.path
    return [entry if type(entry) is str else os.fsdecode(entry) for entry in path]


def _searches_the_path(finder: object) -> bool:
    """Tell whether a finder does nothing but search the path: the standard library's, or the backport's that takes its place."""
    return getattr(finder, "__module__", "") in ("_frozen_importlib_external", "importlib.metadata", "importlib_metadata")


def _context(**searched: Any) -> Any:
    from importlib.metadata import DistributionFinder

    return DistributionFinder.Context(**searched)


def _search(entry: str) -> Iterable[Any]:
    """Return the distributions at ``entry``, an egg or a zip file perhaps."""
    from importlib.metadata import MetadataPathFinder

    # It remembers listings by the directory's time of change, and takes no care of changes that share one.
    MetadataPathFinder().invalidate_caches()
    return MetadataPathFinder.find_distributions(_context(path=[entry]))


def _asked(distributions: Iterable[Any], group: str) -> list[Declarer]:
    """Return all ``distributions`` that have a name, with their entry points of ``group``."""
    found = []
    for known in distributions:
        try:
            name = getattr(known, "_normalized_name", None) or known.metadata["Name"]
        # Neither the directory's name has it nor a METADATA: what a removal left behind. Python 3.12 and 3.13 warn of that, and a warning may be an error.
        except (OSError, ValueError, TypeError, KeyError, DeprecationWarning):
            continue
        try:
            points = tuple((point.name, point.value) for point in known.entry_points if point.group == group)
            found.append(Declarer(name, "", points, found=known))
        except (ValueError, TypeError):  # not UTF-8, or a line that is no entry point
            found.append(Declarer(name, "", (), damaged=True, found=known))
    return found
