"""Local sources: what plugins a path holds. A directory with a plugin, a wheel, or a directory of wheels."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from blackhole_core.errors import BlackholeError, ManifestError, SourceError, UnknownPlugin
from blackhole_core.ids import canonical_name
from blackhole_core.manifest.parse import read_manifest, read_regular_file
from blackhole_core.registry.candidate import Candidate, Discovery, Origin, Unusable
from blackhole_core.registry.describe import Code, describe, describe_all
from blackhole_core.registry.entrypoints import entry_groups, parse_entry
from blackhole_core.registry.layout import MANIFEST_NAME, owned_packages
from blackhole_core.registry.store import WheelStore
from blackhole_core.registry.tree import refuse_open_to_all, tree_code

__all__ = ["candidates_at", "manifests_in", "read_pyproject", "select"]

#: Bytes of a pyproject.toml; the largest we know have 50 KB.
MAX_PYPROJECT: Final = 1024 * 1024


def candidates_at(source: Path, *, group: str, store: WheelStore) -> Discovery:
    """Return the plugins at ``source``, every version of them.

    Nothing is imported; wheels are unpacked into ``store``. What cannot be used is in ``problems`` and stops nothing else; a path that holds no
    plugin at all is such a problem too.
    """
    path = Path(source).absolute()
    try:
        if path.is_dir():
            return _at_directory(path, group, store)
        if not path.exists():
            raise SourceError(f"there is nothing at {path}")
        return _at_wheel(path, group, store)
    except BlackholeError as error:
        return Discovery((), (Unusable(_guess_name(path), path, error),))


def select(candidates: Iterable[Candidate], name: str, version: str | None = None) -> Candidate:
    """Return the candidate called ``name`` with the highest version, or with exactly ``version``.

    A final version is preferred to a pre-release. Raises :class:`~blackhole_core.errors.UnknownPlugin` for the name,
    :class:`~blackhole_core.errors.SourceError` for the version; both say what is there.
    """
    everything = list(candidates)
    named = [candidate for candidate in everything if canonical_name(candidate.name) == canonical_name(name)]
    if not named:
        raise UnknownPlugin(name, {candidate.name for candidate in everything})
    if version is None:
        return max(named, key=_preference)
    exact = [candidate for candidate in named if _same_version(candidate.id.version, version)]
    if not exact:
        known = ", ".join(candidate.id.version or "no version" for candidate in sorted(named, key=_preference))
        raise SourceError(f"there is no version {version} of plugin {name!r}; there is {known}")
    return exact[0]


def _preference(candidate: Candidate) -> tuple[bool, Any]:
    from packaging.version import InvalidVersion, Version

    try:
        version = Version(candidate.id.version or "0")
    except InvalidVersion:  # an old distribution without a manifest may call its versions anything
        version = Version("0.dev0")
    return (not version.is_prerelease, version)


def _same_version(have: str | None, want: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return have is not None and Version(have) == Version(want)
    except InvalidVersion:
        return have == want


def _guess_name(path: Path) -> str:
    """Return a name for a message about a path that could not be read any further."""
    return path.name.split("-", maxsplit=1)[0] if path.suffix == ".whl" else path.name


# --- wheels ----------------------------------------------------------------------------------------------------------


def _at_wheel(path: Path, group: str, store: WheelStore) -> Discovery:
    refuse_open_to_all(path)
    entry = store.unpack(path)
    files = frozenset(store.files(entry))
    info = next(name.partition("/")[0] for name in files if name.endswith(".dist-info/METADATA"))
    name, _, version = info.removesuffix(".dist-info").partition("-")
    code = Code(
        origin=Origin.WHEEL,
        source=path,
        base=entry,
        files=files,
        packages=owned_packages(files),
        digest=store.digest(entry),
        distribution=name,
        version=version,
    )
    text = (entry / info / "entry_points.txt").read_text("utf-8") if f"{info}/entry_points.txt" in files else ""
    groups = entry_groups(text)
    if group in groups:
        return describe_all(code, groups[group])
    manifests = [entry / file for file in sorted(files) if _is_manifest(file)]
    return _from_manifests(code, manifests, group, "its entry_points.txt")


def _is_manifest(name: str) -> bool:
    return name.endswith((f"/{MANIFEST_NAME}", f".{MANIFEST_NAME}"))


def _wheels_in(path: Path, group: str, store: WheelStore) -> Discovery:
    found = Discovery()
    for wheel in sorted(path.glob("*.whl")):
        found += candidates_at(wheel, group=group, store=store)
    return found


# --- source trees ----------------------------------------------------------------------------------------------------


def _at_directory(path: Path, group: str, store: WheelStore) -> Discovery:
    refuse_open_to_all(path)
    project = read_pyproject(path)
    entries = _table(project, "project", "entry-points", group)
    manifests = manifests_in(path)
    if entries:
        code = _tree(path, project, [str(value) for value in entries.values()], _only(manifests, path))
        return describe_all(code, {name: str(value) for name, value in entries.items()})
    if manifests:
        entries_said = [entry for manifest in manifests if (entry := _entry_of(manifest)) is not None]
        code = _tree(path, project, entries_said, _only(manifests, path))
        return _from_manifests(code, manifests, group, "pyproject.toml")
    if any(path.glob("*.whl")):
        return _wheels_in(path, group, store)
    raise SourceError(
        f"there is no plugin in {path}: wanted a {MANIFEST_NAME}, a pyproject.toml with [project.entry-points.{group}], or wheels"
    )


def _entry_of(manifest: Path) -> str | None:
    try:
        return read_manifest(manifest).entry
    except ManifestError:
        return None  # reported with all its problems when the candidates are made


def _from_manifests(code: Code, manifests: Sequence[Path], group: str, place: str) -> Discovery:
    """Return the plugins whose manifests say themselves where their object is."""
    if not manifests:
        raise SourceError(f"{code.source.name} has no plugin for this host: {place} has no group {group!r} and there is no {MANIFEST_NAME}")
    candidates = []
    problems = []
    for path in manifests:
        try:
            manifest = read_manifest(path)
            if manifest.entry is None:
                raise SourceError(f"nothing says where the plugin is: {place} has no group {group!r} and {path} has no key 'entry'")
            candidates.append(describe(code, manifest.entry, manifest.name))
        except BlackholeError as error:
            problems.append(Unusable(code.source.name, code.source, error))
    return Discovery(tuple(candidates), tuple(problems))


def _tree(path: Path, project: Mapping[str, Any], entries: Sequence[str], manifest: Path | None) -> Code:
    needed = [parse_entry(entry)[0] for entry in entries]
    name = project.get("project", {}).get("name")
    version = project.get("project", {}).get("version")
    inside = (path / "__init__.py").is_file()  # the directory is the package itself
    base = path.parent if inside else path / "src" if (path / "src").is_dir() else path
    return tree_code(
        base,
        origin=Origin.DIRECTORY,
        source=path,
        needed=needed,
        distribution=name if isinstance(name, str) else None,
        version=version if isinstance(version, str) else None,
        manifest=manifest,
        only=path.name if inside else None,
    )


def manifests_in(path: Path) -> list[Path]:
    """Return the manifest at the top, or those in the packages and beside the modules below ``path`` or ``path/src``."""
    top = path / MANIFEST_NAME
    if top.is_file() or top.is_symlink():  # a link is refused by who reads it, not overlooked
        return [top]
    base = path / "src" if (path / "src").is_dir() else path
    return sorted({*base.glob(f"*.{MANIFEST_NAME}"), *base.glob(f"*/{MANIFEST_NAME}"), *base.glob(f"*/*/{MANIFEST_NAME}")})


def _only(manifests: Sequence[Path], path: Path) -> Path | None:
    return manifests[0] if len(manifests) == 1 and manifests[0].parent == path and manifests[0].name == MANIFEST_NAME else None


def read_pyproject(path: Path) -> Mapping[str, Any]:
    """Return the ``pyproject.toml`` in the directory ``path``, empty when there is none; raises :class:`~blackhole_core.errors.SourceError`."""
    file = path / "pyproject.toml"
    if not file.exists():
        return {}
    try:
        return tomllib.loads(read_regular_file(file, max_bytes=MAX_PYPROJECT).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{file} is not valid TOML: {error}") from error
    except SourceError as error:
        raise SourceError(f"{file}: wanted a regular file of at most {MAX_PYPROJECT} bytes, got {error}") from error


def _table(value: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
