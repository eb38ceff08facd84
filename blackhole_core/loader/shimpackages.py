"""``pkgutil`` and ``importlib.resources`` for code of a universe: a package's name means the caller's generation."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from blackhole_core.loader.shims import caller_universe

if TYPE_CHECKING:
    from blackhole_core.loader.snapshot import Snapshot
    from blackhole_core.loader.universe import Universe

__all__ = ["install_pkgutil", "install_resources"]

#: Functions of ``importlib.resources`` whose first argument, called ``package`` or ``anchor``, is a module or its name.
_RESOURCE_FUNCTIONS: Final = ("contents", "files", "is_resource", "open_binary", "open_text", "path", "read_binary", "read_text")


def install_resources(resources: ModuleType) -> None:
    """Make the functions of ``importlib.resources`` (or its backport) take a name as the caller's generation means it."""
    for name in _RESOURCE_FUNCTIONS:
        original = getattr(resources, name, None)
        if original is not None:
            setattr(resources, name, _taking_callers_package(original))


def _taking_callers_package(original: Callable[..., Any]) -> Callable[..., Any]:
    # Since 3.12 `files()` means the package of the caller, which it finds on the stack, where a shim would stand between.
    infers = original.__name__ == "files" and sys.version_info >= (3, 12)

    @functools.wraps(original)
    def shim(*args: Any, **named: Any) -> Any:
        if infers and not args and not named:
            return original(sys.modules[sys._getframe(1).f_globals["__name__"]])
        universe = caller_universe(1)
        if universe is not None:
            args = tuple(_module_meant(universe, value) if place == 0 else value for place, value in enumerate(args))
            named = {key: _module_meant(universe, value) if key in ("package", "anchor") else value for key, value in named.items()}
        return original(*args, **named)

    return shim


def _module_meant(universe: Universe, value: object) -> object:
    """Return the module for a name that ``universe`` owns, anything else as it is."""
    if not isinstance(value, str):
        return value
    name = universe.names.canonical(value)
    return universe.import_module(name) if universe.names.owns(name) else value


# --- pkgutil ------------------------------------------------------------------------------------------------------------


def install_pkgutil(pkgutil: ModuleType) -> None:
    """Make what imports by name, or lists a package's modules, answer for the caller's generation."""
    pkgutil.get_data = _get_data(pkgutil.get_data)  # type: ignore[attr-defined]  # this is what it is for: the module, or function, is patched
    pkgutil.resolve_name = _resolve_name(pkgutil.resolve_name)  # type: ignore[attr-defined]  # this is what it is for: the module, or function, is patched
    pkgutil.walk_packages = _walk_packages(pkgutil.walk_packages)  # type: ignore[attr-defined]  # this is what it is for: the module, or function, is patched
    pkgutil.iter_modules = _iter_modules(pkgutil.iter_modules)  # type: ignore[attr-defined]  # this is what it is for: the module, or function, is patched


def _get_data(original: Callable[..., bytes | None]) -> Callable[..., bytes | None]:
    @functools.wraps(original)
    def get_data(package: str, resource: str) -> bytes | None:
        universe = caller_universe(1)
        if universe is None or not universe.names.owns(universe.names.canonical(package)):
            return original(package, resource)
        name = universe.names.canonical(package)
        universe.import_module(name)
        with universe.importing():  # the key must stay the key meanwhile
            return original(universe.key(name), resource)

    return get_data


def _resolve_name(original: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(original)
    def resolve_name(name: str) -> Any:
        universe = caller_universe(1)
        if universe is None or not universe.names.owns(name.partition(":")[0]):
            return original(name)
        module_name, colon, attributes = name.partition(":")
        if colon:
            return _follow(universe.import_module(module_name), attributes.split(".") if attributes else [])
        parts = name.split(".")
        found: Any = _view_or_module(universe, parts[0])
        for place, part in enumerate(parts[1:], 1):
            try:
                found = _view_or_module(universe, ".".join(parts[: place + 1]))
            except ImportError:
                return _follow(found, [part, *parts[place + 1 :]])
        return found

    return resolve_name


def _view_or_module(universe: Universe, name: str) -> Any:
    return universe.import_module(name) if universe.names.owns(name) else importlib.import_module(name)


def _follow(found: Any, attributes: Sequence[str]) -> Any:
    return functools.reduce(getattr, attributes, found)


def _walk_packages(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def walk_packages(path: Any = None, prefix: str = "", onerror: Callable[[str], object] | None = None) -> Any:
        universe = caller_universe(1)
        if universe is None or path is None or not universe.names.owns(universe.names.canonical(prefix.rstrip("."))):
            return original(path, prefix, onerror)
        return _walk(universe, path, universe.names.canonical(prefix), onerror, set())

    return walk_packages


def _walk(universe: Universe, path: Any, prefix: str, onerror: Callable[[str], object] | None, seen: set[str]) -> Iterator[Any]:
    """Do what :func:`pkgutil.walk_packages` does: list, import each package, go into it."""
    for info in _listed(universe, path, prefix):
        yield info
        if not info.ispkg:
            continue
        try:
            package = universe.import_module(info.name)
        except Exception as error:
            if onerror is not None:
                onerror(info.name)
            elif not isinstance(error, ImportError):
                raise
        else:
            below = [place for place in getattr(package, "__path__", None) or [] if place not in seen]
            seen.update(below)
            yield from _walk(universe, below, f"{info.name}.", onerror, seen)


def _iter_modules(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def iter_modules(path: Any = None, prefix: str = "") -> Any:
        universe = caller_universe(1)
        if universe is None or path is None or isinstance(path, str):
            return original(path, prefix)
        return iter(_listed(universe, path, prefix))

    iter_modules.original = original  # type: ignore[attr-defined]  # this is what it is for: the module, or function, is patched
    return iter_modules


def _listed(universe: Universe, path: Any, prefix: str) -> list[Any]:
    """List the modules in the directories ``path``: from the snapshot, which the disk may have left behind, else as they are."""
    import pkgutil

    places = list(path)
    snapshot = universe.snapshot
    if snapshot is None or not all(place in snapshot.directories for place in places):
        return list(pkgutil.iter_modules.original(places, prefix))  # type: ignore[attr-defined]  # this is what it is for: the module, or function, is patched
    found: dict[str, Any] = {}
    for place in places:
        for name, is_package in _modules_in(snapshot, place):
            found.setdefault(name, pkgutil.ModuleInfo(pkgutil.get_importer(place), prefix + name, is_package))  # type: ignore[arg-type]  # typeshed asks for more than the import system does
    return list(found.values())


def _modules_in(snapshot: Snapshot, place: str) -> list[tuple[str, bool]]:
    below = {directory.rpartition(os.sep)[2]: True for directory in snapshot.directories if directory.rpartition(os.sep)[0] == place}
    packages = {name: True for name in below if f"{place}{os.sep}{name}{os.sep}__init__.py" in snapshot.files}
    names = (inspect.getmodulename(file) for file in snapshot.directories[place])
    modules = {name: False for name in names if name is not None and name.isidentifier() and name != "__init__"}
    return sorted((modules | packages).items())
