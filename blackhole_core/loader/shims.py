"""Library functions that find modules by name, made to answer for the generation of the code that calls them.

``importlib.import_module("acme.x")`` and its relatives do not go through ``__import__``. Whose code is calling stands in the caller's
builtins (``f_builtins``): that holds in threads, callbacks, coroutines and ``exec`` alike. For every caller outside a universe, and for every
name the caller's universe does not own, the original function answers.
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

__all__ = ["MARK", "caller_universe", "install_shims"]

#: The key in a module's ``__builtins__`` that leads to its universe.
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


def _shim(original: Callable[..., Any], answer: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def shim(name: str, package: str | None = None) -> Any:
        universe = caller_universe(1)
        if universe is None or (name.startswith(".") and not package):
            return original(name, package)
        # A relative name is the original's business to resolve; what it means is judged like any other.
        absolute = universe.names.canonical(importlib.util.resolve_name(name, package))
        if not universe.names.owns(absolute):
            return original(absolute)
        return answer(universe, absolute, original)

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
