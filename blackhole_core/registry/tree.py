"""Source trees: which files of a project directory are the plugin's code, and their digest.

Rules: hidden files, caches, virtual environments, build output, tests and documentation are not code. A link that leads out of the tree is refused: what
lies behind it would be loaded without being seen here. Nothing is written.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from blackhole_core.errors import SourceError
from blackhole_core.registry.candidate import Origin
from blackhole_core.registry.describe import Code
from blackhole_core.registry.digest import code_digest, hash_file
from blackhole_core.registry.layout import MANIFEST_NAME, belongs, owned_packages

__all__ = ["refuse_open_to_all", "tree_code"]

#: Files of one source tree: ten times the largest plugin we know of; a larger tree is a home directory or a mistake.
MAX_FILES: Final = 20_000

#: Directories that are never a plugin's code, at any depth.
_NEVER: Final = frozenset({"__pycache__", "node_modules"})
#: Directories at the top of a project that are not its code, unless an entry point leads into them.
_NOT_CODE: Final = (
    "test",
    "tests",
    "testing",
    "doc",
    "docs",
    "build",
    "dist",
    "example",
    "examples",
    "benchmarks",
    "*.egg-info",
    "*.dist-info",
)
#: Modules at the top of a project that are tools of its author.
_TOOLS: Final = ("setup.py", "conftest.py", "noxfile.py", "tasks.py", "fabfile.py", "test_*.py", "*_test.py")


def tree_code(
    root: Path,
    *,
    origin: Origin,
    source: Path,
    needed: Sequence[str],
    distribution: str | None = None,
    version: str | None = None,
    manifest: Path | None = None,
    only: str | None = None,
) -> Code:
    """Return the code in ``root``, the directory that is imported from.

    ``needed`` are the modules of the entry points: their packages count as code whatever they are called. ``only`` restricts the code to one
    package. Raises :class:`~blackhole_core.errors.SourceError`.
    """
    refuse_open_to_all(source)
    tops = {module.split(".")[0] for module in needed}
    listed = _walk(root, tops, only)
    packages = owned_packages(listed)
    files = {name for name in listed if belongs(name, packages)}
    hashes = [(name, hash_file(root / name)) for name in files]
    if manifest is not None:
        hashes.append((MANIFEST_NAME, hash_file(manifest)))
    return Code(
        origin=origin,
        source=source,
        base=root,
        files=files - {MANIFEST_NAME},
        packages=packages,
        digest=code_digest(set(hashes)),
        distribution=distribution,
        version=version,
        manifest=manifest,
    )


def refuse_open_to_all(path: Path) -> None:
    """Raise :class:`~blackhole_core.errors.SourceError` when everybody on this machine may write to ``path``: they could put code into the host."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SourceError(f"{path} cannot be looked at: {error.strerror}") from error
    if mode & stat.S_IWOTH:
        raise SourceError(
            f"{path} can be written by everybody on this machine (mode {stat.S_IMODE(mode):04o}); run chmod o-w on it to use it"
        )


def _walk(root: Path, tops: set[str], only: str | None) -> list[str]:
    """Return the files below ``root``, relative with ``/``; with ``only``, those in the directory of that name.

    Names are strings here and what the listing tells of an entry is not asked again: every save of a watched plugin comes through here.
    """
    inside = root.resolve()
    found: list[str] = []
    below = [""]
    while below:
        prefix = below.pop()
        for entry in _listing(f"{root}{os.sep}{prefix}"):
            top = None if prefix else tops
            if top is not None and only not in (None, entry.name):
                continue
            is_directory = entry.is_dir()
            if not (_is_code_directory(entry, top) if is_directory else _is_code_file(entry.name, top)):
                continue
            if entry.is_symlink():
                _refuse_leading_out(Path(entry.path), inside)
            if not is_directory and entry.is_file():
                found.append(prefix + entry.name)
            elif is_directory and not entry.is_symlink():
                below.append(f"{prefix}{entry.name}/")
        if len(found) > MAX_FILES:
            raise SourceError(f"{root} holds more than {MAX_FILES} files; name the plugin's own directory")
    return found


def _listing(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []  # deleted since its parent was listed
    except OSError as error:
        raise SourceError(f"its directory {folder} cannot be listed: {error.strerror}") from error


def _is_code_directory(entry: os.DirEntry[str], tops: set[str] | None) -> bool:
    name = entry.name
    if name.startswith(".") or name in _NEVER or os.path.exists(f"{entry.path}{os.sep}pyvenv.cfg"):  # noqa: PTH110  (see _walk)
        return False
    if tops is None or name in tops:
        return True
    return not any(fnmatch.fnmatch(name, pattern) for pattern in _NOT_CODE)


def _is_code_file(name: str, tops: set[str] | None) -> bool:
    if name.startswith(".") or name.endswith((".pyc", "~")):
        return False
    if tops is None or name.partition(".")[0] in tops:
        return True
    return not any(fnmatch.fnmatch(name, pattern) for pattern in _TOOLS)


def _refuse_leading_out(link: Path, inside: Path) -> None:
    target = link.resolve()
    if not target.is_relative_to(inside):
        raise SourceError(f"{link} is a link that leads out of the source tree, to {target}; copy the file, or name the real directory")
