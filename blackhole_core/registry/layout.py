"""What a list of file names says about Python code: packages, modules, manifests. Pure; names are relative, with ``/``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import PurePosixPath
from typing import Final

__all__ = ["MANIFEST_NAME", "belongs", "manifest_places", "module_file", "owned_packages"]

MANIFEST_NAME: Final = "plugin.yaml"

#: What the import system loads; ``.pyc`` beside sources is only a cache of them.
_SOURCE: Final = (".py", ".so", ".pyd")


def owned_packages(files: Iterable[str]) -> tuple[str, ...]:
    """Return the dotted names of the packages and modules that ``files`` make up, outermost first.

    ``upper/__init__.py`` gives ``upper``, ``upper.py`` gives ``upper``. A directory without ``__init__`` is a namespace that others share: of it
    only what lies inside is owned, so ``acme/upper/__init__.py`` gives ``acme.upper``.
    """
    modules = [parts for name in files if (parts := _module_parts(name)) is not None]
    packages = {parts[:-1] for parts in modules if parts[-1] == "__init__"}
    owned = {_outermost(parts, packages) for parts in modules}
    return tuple(sorted(".".join(parts) for parts in owned if parts))


def _outermost(parts: tuple[str, ...], packages: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    for length in range(1, len(parts)):
        if parts[:length] in packages:
            return parts[:length]
    return () if parts[-1] == "__init__" else parts


def _module_parts(name: str) -> tuple[str, ...] | None:
    """Return ``("acme", "upper")`` of ``acme/upper.py``, or None for what cannot be imported."""
    path = PurePosixPath(name)
    if path.suffix not in _SOURCE or path.is_absolute():
        return None
    parts = (*path.parts[:-1], path.name.split(".")[0])  # foo.cpython-311-x86_64-linux-gnu.so
    return parts if all(part.isidentifier() for part in parts) else None


def belongs(name: str, packages: Collection[str]) -> bool:
    """Tell whether a file is part of one of ``packages``, or a manifest beside them."""
    path = PurePosixPath(name)
    parts = (*path.parts[:-1], path.name.split(".")[0])
    if any(".".join(parts[:length]) in packages for length in range(1, len(parts) + 1)):
        return True
    return path.name == MANIFEST_NAME


def module_file(module: str, files: Collection[str]) -> str | None:
    """Return the file that holds ``module``: its package's ``__init__`` or the module itself, or None when ``files`` has none."""
    stem = module.replace(".", "/")
    for name in (f"{stem}/__init__.py", f"{stem}.py"):
        if name in files:
            return name
    compiled = (f"{stem}.", f"{stem}/__init__.")
    return next((name for name in sorted(files) if name.startswith(compiled) and name.endswith(_SOURCE)), None)


def manifest_places(module: str, files: Collection[str]) -> tuple[str, ...]:
    """Return where the manifest of a plugin in ``module`` may lie, nearest first; only files that are there.

    For a package ``acme.upper`` that is ``acme/upper/plugin.yaml``, then ``acme/plugin.yaml``; for a module ``acme/upper.py`` it begins with
    ``acme/upper.plugin.yaml``. The top of the tree itself is not among them: in ``site-packages`` it belongs to nobody.
    """
    stem = module.replace(".", "/")
    parents = [str(parent) for parent in PurePosixPath(stem).parents if str(parent) != "."]
    wanted = [f"{stem}.{MANIFEST_NAME}", f"{stem}/{MANIFEST_NAME}", *(f"{parent}/{MANIFEST_NAME}" for parent in parents)]
    return tuple(name for name in wanted if name in files)
