"""What goes onto the two disks beside the interpreter's: what the host can import, and the code of one plugin."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final

from blackhole_core.executor.guest.interpreter import add_libraries, known_code, unchecked_code
from blackhole_core.executor.guest.libraries import LibraryFinder
from blackhole_core.executor.guest.tree import Tree
from blackhole_core.executor.importpath import beyond_library

__all__ = ["import_groups", "import_mark", "imports_tree", "plugin_mark", "plugin_tree"]

_INSTALLED: Final = ("site-packages", "dist-packages")
_METADATA: Final = (".dist-info", ".egg-info")


def import_groups(import_path: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the entries of an import path in groups for one disk each: environments, which are large and change seldom, and all others.

    Those that do not exist are left out, and the standard library, which is on the interpreter's disk.
    """
    entries = beyond_library(import_path)
    installed = tuple(entry for entry in entries if posixpath.basename(entry) in _INSTALLED)
    loose = tuple(entry for entry in entries if entry not in installed)
    return [group for group in (installed, loose) if group]


def import_mark(entries: Sequence[str]) -> bytes:
    """Return a digest of names, sizes and times of all that :func:`imports_tree` would take: it changes when one of them is changed.

    Takes 0.1 s for an environment of 25,000 files.
    """
    mark = hashlib.sha256()
    for entry in entries:
        mark.update(f"\0\0{entry}".encode(errors="surrogateescape"))
        for top in _tops(entry):
            for path in _below(top):
                mark.update(_facts(path))
    return mark.digest()


def imports_tree(entries: Sequence[str], libraries: LibraryFinder) -> tuple[Tree, list[str]]:
    """Return what can be imported from ``entries``, with byte code and the shared libraries of extension modules, and the names of missing libraries.

    :raises OSError: something cannot be read, or changed meanwhile.
    """
    tree = Tree()
    binaries: list[Path] = []
    for entry in entries:
        compiling = (
            posixpath.basename(entry) not in _INSTALLED
        )  # an installer has compiled what it installed; all of an environment takes minutes
        tree.add(entry)
        for top in _tops(entry):
            for path in _below(top):
                _add(tree, path, compiling)
                if ".so" in posixpath.basename(path):
                    binaries.append(Path(path))
    return tree, add_libraries(tree, libraries, binaries)


def plugin_tree(path: Path, packages: Sequence[str]) -> Tree:
    """Return the plugin's own files: its packages below ``path``, and what is known of its distribution.

    :raises OSError: something cannot be read.
    """
    tree = Tree()
    tree.add(path)
    for file in _code_of(path, packages):
        _add(tree, file, compiling=True)
    for file in _about(path):
        tree.add(file)
    return tree


def plugin_mark(path: Path, packages: Sequence[str]) -> bytes:
    """Return a digest of names, sizes and times of all that :func:`plugin_tree` would take, which takes a fraction of the time.

    :raises OSError: something cannot be read.
    """
    mark = hashlib.sha256()
    for file in (*_code_of(path, packages), *_about(path)):
        mark.update(_facts(file))
    return mark.digest()


def _code_of(path: Path, packages: Sequence[str]) -> Iterator[str]:
    """Yield the files of a plugin's packages."""
    for package in packages:
        where = path.joinpath(*package.split("."))
        for top in (where, *(where.with_name(where.name + suffix) for suffix in (".py", *EXTENSION_SUFFIXES))):
            if top.exists():
                yield from _below(str(top))


def _about(path: Path) -> Iterator[str]:
    """Yield the files that tell of its distribution."""
    if path.name not in _INSTALLED:
        for top in sorted(path.iterdir()):
            if top.name.endswith(_METADATA) or top.suffix == ".yaml":
                yield from _below(str(top))


def _facts(file: str) -> bytes:
    status = os.lstat(file)
    return f"\0{file} {status.st_size} {status.st_mtime_ns} {status.st_mode}".encode(errors="surrogateescape")


def _tops(entry: str) -> Iterator[str]:
    """Yield what is worth taking of one entry, sorted: all of an installation; elsewhere modules and packages, since a home directory may be an entry."""
    if not os.path.isdir(entry):  # noqa: PTH112 - thousands of them
        yield entry  # a zip file
        return
    installed = posixpath.basename(entry) in _INSTALLED
    for name in sorted(os.listdir(entry)):
        path = f"{entry.rstrip('/')}/{name}"
        if name == "__pycache__" or name.startswith("."):
            continue
        if installed or name.endswith((".py", *EXTENSION_SUFFIXES, *_METADATA)) or _is_package(path, name):
            yield path


def _is_package(path: str, name: str) -> bool:
    """Whether a directory is a package: with an ``__init__``, or a namespace of modules or of packages."""
    if not name.isidentifier() or not os.path.isdir(path):  # noqa: PTH112 - thousands of them
        return False
    with os.scandir(path) as found:
        return any(
            other.name.endswith(".py") or (other.is_dir() and os.path.exists(f"{other.path}/__init__.py"))  # noqa: PTH110 - thousands of them
            for other in found
        )


def _below(top: str) -> Iterator[str]:
    """Yield the files at and below ``top``, sorted; symbolic links to directories are not followed but lead out of the walk as they are."""
    if not os.path.isdir(top):  # noqa: PTH112 - thousands of them
        yield top
        return
    for where, directories, names in os.walk(top):
        directories[:] = sorted(name for name in directories if name != "__pycache__" and not name.startswith("."))
        for name in sorted(names):
            if os.path.exists(f"{where}/{name}"):  # noqa: PTH110 - else a dangling link
                yield f"{where}/{name}"


def _add(tree: Tree, path: str, compiling: bool) -> None:
    tree.add(path)
    if path.endswith(".py"):
        code = unchecked_code(path) if compiling else known_code(path)
        if code is not None:
            tree.make(importlib.util.cache_from_source(os.path.realpath(path)), code)
