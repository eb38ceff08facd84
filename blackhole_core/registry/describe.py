"""Make a :class:`~blackhole_core.registry.candidate.Candidate` of a place where a plugin was found, or say why it is none."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import attrs

from blackhole_core.errors import BlackholeError, SourceError
from blackhole_core.ids import NAME, PluginId, canonical_name
from blackhole_core.manifest.model import Manifest
from blackhole_core.manifest.parse import read_manifest
from blackhole_core.registry.candidate import Candidate, Discovery, Origin, Unusable
from blackhole_core.registry.entrypoints import parse_entry
from blackhole_core.registry.layout import MANIFEST_NAME, manifest_places, module_file

__all__ = ["Code", "describe", "describe_all"]


@attrs.frozen
class Code:
    """Code that lies somewhere: one distribution or one source tree.

    ``files`` are its files relative to ``base``, the directory to import from. ``distribution`` and ``version`` are what its metadata says, if there is
    any. ``manifest`` is the one manifest at the top of a source tree, for the plugins that have none beside their module.
    """

    origin: Origin
    source: Path
    base: Path
    files: Collection[str]
    packages: tuple[str, ...]
    digest: str
    distribution: str | None = None
    version: str | None = None
    manifest: Path | None = None


def describe(code: Code, value: str, name: str | None = None) -> Candidate:
    """Return the candidate for the entry point ``name = value`` of ``code``; ``name`` is None when only a manifest names it.

    Nothing is imported. Raises :class:`~blackhole_core.errors.SourceError` or :class:`~blackhole_core.errors.ManifestError`.
    """
    module, entry = parse_entry(value)
    file = module_file(module, code.files)
    if file is None:
        raise SourceError(f"its entry point {entry!r} names the module {module!r}, which is not among its files")
    if not (code.base / file).is_file():
        raise SourceError(f"its file {file} is missing: an installation or removal is half done, or it is damaged")
    manifest = _manifest(code, module)
    if manifest is not None:
        _agree(code, name, manifest)
    chosen = manifest.name if manifest is not None else name
    if chosen is None or not NAME.fullmatch(chosen):
        raise SourceError(f"wanted a plugin name of at most 100 ASCII letters, digits and . _ -, got {chosen!r}")
    return Candidate(
        id=PluginId(chosen, code.version if manifest is None else manifest.version),
        origin=code.origin,
        source=code.source,
        entry=entry,
        path=code.base,
        packages=code.packages,
        digest=code.digest,
        manifest=manifest,
        distribution=code.distribution,
    )


def describe_all(code: Code, entries: Mapping[str, str]) -> Discovery:
    """Return a candidate, or what is wrong, for each of the entry points ``name = value`` of ``code``."""
    candidates = []
    problems = []
    for name, value in entries.items():
        try:
            candidates.append(describe(code, value, name))
        except BlackholeError as error:
            problems.append(Unusable(name, code.source, error))
    return Discovery(tuple(candidates), tuple(problems))


def _manifest(code: Code, module: str) -> Manifest | None:
    places = [code.base / name for name in manifest_places(module, code.files)]
    if code.manifest is not None and code.manifest not in places:
        if places and places[0].read_bytes() != code.manifest.read_bytes():
            raise SourceError(f"it has two different manifests, {code.manifest} and {places[0]}; keep one of them")
        places.append(code.manifest)
    if places:
        return read_manifest(places[0])
    if code.manifest is None and MANIFEST_NAME in code.files:
        # Taken as "no manifest" it would run with less isolation than its author asked for.
        raise SourceError(
            f"its {MANIFEST_NAME} lies at the top of the import path, where it belongs to nobody; "
            f"ship it in the plugin's package, or as {module.partition('.')[0]}.{MANIFEST_NAME} beside a single module"
        )
    return None


def _agree(code: Code, name: str | None, manifest: Manifest) -> None:
    """Refuse a manifest that contradicts the metadata beside it."""
    from packaging.version import InvalidVersion, Version

    if name is not None and canonical_name(name) != canonical_name(manifest.name):
        raise SourceError(f"its manifest names it {manifest.name!r}, its entry point {name!r}; give both the same name")
    if code.version is None:
        return
    try:
        same = Version(code.version) == Version(manifest.version)
    except InvalidVersion:
        same = False
    if not same:
        raise SourceError(
            f"its manifest says version {manifest.version}, its distribution {code.distribution} version {code.version}; give both the same"
        )
