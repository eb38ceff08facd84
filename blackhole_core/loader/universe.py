"""Universes: several generations of a plugin's modules side by side in one interpreter.

A :class:`Universe` owns dotted names (``acme``, ``ns.plug``) and loads them from its own directory. The newest has the
canonical names; one that was replaced goes on under private names (``acme@7.core``) until it is released, and everything its
code does stays among its own modules: each module carries a private ``__builtins__`` whose ``__import__`` looks in its own
generation first, and functions keep the builtins they were defined with, in threads, generators and coroutines too.

Modules that no universe owns (the host's, third-party dependencies) are shared. What this cannot do stands in
``docs/explanation/reload.md``. This module imports little: the worker process starts with it.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from blackhole_core.loader.distributions import Distributions, read_distributions
from blackhole_core.loader.find import find_elsewhere, find_roots
from blackhole_core.loader.finder import UniverseFinder
from blackhole_core.loader.generation import Generation, initializing
from blackhole_core.loader.names import Names
from blackhole_core.loader.shims import MARK, install_shims
from blackhole_core.loader.snapshot import read_snapshot
from blackhole_core.loader.sourcelines import show_lines
from blackhole_core.loader.statements import ImportStatements
from blackhole_core.loader.table import NameTable
from blackhole_core.loader.tracebacks import prune_traceback

if TYPE_CHECKING:
    from blackhole_core.loader.children import Recipe

__all__ = ["Universe", "live_generations"]

_table: Final = NameTable()
_finder: Final = UniverseFinder(_table)


class Universe(Generation):
    """One generation of a plugin's modules.

    ``packages`` are the dotted names it owns, ``path`` the directory searched first for them, ``tag`` a word used once per
    process. With ``fresh`` all source text is read at load and compiled from memory: what changes on disk later does not reach
    this generation, and no stale ``.pyc`` is served. ``fresh=False`` is for directories that never change (a versioned store): modules come
    through Python's own loaders and their ``.pyc`` files. ``recipe`` is that of a generation of another process, or of one that ended,
    whose text is taken instead of what is on disk.
    """

    def __init__(self, packages: Sequence[str], path: Path, tag: str, *, fresh: bool = True, recipe: Recipe | None = None) -> None:
        super().__init__(Names(packages, tag))
        self.path = path.absolute()
        self.fresh = fresh
        self.builtins = {**vars(builtins), "__import__": _private_import(self), MARK: self}
        self._roots: dict[str, ModuleSpec] = {}
        self.statements = ImportStatements(self)
        self._distributions: Distributions | None = None
        self._recipe = recipe
        self._released = False

    def __repr__(self) -> str:
        standing = "released" if self._released else "active" if self.active else f"{len(self.registry)} modules set aside"
        return f"<Universe {', '.join(self.names.prefixes)} {self.names.tag!r}: {standing}>"

    @property
    def modules(self) -> Mapping[str, ModuleType]:
        """The loaded modules by canonical name, a live view."""
        return MappingProxyType(self.registry)

    def load(self, entry: str, imported: Iterable[str] = ()) -> object:
        """Import ``module`` or ``module:attribute.path`` under canonical names and return the module or the attribute.

        A universe that had the names is set aside and goes on serving; what it had imported is imported here too, so that an error in a module shows
        before anything depends on it; ``imported`` names such modules of a predecessor that ran elsewhere. On any failure everything is as before, and the
        exception of the plugin's code propagates; TimeoutError when an import of the other universe does not end. A second call
        imports more of the same generation.
        """
        module_name, _, attributes = entry.partition(":")
        if self._released:
            raise RuntimeError(f"{self!r} cannot load {entry}: make a new universe with a new tag")
        if not self.names.owns(module_name):
            raise ValueError(f"entry {entry!r} is in none of the packages of this universe: {', '.join(self.names.prefixes)}")
        if self in _table.stack:
            return self._load_more(module_name, attributes)
        given = self._recipe
        self._read()
        _install_finder()
        install_shims()
        _table.push(self)
        try:
            if self.snapshot is not None:
                show_lines(_table.stack, self.snapshot)
            found = self._resolve(module_name, attributes)
            self._reimport(imported)
            return found
        except BaseException as error:
            _table.remove(self)
            self.registry.clear()
            self._recipe = given
            self._give_lines_back()
            prune_traceback(error)
            raise

    def release(self) -> None:
        """Forget the modules; a universe that this one had set aside gets its names back. A second call does nothing.

        Raises TimeoutError when that other one does not finish an import; nothing has changed then, call it again.
        """
        _table.remove(self)
        self._released = True
        self.registry.clear()
        self.statements.forget()
        self.kept = ()
        self._roots.clear()
        self._give_lines_back()
        self._distributions = {}
        self._recipe = None
        # typing keeps the classes that stood in List[...], Optional[...] or get_type_hints in caches of its own, and inspect those that were looked at (Python
        # 3.12 up to 3.12.3). This is how CPython's own leak tests empty them.
        for clear in getattr(sys.modules.get("typing"), "_cleanups", ()):
            clear()
        looked_at = getattr(sys.modules.get("inspect"), "_shadowed_dict_from_mro_tuple", None)
        if looked_at is not None:
            looked_at.cache_clear()

    def find(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Find the canonical ``name``: a root as it was at load, anything below it in the snapshot, else on disk."""
        root = self._roots.get(name)
        if root is not None:
            return root
        if self.snapshot is None:
            return find_elsewhere(name, path)
        found = self.snapshot.find(name, path or ())
        if found is not None:
            return found
        found = find_elsewhere(name, path)
        if found is not None and not self.active and self.snapshot.lacks(found):
            # A file that the next version brought into the same directory. Answering None would let the next finder find it.
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found

    def import_module(self, name: str) -> Any:
        """Return the module of this generation whose canonical name is ``name``, loading it if need be."""
        module = self.registry.get(name)
        if module is not None and not initializing(module):
            return module
        if self._released:
            raise ImportError(f"cannot import {name}: generation {self.names.tag!r} of {self.names.prefixes[0]} was released", name=name)
        with self.importing():
            try:
                # A fromlist makes __import__ return the leaf; a name every module has makes it load nothing more.
                return builtins.__import__(self.key(name), None, None, ("__name__",), 0)
            except ModuleNotFoundError as error:
                _canonicalise(error, self.names)
                raise

    def distributions(self) -> Distributions:
        """Return the metadata of the distributions in ``path`` that hold owned packages, as it was at load (a store's never changes)."""
        if self._distributions is None:
            assert self.path is not None
            self._distributions = read_distributions(self.path, self.names.prefixes)
        return self._distributions

    def recipe(self) -> Recipe:
        """Return what another process needs to make the same generation."""
        if self._recipe is None:
            from blackhole_core.loader.children import pack

            packed = None if self.snapshot is None else pack(self._roots, self.snapshot)
            self._recipe = (self.names.prefixes, str(self.path), self.names.tag, packed)
        return self._recipe

    def partner(self, name: str) -> Universe | None:
        """Return the generation of another plugin that ``name`` means to this one's code, None if no plugin owns it.

        It is the one that was active when this generation last could have met it, as long as that lives: two plugins that are replaced together
        never mix their generations.
        """
        found = next((known for known in self.kept if known.names.owns(name) and known in _table.stack), None) or _table.owner(name)
        if not isinstance(found, Universe):
            return None
        self.imports.update(found.names.prefixes)
        self.keep([found], _table.stack)
        return found

    # --- load, step by step -------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Find the roots and, when fresh, take the snapshot; nothing is imported yet."""
        assert self.path is not None
        if self._recipe is not None and self._recipe[3] is not None:
            from blackhole_core.loader.children import unpack

            self._roots, self.snapshot = unpack(self._recipe[3])
            return
        self._roots = find_roots(self.names.prefixes, self.path)
        if self.fresh:
            self._distributions = read_distributions(self.path, self.names.prefixes)
            self.snapshot = read_snapshot(self._roots.values())
            for older in _table.near(self.names):
                if older.snapshot is not None and older.names.overlaps(self.names):
                    self.snapshot.reuse(older.snapshot)

    def _give_lines_back(self) -> None:
        snapshot, self.snapshot = self.snapshot, None
        if snapshot is not None:
            show_lines(_table.stack, snapshot)

    def _reimport(self, imported: Iterable[str]) -> None:
        """Import what the predecessor had imported, however late: an error in a module shows now, while the old one can go on."""
        older = [known for known in _table.near(self.names) if known is not self and known.names.prefixes == self.names.prefixes]
        for name in dict.fromkeys((*imported, *(older[-1].registry if older else ()))):
            if not self.names.owns(name) or name.rpartition(".")[2] == "__main__":
                continue  # of a package it had and this one has not; a program, which somebody ran
            try:
                self.import_module(name)
            except ModuleNotFoundError as error:
                gone = error.name is not None and self.names.owns(error.name) and f"{name}.".startswith(f"{error.name}.")
                if not gone:
                    raise

    def _load_more(self, module_name: str, attributes: str) -> object:
        before = set(self.registry)
        try:
            return self._resolve(module_name, attributes)
        except BaseException as error:
            for name in set(self.registry) - before:
                del self.registry[name]
                sys.modules.pop(self.key(name), None)
            prune_traceback(error)
            raise

    def _resolve(self, module_name: str, attributes: str) -> object:
        module = self.import_module(module_name)
        return functools.reduce(getattr, attributes.split("."), module) if attributes else module


