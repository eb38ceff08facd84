"""Which shared libraries a set of programs and extension modules needs on this machine, found as the dynamic loader finds them.

Nothing is executed for it: ``ldd`` runs the file's own loader.
"""

from __future__ import annotations

import mmap
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from blackhole_core.executor.guest.elf import MAGIC, Needs, NotElf, read_needs

__all__ = ["LibraryFinder"]

#: Where a loader looks when no cache names a library: the directories of multiarch, of 64-bit distributions and of musl.
_DIRECTORIES: Final = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
#: A line of ``ldconfig -p``: name, then in brackets the kind, then the path.
_CACHED: Final = re.compile(r"^\t(\S+) \(([^)]*)\) => (\S+)$", re.MULTILINE)
#: Seconds in which ldconfig prints its cache, which is one small file.
_PATIENCE: Final = 20.0


class LibraryFinder:
    """Finds libraries; the loader's cache is read once."""

    def __init__(self) -> None:
        self._cache: dict[str, str] | None = None

    def closure(self, files: Iterable[Path]) -> tuple[list[Path], list[str]]:
        """Return the paths of all libraries and loaders that ``files`` and what they need are linked with, sorted, and the names not found here.

        A file that is no ELF file needs nothing. A library among ``files`` is not repeated.
        """
        found: set[Path] = set()
        missing: set[str] = set()
        waiting: list[tuple[Path, tuple[str, ...]]] = [(file, ()) for file in files]
        seen = {file.resolve() for file, _ in waiting}
        while waiting:
            file, inherited = waiting.pop()
            needs = _needs(file)
            # DT_RPATH holds for what the libraries need in turn; DT_RUNPATH does not, but then it finds nothing there that they would not have had.
            search = (*_directories(needs, file), *inherited)
            wanted = {name: self.find(name, search) for name in (*needs.libraries, needs.loader) if name}
            missing |= {name for name, path in wanted.items() if path is None}
            for path in wanted.values():
                if path is None:
                    continue
                found.add(path)  # under every name: a program names its loader by one path, libraries by another
                if path.resolve() not in seen:
                    seen.add(path.resolve())
                    waiting.append((path, search))
        return sorted(found), sorted(missing)

    def find(self, name: str, search: Iterable[str] = ()) -> Path | None:
        """Return where the loader finds the library ``name``, in ``search`` first; None when it is not on this machine."""
        if "/" in name:
            return Path(name) if Path(name).exists() else None
        own = next((path for directory in search if (path := Path(directory, name)).exists()), None)
        if own is not None:
            return own
        if (cached := self._cached().get(name)) is not None:
            return Path(cached)
        return next((path for directory in _DIRECTORIES if (path := Path(directory, name)).exists()), None)

    def _cached(self) -> dict[str, str]:
        if self._cache is None:
            self._cache = _loader_cache()
        return self._cache


def _loader_cache() -> dict[str, str]:
    """Return the 64-bit libraries of ``ldconfig -p`` by name; nothing where there is no such program (musl)."""
    for program in ("ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig"):
        try:
            text = subprocess.run([program, "-p"], capture_output=True, text=True, timeout=_PATIENCE, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        pairs = [(name, path) for name, kind, path in _CACHED.findall(text) if "x86-64" in kind]
        return dict(reversed(pairs))  # the first of several is the one the loader takes
    return {}


def _directories(needs: Needs, file: Path) -> list[str]:
    origin = str(file.resolve().parent)
    return [directory.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for directory in needs.search]


def _needs(file: Path) -> Needs:
    with file.open("rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            return Needs()
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            try:
                return read_needs(data)
            except NotElf:
                return Needs()  # for another machine: nothing here can load it
