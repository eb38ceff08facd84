"""Check a plugin before it is released or loaded: everything that can be told without importing it."""

from __future__ import annotations

from pathlib import Path

from blackhole_core.errors import BlackholeError, ManifestError, Problem
from blackhole_core.manifest.model import Manifest
from blackhole_core.manifest.parse import read_manifest
from blackhole_core.registry.candidate import Discovery
from blackhole_core.registry.layout import MANIFEST_NAME
from blackhole_core.registry.source import candidates_at, manifests_in
from blackhole_core.registry.store import WheelStore
from blackhole_core.scratch import Scratch

__all__ = ["check_path"]


def check_path(path: Path, *, group: str | None) -> tuple[list[Problem], Manifest | None]:
    """Return every problem of the plugin at ``path``, and its manifest when that is sound.

    ``path`` is a manifest, a plugin directory or a wheel. ``group`` is the host's entry point group; with None only what no host is needed for is
    checked: the manifest, and for a wheel that it is whole and harmless. Nothing is imported; what is unpacked is removed again.
    """
    if path.is_dir():
        return _check_directory(path, group)
    if path.suffix in {".yaml", ".yml"}:
        return _check_manifests([path])
    with Scratch() as scratch:
        store = WheelStore(scratch.new("check"))
        try:
            problems, manifest = _check_wheel(path, group, store)
            return [_relabel(problem, store.root, path) for problem in problems], manifest
        finally:
            store.clear()


def _check_directory(path: Path, group: str | None) -> tuple[list[Problem], Manifest | None]:
    problems, manifest = _check_manifests(manifests_in(path))
    if group is None:
        if manifest is None and not problems:
            problems = [_problem(path, f"a {MANIFEST_NAME}", "a directory without one")]
        return problems, manifest
    with Scratch() as scratch:
        store = WheelStore(scratch.new("check"))
        try:
            found = candidates_at(path, group=group, store=store)
            more = [_relabel(problem, store.root, path) for problem in _problems(found)]
        finally:
            store.clear()
    return list(dict.fromkeys((*problems, *more))), manifest or _first_manifest(found)


def _check_wheel(path: Path, group: str | None, store: WheelStore) -> tuple[list[Problem], Manifest | None]:
    if group is not None:
        found = candidates_at(path, group=group, store=store)
        return _problems(found), _first_manifest(found)
    try:
        entry = store.unpack(path)
    except BlackholeError as error:
        return [_problem(path, "a wheel that can be unpacked", str(error))], None
    return _check_manifests([entry / name for name in store.files(entry) if name.endswith((f"/{MANIFEST_NAME}", f".{MANIFEST_NAME}"))])


def _check_manifests(paths: list[Path]) -> tuple[list[Problem], Manifest | None]:
    problems: list[Problem] = []
    sound: list[Manifest] = []
    for path in paths:
        try:
            sound.append(read_manifest(path))
        except ManifestError as error:
            problems.extend(error.problems)
    return problems, sound[0] if sound else None


def _first_manifest(found: Discovery) -> Manifest | None:
    return next((candidate.manifest for candidate in found.candidates if candidate.manifest is not None), None)


def _problems(found: Discovery) -> list[Problem]:
    out: list[Problem] = []
    for unusable in found.problems:
        if isinstance(unusable.error, ManifestError):
            out.extend(unusable.error.problems)
        else:
            out.append(_problem(unusable.source, "a plugin that can be loaded", unusable.reason))
    return out


def _problem(path: Path, wanted: str, got: str) -> Problem:
    return Problem(file=str(path), line=None, path="", wanted=wanted, got=got)


def _relabel(problem: Problem, store: Path, source: Path) -> Problem:
    """Name a file inside a wheel as the reader knows it: ``upper.whl!upper/plugin.yaml``, not by the place it was unpacked to."""
    file = Path(problem.file)
    if not file.is_relative_to(store):
        return problem
    inner = "/".join(file.relative_to(store).parts[2:])  # below <name>/<version>-<digest>/
    return Problem(file=f"{source}!{inner}", line=problem.line, path=problem.path, wanted=problem.wanted, got=problem.got)
