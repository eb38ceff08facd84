"""The source text of a generation, read once: what its modules are compiled from, however late they are imported.

A development tree changes under a running plugin, and ``pip install -U`` overwrites an installed one. A module that the old
generation imports for the first time after that must still be the old text, and Python's ``.pyc`` cannot be trusted: it
is valid when the source's size and its time *in whole seconds* agree, which is true of most quick edits.

A :class:`Snapshot` answers the two questions the import system asks of a directory: is there such a module, and what is
its text. What it does not hold (C extensions, zip files, directories outside the plugin) is found by Python's own finders.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import CodeType
from typing import Final

from blackhole_core.loader.codes import compiled
from blackhole_core.loader.find import find_roots
from blackhole_core.loader.sourcelines import SourceFile

__all__ = ["Snapshot", "Sources", "compile_source", "read_snapshot", "read_sources"]

#: Paths are strings here: they are compared with what ``__path__`` and ``co_filename`` hold, and made by the thousand.
_SEPARATOR: Final = os.sep


class Snapshot:
    """Source files by path, and the directories they were read from; ``codes`` fills up as modules are compiled.

    ``sources`` holds the file names that the code is compiled under: see :mod:`.sourcelines`.
    """

    __slots__ = ("codes", "directories", "files", "sources")

    def __init__(self, files: Mapping[str, bytes], directories: Mapping[str, frozenset[str]]) -> None:
        self.files = files
        self.directories = directories
        self.codes: dict[str, CodeType] = {}
        self.sources: dict[str, SourceFile] = {file: SourceFile(file, text) for file, text in files.items()}

    def find(self, name: str, path: Iterable[str]) -> ModuleSpec | None:
        """Return the spec of the module ``name`` (canonical) when a directory of ``path`` holds its source."""
        tail = name.rpartition(".")[2]
        for entry in path:
            names = self.directories.get(entry)
            if names is None:
                return None  # an earlier entry is not ours to answer for: the whole search is Python's
            package = _join(entry, tail)
            init = _join(package, "__init__.py")
            if init in self.files:
                return importlib.util.spec_from_file_location(name, init, submodule_search_locations=[package])
            if any(tail + suffix in names for suffix in EXTENSION_SUFFIXES):
                return None
            module = _join(entry, tail + ".py")
            if module in self.files:
                return importlib.util.spec_from_file_location(name, module)
        return None

    def lacks(self, found: ModuleSpec) -> bool:
        """Say whether ``found`` lies where everything was read and is not held: it came to the disk later."""
        if found.origin is not None:
            return found.origin.endswith(".py") and found.origin not in self.files and self._covers(found.origin)
        places = found.submodule_search_locations or []  # a namespace package
        return bool(places) and all(place not in self.directories and self._covers(place) for place in places)

    def _covers(self, file: str) -> bool:
        place = file.rpartition(_SEPARATOR)[0]
        while place and place not in self.directories:
            place = place.rpartition(_SEPARATOR)[0]
        return bool(place)

    def code(self, file: str) -> CodeType:
        """Return the compiled module of a held file, with the file's own path in tracebacks and breakpoints."""
        code = self.codes.get(file)
        if code is None:
            code = self.codes[file] = compile_source(self.files[file], self.sources[file])
        return code

    def reuse(self, older: Snapshot) -> None:
        """Take over the name, and the compiled code, of every file whose text is the same in ``older``."""
        for file, text in older.files.items():
            if self.files.get(file) == text:
                self.sources[file] = older.sources[file]
                if file in older.codes:
                    self.codes[file] = older.codes[file]


def compile_source(text: bytes, file: str) -> CodeType:
    """Compile a module as importing it would; the code has the very object ``file`` as its file name. Nothing is compiled twice."""
    code = compiled(text, str(file))
    return code if type(file) is str else _named(code, file)


def _named(code: CodeType, file: str) -> CodeType:
    """Return ``code``, and all code in it, with the very object ``file`` as its file name."""
    constants = tuple(_named(value, file) if isinstance(value, CodeType) else value for value in code.co_consts)
    return code.replace(co_filename=file, co_consts=constants)


def read_snapshot(roots: Iterable[ModuleSpec]) -> Snapshot:
    """Read every source file below the given top-level modules and packages into memory."""
    files: dict[str, bytes] = {}
    directories: dict[str, frozenset[str]] = {}
    for root in roots:
        if root.submodule_search_locations is not None:
            for location in root.submodule_search_locations:
                _read_tree(location, files, directories)
        if root.origin is not None and root.origin.endswith(".py"):
            _read_file(root.origin, files)
    return Snapshot(files, directories)


#: What a universe finds at load: the specs of its roots, and the snapshot.
Sources = tuple[dict[str, ModuleSpec], Snapshot]


def read_sources(path: Path, packages: Iterable[str]) -> Sources:
    """Find ``packages``, in the directory ``path`` first, and read every source file of them."""
    roots = find_roots(packages, path.absolute())
    return roots, read_snapshot(roots.values())


def _read_tree(top: str, files: dict[str, bytes], directories: dict[str, frozenset[str]]) -> None:
    if top in directories:
        return
    for place, below, names in os.walk(top):
        # What is no identifier cannot be imported: __pycache__ can, but holds no source.
        below[:] = [name for name in below if name.isidentifier() and name != "__pycache__"]
        directories[place] = frozenset(names)
        for name in names:
            if name.endswith(".py"):
                _read_file(_join(place, name), files)


def _read_file(file: str, files: dict[str, bytes]) -> None:
    try:
        with open(file, "rb", buffering=0) as stream:  # noqa: PTH123  (a string path; see _SEPARATOR)
            files[file] = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        # Deleted between listing and reading, or inside a zip file: importing it works or says so, as without a snapshot.
        return


def _join(directory: str, name: str) -> str:
    return f"{directory}{_SEPARATOR}{name}"
