"""Who keeps a generation alive: a walk from what is left of it up the references, until something is found that can be named.

The walk goes in passes; each asks the collector once who refers to anything found in the pass before. It is bounded in passes, objects
and time, and runs only when something was left behind. What the collector cannot see (references from C, variables of running
functions) it cannot find: :func:`held_from_c` tells which functions are held like that.
"""

from __future__ import annotations

import collections
import gc
import logging
import operator
import sys
import threading
import time
import types
from collections.abc import Iterable
from typing import Any, Final

from blackhole_core.loader.belongings import Belongings
from blackhole_core.loader.census import Holder, Registered, thread_holder
from blackhole_core.loader.registries import holder_of, unnamed_holder

__all__ = ["find_holders", "held_from_c"]

#: Steps from a namespace to a holder. The longest in the tests takes 9: a class in a host's registry inside an object inside a list.
_PASSES: Final = 16
#: Objects followed. A plugin with more instances than that is found by the first ones.
_OBJECTS: Final = 20_000
#: Seconds after which no new pass is begun. One pass over a million objects takes about 50 ms.
_SECONDS: Final = 0.5
#: Holders named; more of them say nothing new.
_HOLDERS: Final = 10

#: Kinds that have no name of their own: they are said to be what they lie in.
_NAMELESS: Final = frozenset(
    (
        dict, list, tuple, set, frozenset, collections.deque, types.CellType, types.MappingProxyType, types.GetSetDescriptorType,
        types.MemberDescriptorType, types.TracebackType, types.FrameType, types.MethodType,
    )
)  # fmt: skip


class _Step:
    """One object on the way up. ``below`` is the step it refers to, ``outside`` the first object on the way that is not the plugin's."""

    __slots__ = ("below", "outside", "own", "thing")

    def __init__(self, thing: object, below: _Step | None, own: bool) -> None:
        self.thing = thing
        self.below = below
        self.own = own
        self.outside: object | None = below.outside if below is not None else None
        if self.outside is None and not own and type(thing) not in _NAMELESS:
            self.outside = thing

    def highest_own(self) -> object:
        """Return the plugin's object through which this one leads to the plugin."""
        step = self
        while not step.own and step.below is not None:
            step = step.below
        return step.thing


def find_holders(belongings: Belongings, entries: Iterable[Registered], threads: Iterable[threading.Thread]) -> list[Holder]:
    """Return who keeps what is left of a generation, ``{what}`` filled in.

    ``entries`` is what is registered where the collector cannot look; ``threads`` are named already and not named again.
    """
    walk = _Walk(belongings, entries, threads)
    walk.run()
    return list(walk.holders.values())


