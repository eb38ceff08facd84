"""Names of things: plugin names, plugin ids, isolation levels."""

from __future__ import annotations

import enum
import functools
import re
from typing import Final

import attrs

__all__ = ["NAME", "Isolation", "PluginId", "canonical_name"]

#: A plugin's name: what PyPI allows for a distribution, ASCII only, so that look-alike letters are refused.
NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


class Isolation(enum.StrEnum):
    """How far a plugin is kept from the host, weakest first."""

    NONE = "none"
    THREAD = "thread"
    PROCESS = "process"
    CONTAINER = "container"
    VM = "vm"


@functools.lru_cache(maxsize=4096)  # a host asks for the names of all its plugins again and again
def canonical_name(name: str) -> str:
    """Return ``name`` in the one spelling under which clashes are found (PEP 503): ``Foo_Bar`` is ``foo-bar``."""
    return re.sub(r"[-_.]+", "-", name).lower()


@attrs.frozen(order=False)
class PluginId:
    """Name and version of a plugin, printed ``counter@1.2.0``; ``counter`` alone when it declares no version."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"
