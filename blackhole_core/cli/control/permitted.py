"""What a plugin asks for and has, as plain data: the same from a running host and from the file of grants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from blackhole_core.lifecycle.grants import Permissions

__all__ = ["permissions_as_dict"]


def permissions_as_dict(
    name: str, found: Permissions, *, version: str | None, phase: str | None = None, enforcement: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the fields of ``found`` with the level of each permission; ``phase`` and ``enforcement`` are those of a running host."""
    named = dict.fromkeys((*found.required, *found.optional, *found.granted, *found.withdrawn, *found.effective))
    return {
        "name": name,
        "version": version,
        "phase": phase,
        **attrs.asdict(found),
        "outdated": found.outdated,
        "levels": {permission: found.level(permission).value for permission in named},
        "enforcement": dict(enforcement or {}),
    }
