"""``multiprocessing`` from plugin code: a child process gets the generation that sent it work.

A child that is started by *spawn* or *forkserver* imports by name what it is sent. A plugin's modules are on no path it knows, and a generation that was
set aside has private names besides. A pool whose children cannot read their tasks starts new ones for ever. So whatever ``multiprocessing`` pickles
(``Process``, ``Pool``, ``ProcessPoolExecutor``, queues, pipes) names a plugin's class or function by its **recipe**: enough to make the same generation in a
process where nothing but ``blackhole_core`` can be imported. The text goes along, because the files may have been replaced meanwhile.

Invariant: **unpickling a reference never raises**. What cannot be had there is an :class:`Unavailable`, which raises when it is used, where
``multiprocessing`` hands exceptions back to the caller.
"""

from __future__ import annotations

import functools
import logging
import marshal
import os
import threading
import zlib
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final, Self

from blackhole_core.loader.generation import Generation
from blackhole_core.loader.snapshot import Snapshot, Sources

if TYPE_CHECKING:
    from blackhole_core.loader.universe import Universe

__all__ = ["Recipe", "Unavailable", "install_reducer", "pack", "resolve", "unpack"]

#: ``(owned prefixes, path, tag, packed sources)``; the sources are None for a directory that never changes. Plain data, equal for equal generations.
Recipe = tuple[tuple[str, ...], str, str, bytes | None]

logger = logging.getLogger("blackhole.children")

#: Held while a child makes a generation, so that two threads that unpickle do not make it twice.
_making: Final = threading.RLock()


# --- the sending side -----------------------------------------------------------------------------------------------------


def install_reducer(reduction: ModuleType) -> None:
    """Let everything that ``multiprocessing`` pickles name plugin code by its recipe."""
    reduction.ForkingPickler.reducer_override = _reduce


def _reduce(_: object, thing: Any) -> Any:
    """Answer the pickler's question how to write ``thing``; NotImplemented leaves it to the pickler."""
    if type(thing) is FunctionType or issubclass(type(thing), type):
        found = _home(thing)
        if found is not None:
            universe, module = found
            return resolve, (universe.recipe(), module, thing.__qualname__, type(thing) is not FunctionType)
    return NotImplemented


def _home(thing: Any) -> tuple[Universe, str] | None:
    """Return the live universe, and the canonical name of its module, in which ``thing`` is found under its own name."""
    from blackhole_core.loader.universe import Universe, live_generations

    name = thing.__module__
    if not isinstance(name, str):
        return None
    for generation in live_generations():
        module = generation.names.canonical(name)
        if (
            isinstance(generation, Universe)
            and module in generation.registry
            and _attribute(generation, module, thing.__qualname__) is thing
        ):
            return generation, module
    return None


def _attribute(generation: Generation, module: str, qualname: str) -> Any:
    try:
        return functools.reduce(getattr, qualname.split("."), generation.registry[module])
    except AttributeError:
        return None  # defined inside a function: the pickler says that it cannot be pickled


def pack(roots: dict[str, ModuleSpec], snapshot: Snapshot, *, level: int = 1) -> bytes | None:
    """Return a generation's sources as bytes, some 12 KB for 16 modules; None when they are not all held (a zip file). ``level`` is zlib's, 0: only what takes no time."""
    if any(root.origin is not None and root.origin not in snapshot.files for root in roots.values()):
        return None
    places = {
        name: (root.origin, root.submodule_search_locations and list(root.submodule_search_locations)) for name, root in roots.items()
    }
    plain = (places, dict(snapshot.files), {place: sorted(names) for place, names in snapshot.directories.items()})
    return zlib.compress(marshal.dumps(plain), level)


# --- the receiving side ---------------------------------------------------------------------------------------------------


def unpack(packed: bytes) -> Sources:
    """Return what :func:`pack` was given."""
    places, files, directories = marshal.loads(zlib.decompress(packed))  # noqa: S302  (from the process that started this one)
    roots = {}
    for name, (origin, locations) in places.items():
        root = None if origin is None else spec_from_file_location(name, origin, submodule_search_locations=locations)
        if root is None:
            root = ModuleSpec(name, None, origin=origin, is_package=True)
            root.submodule_search_locations = locations
        roots[name] = root
    return roots, Snapshot(files, {place: frozenset(names) for place, names in directories.items()})


def resolve(recipe: Recipe, module: str, qualname: str, is_class: bool) -> Any:
    """Return the attribute ``qualname`` of ``module`` in the generation that ``recipe`` describes, making the generation if this process has none.

    Never raises: see the module's docstring.
    """
    try:
        with _making:
            universe = _known(recipe) or _made(recipe)
        return functools.reduce(getattr, qualname.split("."), universe.load(module))
    except (Exception, SystemExit) as error:
        unavailable = _unavailable(recipe, f"{module}.{qualname}", error)
        return unavailable if is_class else unavailable()


def _known(recipe: Recipe) -> Universe | None:
    from blackhole_core.loader.universe import Universe, live_generations

    prefixes, path, tag, packed = recipe
    alike = [known for known in live_generations() if isinstance(known, Universe) and known.names.prefixes == prefixes]
    same = [known for known in alike if str(known.path) == path and known.recipe()[3] == packed]
    return next((known for known in same if known.names.tag == tag), same[-1] if same else None)


def _made(recipe: Recipe) -> Universe:
    from blackhole_core.loader.universe import Universe, live_generations

    prefixes, path, tag, packed = recipe
    taken = {known.names.tag for known in live_generations()}
    while tag in taken:
        tag += "-sent"
    return Universe(prefixes, Path(path), tag, fresh=packed is not None, recipe=recipe)


class Unavailable:
    """Stands for a class or function that this process could not load, for its instances and their methods. Calling one of those raises ImportError."""

    reason = ""

    def __new__(cls, *_: object, **__: object) -> Self:
        return object.__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Take the state of the instance it stands for, and drop it."""

    def __call__(self, *_: object, **__: object) -> Any:
        raise ImportError(self.reason)

    def __getattr__(self, name: str) -> Self:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(self)()  # a bound method is unpickled by getattr


def _unavailable(recipe: Recipe, name: str, error: BaseException) -> type[Unavailable]:
    reason = (
        f"process {os.getpid()} cannot load {name} of generation {recipe[2]!r} from {recipe[1]}: {type(error).__name__}: {error}; "
        "a child process that plugin code starts must be able to import what that code imports"
    )
    # Making an instance must work, because unpickling does it; so that nobody is left in the dark, it is said here too.
    logger.error(reason)
    return type("Unavailable", (Unavailable,), {"reason": reason})