def live_generations() -> tuple[Generation, ...]:
    """Return what is loaded in this process, oldest first; generations that were set aside are among them."""
    return _table.stack


def _private_import(universe: Universe) -> Callable[..., Any]:
    """Make the ``__import__`` of one generation. Foreign names take the shortest way: it is paid by every import statement."""
    tops = universe.names.tops

    def __import__(  # noqa: A001, N807  (this is what it replaces)
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the names that the original has
        locals: Mapping[str, Any] | None = None,  # noqa: A002 - the names that the original has
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if level == 0 and (top := name.partition(".")[0]) not in tops:
            partner = universe.partner(name) if top in _table.tops else None
            if partner is None:
                return builtins.__import__(name, globals, locals, fromlist or (), 0)
            return partner.statements.perform(name, globals, fromlist, 0)
        return universe.statements.perform(name, globals, fromlist, level)

    return __import__


def _install_finder() -> None:
    if sys.meta_path[:1] != [_finder]:
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
        sys.meta_path.insert(0, _finder)


def _canonicalise(error: ModuleNotFoundError, names: Names) -> None:
    """Tell the plugin's code about its own name: it may compare ``error.name`` with what it asked for."""
    if error.name is not None and names.canonical(error.name) != error.name:
        error.name = names.canonical(error.name)
        error.msg = error.msg.replace(names.mark, "")
