"""What a plugin needs from other distributions and does not find. Nothing is installed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blackhole_core.errors import SourceError
from blackhole_core.ids import canonical_name
from blackhole_core.registry.candidate import Candidate, Origin
from blackhole_core.registry.discovery import distributions
from blackhole_core.registry.source import read_pyproject

if TYPE_CHECKING:
    from importlib_metadata import IDistribution

__all__ = ["missing_requirements"]


def missing_requirements(candidate: Candidate, *, path: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return a sentence for each distribution that ``candidate`` requires and that is not installed in a fitting version.

    ``path`` is searched in place of ``sys.path``. Requirements whose marker does not hold here, and those of extras, do not count. Raises
    :class:`~blackhole_core.errors.SourceError` for a requirement that cannot be read.
    """
    required = _required(candidate, path)
    if not required:
        return ()
    have = distributions(path)
    return tuple(sentence for text in required if (sentence := _missing(candidate, text, have)) is not None)


def _required(candidate: Candidate, path: Sequence[str] | None) -> tuple[str, ...]:
    if candidate.origin is Origin.DIRECTORY:
        return _of_project(candidate.source)
    if candidate.origin is Origin.WHEEL:
        return _requires(distributions([str(candidate.path)]), candidate.distribution)
    return _requires(distributions(path), candidate.distribution)


def _requires(have: Mapping[str, IDistribution], name: str | None) -> tuple[str, ...]:
    distribution = None if name is None else have.get(canonical_name(name))
    return () if distribution is None else tuple(distribution.requires or ())


def _of_project(source: Path) -> tuple[str, ...]:
    project = read_pyproject(source).get("project", {})
    listed = project.get("dependencies", []) if isinstance(project, dict) else []
    return tuple(str(text) for text in listed) if isinstance(listed, list) else ()


def _missing(candidate: Candidate, text: str, have: Mapping[str, IDistribution]) -> str | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise SourceError(f"plugin {candidate.id} has an unreadable requirement {text[:100]!r}: {error}".replace("\n", " ")) from error
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    wanted = f"{requirement.name}{requirement.specifier}"
    distribution = have.get(canonical_name(requirement.name))
    if distribution is None:
        return f"needs {wanted}, which is not installed"
    found = distribution.version
    if not requirement.specifier.contains(found, prereleases=True):
        return f"needs {wanted}, which is not installed (found {found})"
    return None
