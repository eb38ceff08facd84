"""Finding modules without importing anything: in one directory, by everybody's finders, or from a plugin's directory down."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

__all__ = ["find_elsewhere", "find_in", "find_root", "find_roots"]


def find_in(name: str, directory: str) -> ModuleSpec | None:
    """Find ``name`` in one directory (or zip file), with a new finder: what Python remembers of a listing may be out of date."""
    for hook in sys.path_hooks:
        try:
            finder = hook(directory)
        except ImportError:
            continue
        return finder.find_spec(name)
    return None


def find_elsewhere(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Ask every finder but ours, as the import system would: editable installs have finders of their own."""
    for finder in list(sys.meta_path):
        find_spec = getattr(finder, "find_spec", None)
        if find_spec is None or getattr(finder, "blackhole", False):
            continue
        spec: ModuleSpec | None = find_spec(name, path)
        if spec is not None:
            return spec
    return None


def find_roots(prefixes: Iterable[str], directory: Path) -> dict[str, ModuleSpec]:
    """Find owned packages and modules; those that nobody has are left out."""
    found = ((prefix, find_root(prefix, directory)) for prefix in prefixes)
    return {prefix: root for prefix, root in found if root is not None}


def find_root(prefix: str, directory: Path) -> ModuleSpec | None:
    """Find an owned package or module: below ``directory`` first, else wherever Python finds it."""
    *parents, last = prefix.split(".")
    here = find_in(prefix, str(directory.joinpath(*parents)))
    if here is not None:
        return here
    if not parents:
        return find_elsewhere(last, None)
    parent = find_root(".".join(parents), directory)
    locations = [] if parent is None or parent.submodule_search_locations is None else list(parent.submodule_search_locations)
    found = next(filter(None, (find_in(prefix, location) for location in locations)), None)
    return found or _ask_special_finders(prefix, locations)


def _ask_special_finders(name: str, path: Sequence[str]) -> ModuleSpec | None:
    """Ask the finders that are not Python's own. PathFinder was answered for, and wants the parent to be imported."""
    for finder in list(sys.meta_path):
        if finder is PathFinder or getattr(finder, "blackhole", False) or not hasattr(finder, "find_spec"):
            continue
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None
