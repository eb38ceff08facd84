"""Modules that stand in for those of a generation that is gone, so that a pickle that names one can still be read.

Objects that a set-aside generation pickled carry its private names (``acme@7.core``). Once that generation was released, the name means
the module of the same canonical name in whatever generation is active: the same thing a pickle written before the switch means.
"""

from __future__ import annotations

import importlib
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from blackhole_core.loader.names import MARK

__all__ = ["StandIn", "canonical_of", "missing", "stand_in_spec"]


class StandIn(ModuleType):
    """Looks every attribute up in the active generation, and holds nothing of it."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(importlib.import_module(canonical_of(self.__name__)), attribute)

    def __repr__(self) -> str:
        # This is what pickle shows when the active version has no such class.
        return f"<{canonical_of(self.__name__)} of the active generation, in place of {self.__name__} whose generation is gone>"


class _StandInLoader:
    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Nothing to run."""


def stand_in_spec(fullname: str) -> ModuleSpec:
    """Return the spec of a stand-in; every one counts as a package, because any may be the parent of another."""
    return ModuleSpec(fullname, _StandInLoader(), is_package=True)  # type: ignore[arg-type]  # typeshed asks for more than the import system does


def canonical_of(private: str) -> str:
    """Return the canonical name in any private one, whatever its tag: ``acme@7.core`` is ``acme.core``."""
    prefix, _, rest = private.partition(MARK)
    return prefix + "".join(rest.partition(".")[1:])


def missing(private: str) -> ModuleNotFoundError:
    """Return the error for a private name for which nothing can stand in."""
    name = canonical_of(private)
    return ModuleNotFoundError(
        f"no module {private}: the generation that was called so is gone, and no generation that has a module {name} is loaded; "
        f"load the plugin that owns {name}, then read the pickle again",
        name=private,
    )
