"""The hook into Python's import system: a finder for the names of loaded universes, and the loader it hands out."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from blackhole_core.loader.find import find_elsewhere, find_in
from blackhole_core.loader.generation import Generation
from blackhole_core.loader.names import MARK, tag_of
from blackhole_core.loader.shims import LATE, shimmed_after
from blackhole_core.loader.snapshot import Snapshot
from blackhole_core.loader.standin import canonical_of, missing, stand_in_spec
from blackhole_core.loader.table import NameTable

__all__ = ["ModuleLoader", "UniverseFinder"]


class UniverseFinder:
    """First on ``sys.meta_path``: answers for owned canonical names and for private ones, stays silent on all others."""

    #: How our own searches tell this finder from the others.
    blackhole = True

    def __init__(self, table: NameTable) -> None:
        self._table = table

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        tag = tag_of(fullname)
        if tag is not None:
            generation = self._table.tagged(tag)
            if generation is None:
                return self._find_stand_in(fullname)
            name = generation.names.canonical(fullname)
        else:
            generation = self._table.owner(fullname)
            name = fullname
        if generation is None:
            return self._find_late(fullname, path) if fullname in LATE else self._find_shared(fullname, path)
        found = generation.find(name, path)
        return None if found is None else _wrap(found, generation, fullname)

    @staticmethod
    def _find_late(fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        found = find_elsewhere(fullname, path)
        return None if found is None or found.loader is None else shimmed_after(found)

    def _find_stand_in(self, fullname: str) -> ModuleSpec:
        """Let the active generation answer for a private name of one that is gone; pickles carry such names."""
        name = canonical_of(fullname)
        owner = self._table.owner(name)
        if owner is None:
            raise missing(fullname)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise missing(fullname) from None
        return stand_in_spec(fullname)

    def _find_shared(self, fullname: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Find a namespace package above an owned one; when nobody else has it, in the universe's own directory."""
        if fullname.partition(".")[0] not in self._table.tops:
            return None
        for generation in self._table.active:
            if fullname in generation.names.shared and generation.path is not None and find_elsewhere(fullname, path) is None:
                directory = generation.path.joinpath(*fullname.split(".")[:-1])
                generation.made.add(fullname)
                return find_in(fullname, str(directory))
        return None

    @staticmethod
    def invalidate_caches() -> None:
        """Nothing is cached here."""


def _wrap(found: ModuleSpec, generation: Generation, fullname: str) -> ModuleSpec:
    """Return ``found`` under the key ``fullname``, loaded for ``generation``."""
    spec = ModuleSpec(fullname, ModuleLoader(generation, found), origin=found.origin)  # type: ignore[arg-type]  # typeshed asks for more than the import system does
    if found.submodule_search_locations is not None:
        # A plain list: a namespace package's own path object looks its parent up in sys.modules by name.
        spec.submodule_search_locations = list(found.submodule_search_locations)
    spec.has_location = found.has_location
    return spec


class ModuleLoader:
    """Loads one module for one generation, from the snapshot where it holds the text, else by Python's own loader.

    Its methods take the module's name in either spelling: the answers are the same before and after a switch.
    """

    def __init__(self, generation: Generation, found: ModuleSpec) -> None:
        self._generation = generation
        self._found = found

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        name = self._found.name
        if spec.name != self._generation.key(name):
            raise ImportError(f"{name} was swapped for another version while it was being imported; import it again", name=name)
        loader: Any = self._found.loader
        if isinstance(loader, ExtensionFileLoader):
            _refuse_changed_extension(self.get_filename())
            return self._create_extension(loader, spec.name)
        return None

    def _create_extension(self, loader: ExtensionFileLoader, key: str) -> ModuleType:
        """Make a C extension's module, and keep it out of ``sys.modules``: extensions of the old kind (single phase) put it there by their spec's name."""
        name = self._found.name
        if key != name and MARK not in key.rpartition(".")[2]:
            return loader.create_module(ModuleSpec(key, loader, origin=self._found.origin))
        # The last part of the name says which function to call in the library, so it cannot be private.
        there = sys.modules.get(name)
        module = loader.create_module(self._found)
        if key != name and there is not None:
            sys.modules[name] = there
        elif key != name:
            sys.modules.pop(name, None)
        return module

    def exec_module(self, module: ModuleType) -> None:
        name, registry = self._found.name, self._generation.registry
        key = module.__name__
        registry[name] = module
        try:
            self._run(module)
        except BaseException:
            registry.pop(name, None)
            raise
        # A module may have put something else in its place.
        registry[name] = sys.modules.get(key, module)

    def _run(self, module: ModuleType) -> None:
        loader: Any = self._found.loader
        if isinstance(loader, ExtensionFileLoader):
            loader.exec_module(module)
            return
        if self._generation.builtins is not None:
            vars(module)["__builtins__"] = self._generation.builtins
        code = self.get_code()
        if code is not None:
            exec(code, vars(module))  # noqa: S102  (this is what importing is)

    def get_code(self, fullname: str | None = None) -> CodeType | None:
        """Return the module's code; None for a namespace package."""
        snapshot = self._snapshot()
        if snapshot is not None:
            return snapshot.code(self.get_filename())
        code: CodeType | None = self._ask("get_code")
        return code

    def get_source(self, fullname: str | None = None) -> str | None:
        """Return the text the module was compiled from, whatever the file says now."""
        snapshot = self._snapshot()
        if snapshot is not None:
            return importlib.util.decode_source(snapshot.files[self.get_filename()])
        source: str | None = self._ask("get_source")
        return source

    def is_package(self, fullname: str | None = None) -> bool:
        return self._found.submodule_search_locations is not None

    def get_filename(self, fullname: str | None = None) -> str:
        if self._found.origin is None:
            raise ImportError(f"{self._found.name} has no file", name=self._found.name)
        return self._found.origin

    def get_data(self, path: str) -> bytes:
        loader: Any = self._found.loader
        data: bytes = loader.get_data(path)
        return data

    def get_resource_reader(self, fullname: str) -> Any:
        """Return Python's own reader: resources are read from disk, they are not part of the snapshot."""
        return self._ask("get_resource_reader")

    def _ask(self, method: str) -> Any:
        ask = getattr(self._found.loader, method, None)
        return None if ask is None else ask(self._found.name)

    def _snapshot(self) -> Snapshot | None:
        snapshot = self._generation.snapshot
        return snapshot if snapshot is not None and self._found.origin in snapshot.files else None


#: ``(size, mtime in ns, inode)`` of every C extension when it was first loaded, by path. The system never unloads one, so this is never forgotten.
_extensions: dict[str, tuple[int, int, int]] = {}


def _refuse_changed_extension(file: str) -> None:
    """Raise ImportError when another file was loaded from this path before: the system would silently return that one's code."""
    found = Path(file).stat()
    stamp = (found.st_size, found.st_mtime_ns, found.st_ino)
    if _extensions.setdefault(file, stamp) != stamp:
        raise ImportError(
            f"the C extension {file} has changed since this process loaded it, and a process keeps the code it loaded from a path; "
            "put the new version into another directory (a wheel gets one of its own) or run the plugin at isolation level process",
            path=file,
        )
