"""What the ``import`` statements of one generation's code do: as Python's, with owned names meaning the generation's own modules."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blackhole_core.loader.universe import Universe

__all__ = ["ImportStatements"]


class ImportStatements:
    """Performs import statements for the code of ``universe``."""

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self._views: dict[str, _NamespaceView] = {}

    def perform(self, name: str, namespace: Mapping[str, Any] | None, fromlist: Sequence[str] | None, level: int) -> Any:
        """Do what ``__import__`` does in a module's ``namespace``."""
        absolute = self._universe.names.absolute(name, level, namespace)
        if fromlist:
            return self._import_from(absolute, fromlist)
        self._module(absolute)
        if level == 0:
            return self._module(absolute.partition(".")[0])
        # `__import__("a.b", level=1)` returns `.a`
        return self._module(absolute.removesuffix(name.partition(".")[1] + name.partition(".")[2]))

    def view(self, name: str) -> ModuleType:
        """Return the namespace package ``name``, which lies above an owned one, as this generation sees it."""
        view = self._views.get(name)
        if view is None:
            view = self._views.setdefault(name, _NamespaceView(name, self._universe))
        return view

    def forget(self) -> None:
        """Let go of the views, when the generation is released."""
        self._views.clear()

    def _import_from(self, absolute: str, fromlist: Sequence[str]) -> Any:
        module = self._module(absolute)
        if not hasattr(module, "__path__"):
            return module
        wanted = [name for name in fromlist if name != "*"]
        if "*" in fromlist:
            wanted += getattr(module, "__all__", ())
        for child in wanted:
            if not hasattr(module, child):
                self._try_submodule(f"{absolute}.{child}")
        return module

    def _try_submodule(self, full: str) -> None:
        """Import a name of a ``from`` list that may be a submodule; the statement itself complains when it is nothing."""
        try:
            self._module(full)
        except ModuleNotFoundError as error:
            if error.name != full or sys.modules.get(self._universe.key(full), error) is None:
                raise

    def _module(self, absolute: str) -> Any:
        names = self._universe.names
        if names.owns(absolute):
            return self._universe.import_module(absolute)
        module = builtins.__import__(absolute, None, None, ("__name__",), 0)
        return self.view(absolute) if absolute in names.shared else module


class _NamespaceView(ModuleType):
    """A namespace package as one generation sees it: its own part is its own, the rest is everybody's.

    ``import ns.plug`` binds ``ns``; were that the shared module, ``ns.plug`` would be whichever generation is active.
    """

    def __init__(self, name: str, universe: Universe) -> None:
        super().__init__(name)
        namespace = vars(self)
        for attribute in ("__loader__", "__spec__", "__package__", "__doc__"):
            namespace.pop(attribute, None)
        namespace["_blackhole_universe"] = universe

    def __getattr__(self, attribute: str) -> Any:
        namespace = vars(self)
        universe: Universe = namespace["_blackhole_universe"]
        full = f"{namespace['__name__']}.{attribute}"
        if full in universe.names.shared:
            return universe.statements.view(full)
        if universe.names.owns(full):
            if full in universe.registry:
                return universe.registry[full]
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {attribute!r}", name=attribute, obj=self)
        return getattr(sys.modules[namespace["__name__"]], attribute)
