"""Whether plugins may have what they ask for: the operator's grants, kept and asked, and every decision told.

The one place where a manager reads and changes grants. They are read anew each time: the command line or another host may have changed the file.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence

import attrs

from blackhole_core.errors import PermissionDenied
from blackhole_core.ids import canonical_name
from blackhole_core.lifecycle.grantfile import GrantStore
from blackhole_core.lifecycle.grants import Grants, Permissions, granted_to, permissions_of, with_grants, without_grants
from blackhole_core.manifest.coverage import lacking
from blackhole_core.manifest.permissions import Level, level_of, parse_permission
from blackhole_core.registry.candidate import Candidate

__all__ = ["Permits", "grant_command"]


@attrs.frozen
class Permits:
    """The grants of one host. ``configured`` returns what the configuration grants the plugin of a name."""

    store: GrantStore
    configured: Callable[[str], Sequence[str]]
    emit: Callable[..., object]
    clock: Callable[[], float] = time.time

    def granted(self, name: str, candidate: Candidate) -> tuple[str, ...]:
        """Return what ``candidate`` was granted under ``name``. Who asks for nothing that needs a grant is not looked up.

        :raises GrantsError: it cannot be told.
        """
        manifest = candidate.manifest
        if manifest is None or not lacking((*manifest.permissions, *manifest.optional_permissions), ()):
            return ()
        return granted_to(self.store.read(), name, candidate, self.configured(name))

    def permit(self, name: str, candidate: Candidate, *, serving: bool) -> None:
        """Raise when ``candidate`` needs what it was not granted; ``serving``: another version of it goes on meanwhile.

        :raises PermissionDenied: with the command that grants it. :raises GrantsError: it cannot be told.
        """
        required = candidate.manifest.permissions if candidate.manifest is not None else ()
        missing = lacking(required, self.granted(name, candidate))
        if not missing:
            return
        command = grant_command(name, missing)
        version = candidate.id.version
        if serving:
            self.emit("permission.pending", name, version=version, missing=list(missing), command=command)
        else:
            self.emit("permission.denied", name, version=version, missing=list(missing), command=command)
        raise PermissionDenied(str(candidate.id), missing, command=command)

    def permissions(self, name: str, candidate: Candidate, at_start: tuple[str, ...] | None) -> Permissions:
        """Return what ``candidate`` asks for and has now.

        :raises GrantsError: it cannot be told.
        """
        grants = self.store.read()
        withdrawn = [one.permission for one in grants.withdrawn if one.plugin == canonical_name(name)]
        return permissions_of(candidate, granted_to(grants, name, candidate, self.configured(name)), withdrawn, at_start)

    def grant(self, name: str, permissions: Sequence[str], versions: str, digest: str | None) -> tuple[str, ...]:
        """Keep that the plugin may have ``permissions``, and return them in canonical spelling.

        :raises GrantsError: one cannot be granted, or the grants cannot be kept; nothing was changed.
        """

        def change(grants: Grants) -> tuple[Grants, tuple[str, ...]]:
            return with_grants(grants, name, permissions, self.clock(), versions=versions, digest=digest)

        given = self.store.change(change)
        self.emit("permission.granted", name, permissions=list(given), versions=versions, digest=digest)
        return given

    def revoke(self, name: str, permissions: Sequence[str]) -> tuple[str, ...]:
        """Keep that the plugin may not have ``permissions`` any more, and return what was taken from it.

        :raises GrantsError: one cannot be revoked, or the grants cannot be kept; nothing was changed.
        """

        def change(grants: Grants) -> tuple[Grants, tuple[str, ...]]:
            return without_grants(grants, name, permissions, self.clock(), self.configured(name))

        return self.store.change(change)


def grant_command(name: str, missing: Sequence[str]) -> str:
    """Return the command that grants ``missing``, empty when not all of that can be granted."""
    if any(level_of(parse_permission(text)) is Level.SIGNATURE for text in missing):
        return ""
    return shlex.join(["blackhole", "grant", name, *missing])
