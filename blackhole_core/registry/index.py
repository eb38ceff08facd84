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
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from blackhole_core.registry.indexanswer import Answer, Declarer, answer_from_text, answer_key, answer_to_text, make_answer
from blackhole_core.registry.indexdirectories import Directories
from blackhole_core.registry.indexfile import IndexFiles, cache_directory, machine
from blackhole_core.registry.indexfinders import asked, context, plain_entries, searches_the_path
from blackhole_core.registry.indextable import Table

if TYPE_CHECKING:
    from importlib.metadata import Distribution

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

    Invariant: an answer is only ever given after all that it rests on was compared in the same call. So threads need no lock: two that ask at once may do the
    work twice.
    """

    def __init__(
        self, files: IndexFiles | None = None, *, deep: bool = False, read: bool = True, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.files = files
        self.directories: Final = Directories(files, deep=deep, read=read, clock=clock)
        self._deep = deep
        self._clock = clock  # ns; the one that ``files`` were written by
        #: Group and path → the last answer.
        self._answers: dict[str, Answer] = {}

    def declarers(self, group: str, path: Sequence[str] | None = None) -> Iterator[Declarer]:
        """Yield the distributions on ``path`` (on ``sys.path`` and with all finders when it is None) that have entry points of ``group``.

        Of two distributions of one name the first counts. Damaged ones are among them, whatever they declare.
        """
        entries = plain_entries(path)
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

    def _pieces(self, group: str, path: Sequence[str] | None) -> Iterator[tuple[Table | None, list[Declarer]]]:
        """Yield the table of a directory with those of ``group`` in it; or None with all distributions in something else."""
        if path is not None:
            yield from (self.directories.piece(group, os.fsdecode(entry)) for entry in path)
            return
        searched = False
        for finder in list(sys.meta_path):
            find: Any = getattr(finder, "find_distributions", None)
            if find is None:
                continue
            if not searches_the_path(finder):
                yield None, asked(find(context()), group)
            elif not searched:
                searched = True
                yield from (self.directories.piece(group, os.fsdecode(entry)) for entry in list(sys.path))


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
    tables = index.directories.tables() if index.files is None else index.files.tables()
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
        return DiscoveryIndex(read=False)
    where = cache_directory({"XDG_CACHE_HOME": cache, "HOME": home}) if mode != "memory" and hasattr(time, "CLOCK_BOOTTIME") else None
    name = machine() if where is not None else None
    if where is None or name is None:
        return DiscoveryIndex(deep=mode == "deep")
    return DiscoveryIndex(IndexFiles(where, name), deep=mode == "deep", clock=_since_boot)


def _since_boot() -> int:
    """Return ns since this machine was started, asleep or awake: the one clock that all processes share and nobody sets."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
