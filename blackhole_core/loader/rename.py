"""Moving the modules of a generation from one set of names to another, in one step that no other thread can look into.

A module's name stands in many places: its key in ``sys.modules``, ``__name__``, ``__package__``, its spec, the ``__module__``
of its classes and functions (which pickle, dataclasses, ``typing.get_type_hints`` and ``inspect`` look up in ``sys.modules``).
A thread that saw half of them changed would mix two generations.

So the change is first *planned* as a list of calls into C (:func:`renaming`), then *applied* by one C loop (:func:`apply`).
CPython gives up the GIL only between bytecodes, and the loop runs none: every step is a dict or attribute store whose
implementation is C. That is why classes are changed with ``type.__setattr__`` (an Enum's own ``__setattr__`` is Python).
Without the GIL the steps are still each whole, but other threads may see some before the others.
"""

from __future__ import annotations

import collections
import functools
import itertools
import operator
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

__all__ = ["Step", "apply", "forgetting", "renaming"]

#: A call to make: the callable (C, and unable to fail) and its arguments.
Step: TypeAlias = tuple[Any, ...]

#: CPython's type flags: a heap type has a ``__module__`` that can be set, unless it is immutable.
_HEAP_TYPE: Final = 1 << 9
_IMMUTABLE_TYPE: Final = 1 << 8

#: Wrappers made by ``functools.lru_cache`` are pickled by their ``__module__`` as functions are.
_LRU_WRAPPER: Final = type(functools.lru_cache(int))


def apply(steps: Iterable[Step]) -> None:
    """Make all calls without running a bytecode in between."""
    collections.deque(itertools.starmap(operator.call, list(steps)), maxlen=0)


def renaming(modules: Mapping[str, object], old: Callable[[str], str], new: Callable[[str], str]) -> list[Step]:
    """Plan the move of ``modules`` (canonical name → module) from the names ``old`` gives them to those ``new`` gives."""
    moved = {old(name): new(name) for name in modules}
    steps: list[Step] = []
    seen: set[int] = set()
    for name, module in modules.items():
        steps.append((sys.modules.__setitem__, new(name), module))
        if isinstance(module, types.ModuleType):
            steps += _rename_module(module, moved)
            _rename_values(vars(module), moved, seen, steps)
    return steps + forgetting(modules, old)


def forgetting(modules: Iterable[str], key: Callable[[str], str]) -> list[Step]:
    """Plan the removal of ``modules`` (canonical names) from ``sys.modules``."""
    return [(sys.modules.pop, key(name), None) for name in modules]


def _rename_module(module: types.ModuleType, moved: Mapping[str, str]) -> list[Step]:
    namespace = vars(module)
    steps: list[Step] = [
        (namespace.__setitem__, attribute, moved[namespace[attribute]])
        for attribute in ("__name__", "__package__")
        if namespace.get(attribute) in moved
    ]
    spec = namespace.get("__spec__")
    if spec is not None and spec.name in moved:
        steps.append((setattr, spec, "name", moved[spec.name]))
    return steps


def _rename_values(namespace: Mapping[str, object], moved: Mapping[str, str], seen: set[int], steps: list[Step]) -> None:
    """Plan for the classes and functions found in a module or class, and for what the classes hold. Runs for each name of a plugin at each swap.

    Only ``type(value)`` is asked, never ``value`` itself: proxies answer ``isinstance`` by running the plugin's code.
    """
    for value in list(namespace.values()):
        kind = type(value)
        while kind is staticmethod or kind is classmethod:
            value = value.__func__  # type: ignore[attr-defined]  # noqa: PLW2901  (what it wraps is meant)
            kind = type(value)
        if kind is types.FunctionType or kind is _LRU_WRAPPER:
            if id(value) not in seen:
                seen.add(id(value))
                name = value.__module__
                if name in moved:
                    steps.append((setattr, value, "__module__", moved[name]))
        elif issubclass(kind, type) and id(value) not in seen:
            seen.add(id(value))
            _rename_class(value, moved, seen, steps)  # type: ignore[arg-type]  # its type was looked at


def _rename_class(cls: type, moved: Mapping[str, str], seen: set[int], steps: list[Step]) -> None:
    namespace = type.__getattribute__(cls, "__dict__")
    name = namespace.get("__module__")
    if not isinstance(name, str) or name not in moved:
        return
    if cls.__flags__ & _HEAP_TYPE and not cls.__flags__ & _IMMUTABLE_TYPE:
        steps.append((type.__setattr__, cls, "__module__", moved[name]))
        if "__firstlineno__" in namespace:  # since 3.13 setting __module__ drops it, and inspect.getsource needs it
            steps.append((type.__setattr__, cls, "__firstlineno__", namespace["__firstlineno__"]))
    _rename_values(namespace, moved, seen, steps)
