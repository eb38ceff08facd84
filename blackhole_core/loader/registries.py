"""Objects that are known to keep callbacks and values for others, and how each is called in a report.

Every rule looks at one object that the walk came to, by its type; ``below`` are the objects it was reached from, nearest first. The rules
for libraries ask ``sys.modules``: nothing is imported for them.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import itertools
import logging
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any, Final

from blackhole_core.loader.census import Holder

__all__ = ["holder_of", "unnamed_holder"]

_LRU_WRAPPER: Final = type(functools.lru_cache(int))

#: Modules whose classes are queues.
_QUEUES: Final = frozenset(("queue", "_queue", "asyncio.queues", "multiprocessing.queues"))

Below = Sequence[object]


def holder_of(thing: Any, below: Below) -> Holder | None:
    """Return what ``thing`` is to the plugin when it is a registry of a known kind, else None."""
    for rule in _RULES:
        holder = rule(thing)
        if holder is not None:
            return holder
    return _context_variable(thing, below) or _class(thing, below)


def _logger(thing: Any) -> Holder | None:
    if isinstance(thing, logging.Logger):
        return Holder(f"logger {thing.name!r} keeps {{what}}", "use context.add_log_handler or context.add_log_filter")
    return None


def _lru_cache(thing: Any) -> Holder | None:
    if type(thing) is not _LRU_WRAPPER:
        return None
    wrapped = thing.__wrapped__
    name = f"{wrapped.__module__}.{wrapped.__qualname__}"
    return Holder(f"{{what}} is in the functools.lru_cache of {name}", f"clear it: context.lease({wrapped.__name__}.cache_clear)")


def _singledispatch(thing: Any) -> Holder | None:
    if type(thing) is not types.FunctionType or not {"registry", "dispatch"} <= vars(thing).keys():
        return None
    return Holder(
        f"{{what}} is registered with the functools.singledispatch function {thing.__module__}.{thing.__qualname__}",
        "such a function cannot forget: register types that no plugin owns, or run the plugin at level process",
    )


def _context_variable(thing: Any, below: Below) -> Holder | None:
    if not type(thing).__name__.startswith("hamt") and type(thing) is not contextvars.Context:
        return None
    # A node of the map refers to values and keys in turn, each value before its key.
    parts = gc.get_referents(thing)
    names = [key.name for value, key in itertools.pairwise(parts) if below and value is below[0] and type(key) is contextvars.ContextVar]
    name = f"context variable {names[0]!r}" if names else "a context variable"
    return Holder(f"{{what}} is the value of {name}", "reset it: context.lease(lambda: variable.set(None)) in the context that has it")


def _thread_local(thing: Any) -> Holder | None:
    if issubclass(type(thing), threading.local):
        return Holder("{what} is kept in a threading.local of some thread", "delete it in plugin_stop, on that thread")
    return None


def _queue(thing: Any) -> Holder | None:
    if type(thing).__module__ in _QUEUES:
        return Holder(f"{{what}} is an item of a {type(thing).__module__}.{type(thing).__qualname__}", "take it out in plugin_stop")
    return None


def _finalizer(thing: Any) -> Holder | None:
    if type(thing).__module__ == "weakref" and type(thing).__qualname__ == "finalize._Info":
        return Holder(
            "{what} is the function of a weakref.finalize", "keep the finalizer and have it detached: context.lease(finalizer.detach)"
        )
    return None


def _pluggy(thing: Any) -> Holder | None:
    kinds = {base.__qualname__ for base in type(thing).__mro__ if base.__module__.startswith("pluggy.")}
    if "PluginManager" in kinds:
        return Holder(
            f"{{what}} is registered with a pluggy manager of project {thing.project_name!r}",
            "unregister it: context.lease(lambda: manager.unregister(plugin))",
        )
    if "HookSpec" in kinds:
        return Holder(
            f"{{what}} specifies hook {thing.name!r} of a pluggy manager",
            "specifications cannot be removed: put them in a package that no plugin owns",
        )
    return None


def _asyncio(thing: Any) -> Holder | None:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    if issubclass(type(thing), asyncio.Task) and not thing.done():
        return Holder(f"asyncio task {thing.get_name()!r} runs {{what}}", "start it with context.task, which cancels it")
    if issubclass(type(thing), asyncio.Handle) and not thing.cancelled():
        return Holder("an event loop will call {what}", "cancel the handle: context.lease(handle.cancel)")
    return None


def _class(thing: Any, below: Below) -> Holder | None:
    if not issubclass(type(thing), type):
        return None
    name = f"{thing.__module__}.{thing.__qualname__}"
    attribute = next((key for key, value in vars(thing).copy().items() if any(value is known for known in below)), None)
    if attribute is not None:
        return Holder(
            f"{{what}} is kept in {name}.{attribute}", "if it is a patch make it with context.patch, else take it out in plugin_stop"
        )
    return Holder(f"class {name} derives from {{what}}", "derive from classes that no plugin owns")


_RULES: Final[tuple[Callable[[Any], Holder | None], ...]] = (
    _logger,
    _lru_cache,
    _singledispatch,
    _thread_local,
    _queue,
    _finalizer,
    _pluggy,
    _asyncio,
)


def unnamed_holder(thing: object) -> Holder | None:
    """Return what a list that belongs to the interpreter itself is for; it is told by what else is in it."""
    if type(thing) is not list:
        return None
    modules = {getattr(entry, "__module__", None) for entry in thing}
    if "encodings" in modules:
        return Holder("{what} is registered with codecs.register", "take it back: context.lease(lambda: codecs.unregister(function))")
    return Holder(
        "{what} is in a list of the interpreter itself, as os.register_at_fork makes them",
        "Python cannot undo that: run the plugin at level process",
    )
