"""What a plugin needs from other distributions and does not find. Nothing is installed here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blackhole_core.errors import SourceError
from blackhole_core.registry.candidate import Candidate, Origin
from blackhole_core.registry.distributions import distribution, version_of
from blackhole_core.registry.source import read_pyproject

__all__ = ["missing_requirements"]


def missing_requirements(candidate: Candidate, *, path: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return a sentence for each distribution that ``candidate`` requires and that is not installed in a fitting version.

    ``path`` is searched in place of ``sys.path``. Requirements whose marker does not hold here, and those of extras, do not count. Raises
    :class:`~blackhole_core.errors.SourceError` for a requirement that cannot be read.
    """
    return tuple(sentence for text in _required(candidate, path) if (sentence := _missing(candidate, text, path)) is not None)


def _required(candidate: Candidate, path: Sequence[str] | None) -> tuple[str, ...]:
    if candidate.origin is Origin.DIRECTORY:
        return _of_project(candidate.source)
    if candidate.origin is Origin.WHEEL:
        return _requires(candidate.distribution, [str(candidate.path)])
    return _requires(candidate.distribution, path)


def _requires(name: str | None, path: Sequence[str] | None) -> tuple[str, ...]:
    own = None if name is None else distribution(name, path)
    return () if own is None else tuple(own.requires or ())


def _of_project(source: Path) -> tuple[str, ...]:
    project = read_pyproject(source).get("project", {})
    listed = project.get("dependencies", []) if isinstance(project, dict) else []
    return tuple(str(text) for text in listed) if isinstance(listed, list) else ()


def _missing(candidate: Candidate, text: str, path: Sequence[str] | None) -> str | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise SourceError(f"plugin {candidate.id} has an unreadable requirement {text[:100]!r}: {error}".replace("\n", " ")) from error
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    wanted = f"{requirement.name}{requirement.specifier}"
    installed = distribution(requirement.name, path)
    if installed is None:
        return f"needs {wanted}, which is not installed"
    found = version_of(installed)
    if not requirement.specifier.contains(found, prereleases=True):
        return f"needs {wanted}, which is not installed (found {found})"
    return None
