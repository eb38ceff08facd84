"""Library functions that find things by a module's or distribution's name, made to answer for the generation of the code that calls them.

``importlib.import_module("acme.x")``, ``importlib.resources.files("acme")`` and their relatives do not go through ``__import__``. Whose code
is calling stands in the caller's builtins (``f_builtins``): that holds in threads, callbacks, coroutines and ``exec`` alike. For every caller outside
a universe, and for every name the caller's universe does not own, the original function answers.

Modules that few plugins need (:data:`LATE`) get their shims when somebody imports them, not before.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from blackhole_core.loader.universe import Universe

__all__ = ["LATE", "MARK", "caller_universe", "install_shims", "shimmed_after"]

#: The key in a module's ``__builtins__`` that leads to its universe; set on a module, it says that its shims are in place.
MARK: Final = "__blackhole_universe__"


def caller_universe(depth: int) -> Universe | None:
    """Return the universe whose code is ``depth`` frames up, None for the host's."""
    universe: Universe | None = sys._getframe(depth + 1).f_builtins.get(MARK)
    return universe


def install_shims() -> None:
    """Put the shims in place, once per process. They stay: who holds one may call it after the last universe is gone."""
    if not hasattr(importlib.import_module, MARK):
        importlib.import_module = _shim(importlib.import_module, _import_module)
        importlib.util.find_spec = _shim(importlib.util.find_spec, _find_spec)
    for name in LATE:
        module = sys.modules.get(name)
        if module is not None:
            _install_late(name, module)


# --- importlib ----------------------------------------------------------------------------------------------------------


def _shim(original: Callable[..., Any], answer: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def shim(name: str, package: str | None = None) -> Any:
        universe = caller_universe(1)
        if universe is None or (name.startswith(".") and not package):
            return original(name, package)
        # A relative name is the original's business to resolve; what it means is judged like any other.
        absolute = universe.names.canonical(importlib.util.resolve_name(name, package))
        whose = universe if universe.names.owns(absolute) else universe.partner(absolute)
        return original(absolute) if whose is None else answer(whose, absolute, original)

    setattr(shim, MARK, True)
    return shim


def _import_module(universe: Universe, absolute: str, _: Callable[..., ModuleType]) -> ModuleType:
    module: ModuleType = universe.import_module(absolute)
    return module


def _find_spec(universe: Universe, absolute: str, original: Callable[..., ModuleSpec | None]) -> ModuleSpec | None:
    with universe.importing():  # the key must stay the key while the parents are imported
        try:
            return original(universe.key(absolute))
        except ModuleNotFoundError as error:
            if error.name == absolute:
                return None  # it is there for another generation only
            raise


# --- what is imported late ----------------------------------------------------------------------------------------------


def _install_packages(module: ModuleType) -> None:
    from blackhole_core.loader.shimpackages import install_pkgutil

    install_pkgutil(module)


def _install_resources(module: ModuleType) -> None:
    from blackhole_core.loader.shimpackages import install_resources

    install_resources(module)


def _install_metadata(module: ModuleType) -> None:
    from blackhole_core.loader.distributions import install_metadata

    install_metadata(module)


def _install_children(module: ModuleType) -> None:
    from blackhole_core.loader.children import install_reducer

    install_reducer(module)


def _install_marshal(module: ModuleType) -> None:
    from blackhole_core.loader.shimmarshal import install_marshal

    install_marshal(module)


def _install_dataclasses(module: ModuleType) -> None:
    from blackhole_core.loader.shimdataclasses import install_dataclasses

    install_dataclasses(module)


#: Modules whose functions get shims, and who puts them there.
LATE: Final[dict[str, Callable[[ModuleType], None]]] = {
    "dataclasses": _install_dataclasses,
    "importlib.metadata": _install_metadata,
    "importlib.resources": _install_resources,
    "importlib_metadata": _install_metadata,
    "importlib_resources": _install_resources,
    "marshal": _install_marshal,
    "multiprocessing.reduction": _install_children,
    "pkgutil": _install_packages,
}


def shimmed_after(found: ModuleSpec) -> ModuleSpec:
    """Return ``found``, the spec of a :data:`LATE` module, so that its shims are in place before anyone sees the module."""
    found.loader = _ShimmingLoader(found.name, found.loader)  # type: ignore[assignment]  # typeshed asks for more than the import system does
    return found


def _install_late(name: str, module: ModuleType) -> None:
    if not hasattr(module, MARK):
        LATE[name](module)
        setattr(module, MARK, True)


class _ShimmingLoader:
    """Stands before a module's own loader while the module's body runs, then gives the place back."""

    def __init__(self, name: str, loader: Any) -> None:
        self._name = name
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _install_late(self._name, module)
