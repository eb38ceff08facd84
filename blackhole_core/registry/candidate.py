"""A plugin that was found and not yet admitted: everything that can be known of it without importing it."""

from __future__ import annotations

import enum
from pathlib import Path

import attrs

from blackhole_core.errors import BlackholeError
from blackhole_core.ids import PluginId
from blackhole_core.manifest.model import Manifest

__all__ = ["Candidate", "Discovery", "Origin", "Unusable"]


class Origin(enum.StrEnum):
    """Where a candidate came from."""

    INSTALLED = "installed"  #: an entry point of an installed distribution
    DIRECTORY = "directory"  #: a source tree, loaded where it lies
    WHEEL = "wheel"  #: a wheel, unpacked into the versioned store


@attrs.frozen
class Candidate:
    """A plugin found at ``source``.

    ``entry`` is ``module:attribute`` (or ``module``) of the plugin object. ``path`` is what must be put in front of ``sys.path`` to import it,
    ``packages`` the dotted top-level names it owns and that are loaded side by side on a swap. ``digest`` (sha256, hex) identifies the
    code: two candidates with the same id and digest are the same plugin.
    """

    id: PluginId
    origin: Origin
    source: Path
    entry: str
    path: Path
    packages: tuple[str, ...]
    digest: str
    manifest: Manifest | None = None
    distribution: str | None = None

    @property
    def name(self) -> str:
        return self.id.name


@attrs.frozen
class Unusable:
    """Something that was found where plugins are and cannot be one. ``name`` is the best name known for it, ``error`` says why."""

    name: str
    source: Path
    error: BlackholeError = attrs.field(eq=False)

    @property
    def reason(self) -> str:
        return str(self.error)


@attrs.frozen
class Discovery:
    """What one look found: what can be used, and what cannot with the reason."""

    candidates: tuple[Candidate, ...] = ()
    problems: tuple[Unusable, ...] = ()

    def __add__(self, other: Discovery) -> Discovery:
        return Discovery(self.candidates + other.candidates, self.problems + other.problems)