class _Walk:
    """One walk. Keeps ids and words of what it met, so that it is not taken for a holder itself."""

    def __init__(self, belongings: Belongings, entries: Iterable[Registered], threads: Iterable[threading.Thread]) -> None:
        self._belongings = belongings
        self._registered = {id(entry.thing): entry for entry in entries}
        self._named_threads = {id(thread) for thread in threads}
        self._modules = {
            id(vars(module)): name for name, module in sys.modules.copy().items() if issubclass(type(module), types.ModuleType)
        }
        self._seen: set[int] = set()
        self._aliases: dict[int, str] = {}  # id of an object that lies in modules' namespaces → the name it was found under first
        self.holders: dict[str, Holder] = {}

    def run(self) -> None:
        until = time.monotonic() + _SECONDS
        frontier = [_Step(thing, None, own=True) for thing in self._belongings.alive]
        self._seen.update(id(step.thing) for step in frontier)
        frontier = [step for step in frontier if not self._ends_at(step)]
        for _ in range(_PASSES):
            if not frontier or len(self._seen) > _OBJECTS or len(self.holders) >= _HOLDERS or time.monotonic() > until:
                break
            frontier = [step for step in self._above(frontier) if not self._ends_at(step)]
        if not self.holders:
            for step in frontier:
                self._add_unnamed(step)

    def _above(self, frontier: list[_Step]) -> list[_Step]:
        """Return one step for each object that refers to one of ``frontier`` and was not met before."""
        below = {id(step.thing): step for step in frontier}
        things = [step.thing for step in frontier]
        skip = {id(things), id(frontier), id(below), *map(id, frontier)}
        steps, ends = [], set(below)
        for thing in _referrers(things):
            if id(thing) in skip or type(thing) in (_Step, Registered):
                continue
            reached = [id(part) for part in gc.get_referents(thing) if id(part) in below]
            ends.difference_update(reached)
            if reached and id(thing) not in self._seen:
                self._seen.add(id(thing))
                steps.append(_Step(thing, below[reached[0]], self._belongings.own(thing)))
        for ident in ends:
            self._add_unnamed(below[ident])
        return steps

    def _ends_at(self, step: _Step) -> bool:
        """Name the holder if this is one, and say whether the walk need not go further up from it."""
        thing = step.thing
        entry = self._registered.get(id(thing))
        if entry is not None:
            self._add(step, entry.holder)
            return not step.own
        if step.own or step.below is None:
            return False
        if issubclass(type(thing), threading.Thread):
            assert isinstance(thing, threading.Thread)
            if thing.is_alive() and id(thing) not in self._named_threads:
                self._add(step, thread_holder(thing))
            return thing.is_alive()
        module = self._modules.get(id(thing))
        if module is not None:
            self._add_attribute(step, module, thing)
            return True
        lower = _lower(step)
        if issubclass(type(thing), logging.Logger) and any(id(known) in self._registered for known in lower):
            return True  # its handlers and filters are registered there, and named as that
        holder = holder_of(thing, lower)
        if holder is not None:
            self._add(step, holder)
        return holder is not None

    # --- in words ----------------------------------------------------------------------------------------------------

    def _add(self, step: _Step, holder: Holder) -> None:
        text = holder.text.replace("{what}", self._belongings.describe(step.highest_own()))
        self.holders.setdefault(text, Holder(text, holder.advice))

    def _add_attribute(self, step: _Step, module: str, namespace: Any) -> None:
        """Name ``module.attribute``. What several modules have imported by name is named once, unless it is the plugin's own object."""
        assert step.below is not None
        value = step.below.thing
        attribute = next((name for name, known in dict.copy(namespace).items() if known is value), "?")
        if step.below.own:
            self._add(step, Holder(f"{module}.{attribute} is {{what}}", "put it there with context.patch, which puts back what was there"))
        elif self._aliases.setdefault(id(value), f"{module}.{attribute}") == f"{module}.{attribute}":
            through = "" if step.outside is None or step.outside is namespace else f", in {_type_name(step.outside)}"
            self._add(
                step, Holder(f"{{what}} is kept in {module}.{attribute}{through}", "take it out in plugin_stop, or with context.lease")
            )

    def _add_unnamed(self, step: _Step) -> None:
        """Name a holder that nothing refers to, as far as the collector sees, or that the walk did not get beyond."""
        if step.own:
            return
        holder = unnamed_holder(step.thing)
        if holder is None:
            kept_by = step.outside if step.outside is not None else step.thing
            holder = Holder(f"{{what}} is kept by {_type_name(kept_by)}", "let it go in plugin_stop, or with context.lease")
        self._add(step, holder)


def _referrers(things: list[Any]) -> list[object]:
    """Return what refers to any of ``things``, as far as the collector sees: this list is among it. From Python 3.13 on the arguments of such a question are, too, and are left out."""
    asked = tuple(things)
    return [
        thing
        for thing in gc.get_referrers(*asked)
        if thing is not asked and not (type(thing) is tuple and len(thing) == len(asked) and all(map(operator.is_, thing, asked)))
    ]


def _lower(step: _Step) -> list[object]:
    """Return the objects below a step, nearest first: what a holder has an entry for is one of the first few."""
    things: list[object] = []
    below = step.below
    while below is not None and len(things) < 4:
        things.append(below.thing)
        below = below.below
    return things


def _type_name(thing: Any) -> str:
    kind = type(thing)
    if kind is types.FunctionType:
        return f"function {thing.__module__}.{thing.__qualname__}"
    article = "an" if kind.__qualname__[:1].lower() in "aeiou" else "a"
    return f"{article} {kind.__qualname__}" if kind.__module__ == "builtins" else f"an object of type {kind.__module__}.{kind.__qualname__}"


def held_from_c(belongings: Belongings) -> list[str]:
    """Return the functions of the generation that have more references than the collector can explain."""
    functions = [
        value for thing in belongings.alive if type(thing) is dict for value in list(thing.values()) if type(value) is types.FunctionType
    ]
    explained: collections.Counter[int] = collections.Counter()
    wanted = {id(function) for function in functions}
    for thing in _referrers(functions):
        explained.update(ident for ident in map(id, gc.get_referents(thing)) if ident in wanted)
    found = []
    while functions:
        function = functions.pop()
        # One more reference is the variable here, and one the argument of getrefcount.
        if belongings.own(function) and sys.getrefcount(function) > explained[id(function)] - 1 + 2:
            found.append(belongings.describe(function))
    return sorted(found)
