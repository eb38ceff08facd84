"""What stands in a plugin's source directories: which files count, their content as hashes, and what changed.

A file's content is judged by its sha256. Reading every file at every look would be wasteful, so a hash is kept as long as
the file's size, time and inode are the same *and the hash was taken well after that time*: a file edited in the second in
which it was hashed may look unchanged on a file system that counts whole seconds (git calls such entries racy).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

__all__ = ["Change", "Contents", "Look", "counts", "difference"]

#: Nanoseconds by which a hash must be younger than the file's time to be trusted: two ticks of the coarsest clock (FAT, 2 s).
_RACY_NS: Final = 4_000_000_000

_SECOND_NS: Final = 1_000_000_000

_IGNORED_DIRECTORIES: Final = frozenset({"__pycache__", "node_modules"})

#: Endings of what editors, tools and running plugins write beside sources; none of it is source or package data.
_IGNORED_ENDINGS: Final = (
    "~", ".bak", ".orig", ".part", ".rej", ".swo", ".swp", ".swx", ".tmp",  # editors and patch tools
    ".pyc", ".pyo", ".egg-info", ".dist-info",  # Python's
    ".db-journal", ".db-shm", ".db-wal", ".lock", ".log", ".pid", ".sock",  # programs at work
)  # fmt: skip

#: Stands for the content of a file that is there and cannot be read: becoming readable is then a change.
_UNREADABLE: Final = b"unreadable"

#: ``(size in bytes, mtime in ns, inode)``
Stamp = tuple[int, int, int]


@attrs.frozen
class Change:
    """Files that differ from what was reported last, as paths relative to the plugin's root, sorted.

    ``gone`` says that none of the plugin's directories exists any more; the file lists are empty then.
    """

    added: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    gone: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """All changed files, sorted."""
        return tuple(sorted((*self.added, *self.modified, *self.removed)))


@attrs.frozen
class Look:
    """One look at the directories: every file that counts, with its stamp. ``links`` are targets of symbolic links."""

    stamps: Mapping[str, Stamp]
    links: frozenset[str]
    exists: bool

    def rest_since(self, former: Look, now_ns: int) -> float:
        """Return for how many seconds the files that differ from ``former`` have not been written to.

        0 when files came or went (their own times say nothing about that), when a time lies in the future, and when it is a whole second: many file
        systems count no finer, so that the write may have been just now.
        """
        if self.stamps.keys() != former.stamps.keys():
            return 0.0
        written = [stamp[1] for file, stamp in self.stamps.items() if stamp != former.stamps[file]]
        if not written or any(time_ns % _SECOND_NS == 0 for time_ns in written):
            return 0.0
        return max(0.0, (now_ns - max(written)) / 1e9)


class Contents:
    """The files below ``roots`` (directories or single files). Owned by one thread at a time."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(root.absolute() for root in roots)
        self._hashes: dict[str, tuple[Stamp, int, bytes]] = {}  # path -> stamp, when it was hashed (ns), sha256

    def look(self) -> Look:
        """List the files that count. One that vanishes meanwhile is not listed."""
        stamps: dict[str, Stamp] = {}
        links: set[str] = set()
        for file in self._files():
            try:
                stamps[file] = _stamp(os.stat(file))  # noqa: PTH116  (thousands of them)
            except OSError:
                continue  # gone, or a link to nowhere: the next look tells
            if os.path.islink(file):  # noqa: PTH114 - thousands of them
                links.add(os.path.realpath(file))
        return Look(stamps, frozenset(links), any(root.exists() for root in self.roots))

    def hashes(self, look: Look) -> dict[str, bytes] | None:
        """Return relative path → sha256 for the files of ``look``; None when one changed since: look again."""
        found = {}
        for file, stamp in look.stamps.items():
            digest = self._hash(file, stamp)
            if digest is None:
                return None
            found[self.relative(file)] = digest
        for file in self._hashes.keys() - look.stamps.keys():
            del self._hashes[file]
        return found

    def relative(self, file: str) -> str:
        """Return a path of a look relative to its root (a root that is a file: its name), with ``/``."""
        for root in self.roots:
            if file == str(root):
                return root.name
            if file.startswith(f"{root}{os.sep}"):
                return file[len(str(root)) + 1 :].replace(os.sep, "/")
        return file

    def read(self, relative: str) -> tuple[str, bytes] | None:
        """Return the path and the content of a file by its relative path, None when it cannot be read."""
        for root in self.roots:
            file = root if root.is_file() and root.name == relative else root / relative
            try:
                return str(file), file.read_bytes()
            except OSError:
                continue
        return None

    def _hash(self, file: str, stamp: Stamp) -> bytes | None:
        known = self._hashes.get(file)
        if known is not None and known[0] == stamp and known[1] - stamp[1] > _RACY_NS:
            return known[2]
        hashed_at = time.time_ns()
        try:
            with open(file, "rb") as stream:  # noqa: PTH123 - thousands of them
                digest = hashlib.file_digest(stream, "sha256").digest()
                if _stamp(os.fstat(stream.fileno())) != stamp:
                    return None
        except FileNotFoundError:
            return None
        except OSError:
            digest = _UNREADABLE
        self._hashes[file] = (stamp, hashed_at, digest)
        return digest

    def _files(self) -> Iterator[str]:
        for root in self.roots:
            if root.is_file():
                yield str(root)
                continue
            seen: set[tuple[int, int]] = set()
            for place, below, names in os.walk(root, followlinks=True):
                if _been_here(place, seen):
                    below.clear()
                    continue
                below[:] = [name for name in below if counts_as_directory(name)]
                yield from (f"{place}{os.sep}{name}" for name in names if counts(name))


def counts(name: str) -> bool:
    """Say whether a file of that name can be source or package data."""
    hidden_or_emacs = name.startswith((".", "#"))
    vim_probe = name == "4913"  # vim creates and deletes a file of this name to see whether it may write
    return not hidden_or_emacs and not vim_probe and not name.endswith(_IGNORED_ENDINGS)


def counts_as_directory(name: str) -> bool:
    return not name.startswith(".") and name not in _IGNORED_DIRECTORIES and not name.endswith(_IGNORED_ENDINGS)


def difference(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Change | None:
    """Return what changed from one relative path → hash mapping to another, None for nothing."""
    change = Change(
        added=tuple(sorted(new.keys() - old.keys())),
        modified=tuple(sorted(file for file in new.keys() & old.keys() if new[file] != old[file])),
        removed=tuple(sorted(old.keys() - new.keys())),
    )
    return change if change.files else None


def _stamp(found: os.stat_result) -> Stamp:
    return (found.st_size, found.st_mtime_ns, found.st_ino)


def _been_here(place: str, seen: set[tuple[int, int]]) -> bool:
    """Notice a directory reached twice: a symbolic link that leads back up."""
    try:
        found = os.stat(place)  # noqa: PTH116 - thousands of them
    except OSError:
        return True
    key = (found.st_dev, found.st_ino)
    if key in seen:
        return True
    seen.add(key)
    return False
