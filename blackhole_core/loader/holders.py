"""Who keeps a generation alive: a walk from what is left of it up the references, until something is found that can be named.

The walk goes in passes; each asks the collector once who refers to anything found in the pass before. It is bounded in passes, objects and time
and runs only when something was left behind. What the collector cannot see (C code, variables of running functions) it cannot find;
the end of :func:`find_holders` says so.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any, Final

from blackhole_core.loader.belongings import Belongings
from blackhole_core.loader.census import Holder, Registered, thread_holder

__all__ = ["Found", "find_holders"]

#: Steps from a namespace to a holder; the longest seen in tests is 9 (function, cell, closure, function, dict, object, dict, list, module).
_PASSES: Final = 16
#: Objects followed. A plugin with more instances than that is named by the first ones.
_OBJECTS: Final = 20_000
#: Seconds after which no new pass is begun. One pass over a million objects takes about 50 ms.
_SECONDS: Final = 0.5
#: Holders named; more of them say nothing new.
_HOLDERS: Final = 10

#: Types of containers that have no name of their own: they are what they lie in.
_PLAIN: Final = (dict, list, tuple, set, frozenset, types.CellType, types.MappingProxyType, types.GetSetDescriptorType, types.MemberDescriptorType)


class Found:
    """One step of the walk: an object, and the one below it that it refers to."""

    __slots__ = ("below", "thing")

    def __init__(self, thing: object, below: Found | None) -> None:
        self.thing = thing
        self.below = below


class _Walk:
    def __init__(self, belongings: Belongings, entries: list[Registered]) -> None:
        self._belongings = belongings
        self._registered: Mapping[int, Registered] = {id(entry.thing): entry for entry in entries}
        self._modules = {id(vars(module)): name for name, module in list(sys.modules.items()) if isinstance(module, types.ModuleType)}
        self._seen: set[int] = set()
        self._named: Found | None = None
        self.holders: dict[str, tuple[object, Holder]] = {}

    def run(self) -> None:
        frontier = [Found(thing, None) for thing in self._belongings.alive]
        self._seen.update(id(found.thing) for found in frontier)
        last_resort: list[tuple[Found, Found]] = []
        until = time.monotonic() + _SECONDS
        for _ in range(_PASSES):
            if not frontier or len(self._seen) > _OBJECTS or len(self.holders) >= _HOLDERS or time.monotonic() > until:
                break
            frontier = [above for above in self._above(frontier) if not self._is_holder(above)]
        self._name_the_rest(frontier)

    def _above(self, frontier: list[Found]) -> list[Found]:
        below = {id(found.thing): found for found in frontier}
        things = [found.thing for found in frontier]
        ours = {id(things), id(frontier), id(below)}
        result = []
        for thing in gc.get_referrers(*things):
            if id(thing) in self._seen or id(thing) in ours or type(thing) in (Found, Registered):
                continue
            self._seen.add(id(thing))
            reached = next((below[id(part)] for part in gc.get_referents(thing) if id(part) in below), None)
            if reached is not None:
                result.append(Found(thing, reached))
        return result
