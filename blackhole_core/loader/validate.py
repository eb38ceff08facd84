"""Checking a plugin's sources before anything is imported: nothing here executes plugin code or writes a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Final

from blackhole_core.errors import Problem
from blackhole_core.loader.find import find_elsewhere, find_in, find_root
from blackhole_core.loader.names import Names
from blackhole_core.loader.snapshot import Snapshot, compile_source, read_snapshot

__all__ = ["validate_sources"]


#: File → sha256 of its text that compiled last. A reload validates a whole tree of which one file changed: compiling all of 50 files takes 40 ms.
_compiled: Final[dict[str, bytes]] = {}

#: Files remembered at most; one takes about 200 bytes.
_MOST_COMPILED: Final = 10_000


def validate_sources(path: Path, packages: Sequence[str], entry: str) -> tuple[Problem, ...]:
    """Return every syntax error in the owned modules, and what keeps ``entry`` from being imported; empty when all is well.

    ``path``, ``packages`` and ``entry`` are those of :class:`~blackhole_core.loader.universe.Universe`. Whether the entry's *attribute*
    exists only importing can tell. A ``.py`` file whose name is no identifier is no module and is not read.
    """
    names = Names(packages, "validated")
    path = path.absolute()
    roots = {prefix: find_root(prefix, path) for prefix in names.prefixes}
    problems = [_missing_root(prefix, path) for prefix, root in roots.items() if root is None]
    found = {prefix: root for prefix, root in roots.items() if root is not None}
    snapshot = read_snapshot(found.values())
    problems += _syntax_errors(snapshot)
    module = entry.partition(":")[0]
    prefix = names.owner_prefix(module)
    if prefix is None:
        problems.append(_entry_problem(path, entry, f"a module in one of {', '.join(names.prefixes)}", module))
    elif prefix in found and not _exists(module, prefix, found[prefix], snapshot):
        problems.append(_entry_problem(path, entry, f"a module {module}", "no such module"))
    return tuple(problems)


def _syntax_errors(snapshot: Snapshot) -> Iterator[Problem]:
    for file in sorted(snapshot.files):
        text = snapshot.files[file]
        digest = hashlib.sha256(text).digest()
        if _compiled.get(file) == digest or not Path(file).stem.isidentifier():
            continue
        try:
            compile_source(text, file)
        except SyntaxError as error:
            yield Problem(file=file, line=error.lineno, path="", wanted="valid Python", got=f"{type(error).__name__}: {error.msg}")
        except (ValueError, MemoryError, RecursionError) as error:
            # Null bytes and nesting that is too deep for the parser; it does not say where.
            yield Problem(file=file, line=None, path="", wanted="valid Python", got=str(error) or "code nested too deeply")
        else:
            if len(_compiled) >= _MOST_COMPILED:
                _compiled.clear()
            _compiled[file] = digest


def _exists(module: str, prefix: str, root: ModuleSpec, snapshot: Snapshot) -> bool:
    """Follow the dotted name from the root down, as importing it would without a package changing its ``__path__``."""
    spec: ModuleSpec | None = root
    name = prefix
    for part in module[len(prefix) :].split(".")[1:]:
        name = f"{name}.{part}"
        locations = None if spec is None else spec.submodule_search_locations
        if not locations:
            return False
        in_directories = (find_in(name, location) for location in locations)
        spec = snapshot.find(name, locations) or next(filter(None, in_directories), None) or find_elsewhere(name, list(locations))
    return spec is not None


def _missing_root(prefix: str, path: Path) -> Problem:
    return Problem(file=str(path), line=None, path="packages", wanted=f"a package or module {prefix}", got="nothing of that name")


def _entry_problem(path: Path, entry: str, wanted: str, got: str) -> Problem:
    return Problem(file=str(path), line=None, path=f"entry {entry}", wanted=wanted, got=got)
