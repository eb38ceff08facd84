"""Module names of one generation: which are its own, and how they are spelled while another generation has them.

A module has one **canonical** name (``acme.core``) for ever. While its generation is active that is also its key in
``sys.modules``; while another generation is, the key is the **private** name ``acme@7.core``: the owned prefix, ``@``,
the generation's tag, the rest. ``@`` can stand in no identifier, so no ``import`` statement can spell a private name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["MARK", "Names", "tag_of"]

#: Stands before the tag in a private name.
MARK: Final = "@"


def tag_of(name: str) -> str | None:
    """Return the tag in a private name, or None for a canonical one."""
    _, mark, rest = name.partition(MARK)
    return rest.partition(".")[0] if mark else None


class Names:
    """The dotted prefixes that one generation owns, and its tag. Immutable."""

    __slots__ = ("mark", "prefixes", "shared", "tag", "tops")

    def __init__(self, prefixes: Iterable[str], tag: str) -> None:
        self.prefixes = tuple(sorted(set(prefixes)))
        for name in self.prefixes:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ValueError(f"a universe owns dotted module names such as 'acme' or 'acme.plugins', got {name!r}")
        if not self.prefixes:
            raise ValueError("a universe owns at least one package, got none")
        if not tag or MARK in tag or "." in tag:
            raise ValueError(f"a universe's tag is a non-empty word without '@' and '.', got {tag!r}")
        self.tag = tag
        self.mark = MARK + tag
        #: First components: a name that does not begin with one of them is foreign, whatever else it is.
        self.tops = frozenset(name.partition(".")[0] for name in self.prefixes)
        #: Namespace packages above owned ones (``ns`` of ``ns.plug``); they belong to nobody.
        self.shared = frozenset(parent for name in self.prefixes for parent in _parents(name))

    def owner_prefix(self, name: str) -> str | None:
        """Return the owned prefix under which the canonical ``name`` falls, or None when it is foreign."""
        for prefix in self.prefixes:
            if name == prefix or (name.startswith(prefix) and name[len(prefix)] == "."):
                return prefix
        return None

    def owns(self, name: str) -> bool:
        return self.owner_prefix(name) is not None

    def overlaps(self, other: Names) -> bool:
        """Say whether the two generations cannot both have their canonical names."""
        if self.tops.isdisjoint(other.tops):
            return False  # the answer for nearly all of the plugins of a host
        return any(other.owns(name) for name in self.prefixes) or any(self.owns(name) for name in other.prefixes)

    def private(self, name: str) -> str:
        """Return the private spelling of an owned canonical name; any other name as it is."""
        prefix = self.owner_prefix(name)
        return name if prefix is None else f"{prefix}{self.mark}{name[len(prefix) :]}"

    def canonical(self, name: str) -> str:
        """Return the canonical spelling of a name, private or canonical."""
        return name.replace(self.mark, "", 1) if tag_of(name) == self.tag else name

    def absolute(self, name: str, level: int, namespace: Mapping[str, Any] | None) -> str:
        """Return the canonical absolute name that ``import name`` with ``level`` dots means in a module's ``namespace``."""
        if level == 0:
            return self.canonical(name)
        package = _package_of(namespace or {})
        if not package:
            raise ImportError("attempted relative import with no known parent package")
        parts = self.canonical(package).rsplit(".", level - 1)
        if len(parts) < level:
            raise ImportError("attempted relative import beyond top-level package")
        return f"{parts[0]}.{name}" if name else parts[0]


def _package_of(namespace: Mapping[str, Any]) -> str:
    """Return the package that relative imports start from, found as the import system finds it."""
    package = namespace.get("__package__")
    if package is not None:
        return str(package)
    spec = namespace.get("__spec__")
    if spec is not None:
        return str(spec.parent)
    name = str(namespace.get("__name__", ""))
    return name if "__path__" in namespace else name.rpartition(".")[0]


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
