"""An installed distribution as code: which files are its own, where it is imported from, which plugins it declares. Nothing is imported."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from blackhole_core.errors import BlackholeError, SourceError
from blackhole_core.registry.candidate import Discovery, Origin, Unusable
from blackhole_core.registry.describe import Code, describe_all
from blackhole_core.registry.digest import code_digest, hash_file
from blackhole_core.registry.distributions import location
from blackhole_core.registry.entrypoints import entry_groups
from blackhole_core.registry.layout import module_file, owned_packages
from blackhole_core.registry.tree import tree_code

if TYPE_CHECKING:
    from importlib_metadata import IDistribution

__all__ = ["plugins_of"]

#: Written by the installer, not by the plugin's author: not part of what identifies the code.
_INSTALLERS: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})


def plugins_of(distribution: IDistribution, group: str) -> Discovery:
    """Return the plugins that ``distribution`` declares in ``group``, and what is wrong with it; nothing for one that is half installed or removed."""
    try:
        text = distribution.read_text("entry_points.txt") or ""
        if group not in text:
            return Discovery()
        name, version = str(distribution.metadata["Name"]), str(distribution.metadata["Version"])
    except (FileNotFoundError, KeyError):
        return Discovery()  # without METADATA, or without these in it: an installer has not written it yet, or is removing it
    except UnicodeDecodeError as error:
        return _damaged(distribution, group, error)
    try:
        entries = entry_groups(text).get(group, {})
        if not entries:
            return Discovery()
        code = _code(distribution, name, version, entries.values())
    except BlackholeError as error:
        return Discovery((), (Unusable(name, location(distribution), error),))
    return describe_all(code, entries)


def _damaged(distribution: IDistribution, group: str, error: UnicodeDecodeError) -> Discovery:
    """Return what is wrong with metadata that is not UTF-8, if it may be about ``group`` at all."""
    place = location(distribution)
    declared = place / "entry_points.txt"
    if not declared.is_file() or group.encode() not in declared.read_bytes():
        return Discovery()
    name = place.name.partition("-")[0]
    return Discovery((), (Unusable(name, place, SourceError(f"its metadata is not readable: {error}; install it again")),))


def _code(distribution: IDistribution, name: str, version: str, values: Iterable[str]) -> Code:
    record = _record(distribution)
    base = Path(str(distribution.locate_file("")))
    project = _editable_project(distribution)
    modules = [value.partition(":")[0].strip() for value in values]
    if project is not None:
        root = _editable_root(base, record, project, modules)
        return tree_code(root, origin=Origin.INSTALLED, source=project, needed=modules, distribution=name, version=version)
    files = {file for file in record if not file.endswith(".pyc")}
    return Code(
        origin=Origin.INSTALLED,
        source=location(distribution),
        base=base,
        files=files,
        packages=owned_packages(files),
        digest=code_digest((file, record[file] or hash_file(base / file)) for file in files if not _is_installers(file)),
        distribution=name,
        version=version,
    )


def _is_installers(name: str) -> bool:
    path = PurePosixPath(name)
    return path.parent.name.endswith((".dist-info", ".egg-info")) and path.name in _INSTALLERS


def _record(distribution: IDistribution) -> dict[str, str]:
    """Return file name → hash (empty when none is noted) of the distribution's files."""
    text = distribution.read_text("RECORD")
    if text is not None:
        rows = [row for row in csv.reader(text.splitlines()) if row]
        return {row[0]: row[1] if len(row) > 1 else "" for row in rows if not row[0].startswith(("/", "../"))}
    files = distribution.files  # an egg-info directory, as old installers and some Linux distributions write it
    if files is None:
        raise SourceError(f"{location(distribution)} has no RECORD, so nobody knows which files are its own; install it again with pip")
    return {str(file): "" for file in files if Path(str(file.locate())).is_file()}


def _editable_project(distribution: IDistribution) -> Path | None:
    """Return the project directory of a distribution installed with ``pip install -e`` (PEP 610), else None."""
    text = distribution.read_text("direct_url.json")
    if text is None:
        return None
    try:
        origin = json.loads(text)
        editable = bool(origin.get("dir_info", {}).get("editable"))
        url = urlsplit(str(origin["url"])) if editable else None
    except (ValueError, AttributeError, KeyError) as error:
        raise SourceError(f"the direct_url.json of {location(distribution)} is not readable: {error}") from error
    return Path(unquote(url.path)) if url is not None and url.scheme == "file" else None


def _editable_root(base: Path, record: Iterable[str], project: Path, modules: Sequence[str]) -> Path:
    """Return the directory an editable distribution is imported from: named by its ``.pth`` file, or ``src``, or the project itself.

    Build tools differ: hatchling, flit and poetry write a ``.pth`` file with a directory in it, setuptools writes code that maps names. The code is
    not run; the two usual layouts are looked at in its place.
    """
    pth = [base / name for name in record if name.endswith(".pth") and "/" not in name]
    named = [Path(line) for file in pth if file.is_file() for line in file.read_text("utf-8").splitlines() if line.startswith("/")]
    for root in (*named, project / "src", project):
        if all(_has_module(root, module) for module in modules):
            return root
    raise SourceError(
        f"its modules {', '.join(modules)} are neither in {project / 'src'} nor in {project}; an editable install needs one of these"
    )


def _has_module(root: Path, module: str) -> bool:
    stem = root.joinpath(*module.split("."))
    near = {path.relative_to(root).as_posix() for folder in (stem.parent, stem) if folder.is_dir() for path in folder.iterdir()}
    return module_file(module, near) is not None
