"""Who has which canonical names: the one owner of that knowledge, and the one place where it changes.

The live generations stand in a stack, oldest first. Invariant, outside :meth:`NameTable._switch`: **a generation is active exactly when no
later one in the stack owns a name of it.** So loading pushes (and demotes whom it covers), releasing removes (and promotes
whom nobody covers any more), and both are one atomic step for every other thread.

Modules that the host imported by itself before a plugin of that name was loaded form an *outside* generation: it is set
aside like any other and gets its names back when the plugin is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from blackhole_core.loader.generation import SWITCH_SECONDS, Generation
from blackhole_core.loader.names import MARK, Names, tag_of
from blackhole_core.loader.rename import Step, apply, forgetting, renaming
from blackhole_core.loader.standin import StandIn

__all__ = ["NameTable"]


class Outside(Generation):
    """Modules imported by the host itself. Their own late absolute imports get whoever is active: see the docs."""


class NameTable:
    """The stack of live generations. Readable from any thread: its values are replaced, never changed."""

    def __init__(self) -> None:
        self.stack: tuple[Generation, ...] = ()
        self.active: tuple[Generation, ...] = ()
        #: The stack by the first part of the names: what shares none of them has nothing to do with one another. Its keys are the names' first parts.
        self.tops: Mapping[str, tuple[Generation, ...]] = {}
        self._lock = threading.RLock()  # held for a whole switch, waiting for imports included (bounded by SWITCH_SECONDS)
        self._outside_tags = (f"outside-{number}" for number in itertools.count(1))

    def owner(self, name: str) -> Generation | None:
        """Return the generation that has the canonical ``name`` now."""
        for generation in self.tops.get(name.partition(".")[0], ()):
            if generation.active and generation.names.owns(name):
                return generation
        return None

    def near(self, names: Names) -> tuple[Generation, ...]:
        """Return the generations that may overlap ``names``, oldest first."""
        found = {generation: None for top in names.tops for generation in self.tops.get(top, ())}
        return tuple(found) if len(names.tops) == 1 else tuple(sorted(found, key=self.stack.index))

    def tagged(self, tag: str) -> Generation | None:
        for generation in self.stack:
            if generation.names.tag == tag:
                return generation
        return None

    def push(self, new: Generation) -> None:
        """Give ``new`` its names. Raises TimeoutError, with nothing changed, when a covered generation does not stop importing."""
        with self._lock:
            if self.tagged(new.names.tag) is not None:
                raise ValueError(f"a universe tagged {new.names.tag!r} is loaded already; a tag is used once per process")
            outside = self._sweep(new.names)
            if outside:
                self._set_aside(Outside(Names(new.names.prefixes, next(self._outside_tags))), outside)
            covered = [known for known in self.near(new.names) if known.active and known.names.overlaps(new.names)]
            living = set(self.stack)
            for other in self.stack:
                if (covered or other.kept) and not other.names.overlaps(new.names):
                    other.keep(covered, living)
            try:
                self._switch((*self.stack, new), {*self.active, new}.difference(covered))
            except BaseException:
                self._retire_outside()
                raise

    def remove(self, gone: Generation) -> None:
        """Forget the modules of ``gone`` and give the names to whom they fall. Raises TimeoutError with nothing changed."""
        with self._lock:
            if gone not in self.stack:
                return
            self._sweep(gone.names)
            stack = tuple(known for known in self.stack if known is not gone)
            near = [known for known in self.near(gone.names) if known is not gone]
            heirs = {known for known in near if known.names.overlaps(gone.names) and not _is_covered(known, stack)}
            self._switch(stack, heirs.union(self.active).difference((gone,)), gone)
            self._retire_outside()

    def _switch(self, stack: tuple[Generation, ...], serving: set[Generation], gone: Generation | None = None) -> None:
        """Let ``stack`` be what lives and ``serving`` what has its names."""
        # Sets: a host may have a thousand generations, and each `in` would look at all of them.
        living, lived, served = set(stack), set(self.stack), set(self.active)
        active = tuple(known for known in stack if known in serving)
        demoted = sorted((served - serving) & living, key=stack.index)
        promoted = sorted((serving - served) & lived, key=stack.index)
        deadline = time.monotonic() + SWITCH_SECONDS
        with contextlib.ExitStack() as held:
            for generation in (*demoted, *promoted):
                held.enter_context(generation.quiet(deadline))
            steps: list[Step] = [] if gone is None else self._forgetting(gone, stack)
            for generation in demoted:
                steps += [*_unbind(generation), *generation.unchanged(lambda one=generation: _demotion(one))]  # type: ignore[misc]  # a default binds the loop's value
            for generation in promoted:
                steps += [*generation.unchanged(lambda one=generation: _promotion(one)), *_bind(generation)]  # type: ignore[misc]  # a default binds the loop's value
            steps += [(setattr, known, "active", known in serving) for known in served ^ serving]
            tops = _indexed(self.tops, lived ^ living, stack)
            steps += [(setattr, self, "stack", stack), (setattr, self, "active", active), (setattr, self, "tops", tops)]
            apply(steps)

    @staticmethod
    def _forgetting(gone: Generation, stack: tuple[Generation, ...]) -> list[Step]:
        steps = [*_unbind(gone), *forgetting(list(gone.registry), gone.key)]
        for name in gone.made:
            heirs = [known for known in stack if name in known.names.shared]
            steps.append((heirs[-1].made.add, name) if heirs else (sys.modules.pop, name, None))
        return steps

    def _sweep(self, names: Names) -> dict[str, Any]:
        """Hand modules that got into ``sys.modules`` by themselves near ``names`` to the generation under whose names they stand.

        Plugins put aliases there. Only generations that overlap ``names`` change theirs now; the others are looked after when it is their turn. Stand-ins for generations that are gone are forgotten. Returns those under ``names`` that stand under no generation's: the host's own imports.
        """
        outside = {}
        # A copy, because listing the items makes tuples, which may start a collection, and what that runs may import.
        for key, module in sys.modules.copy().items():
            if key.partition(".")[0] not in names.tops and MARK not in key:
                continue  # nearly all of the thousands of modules in a host
            tag = tag_of(key)
            owner = self.owner(key) if tag is None else self.tagged(tag)
            if owner is not None:
                owner.registry.setdefault(owner.names.canonical(key), module)
            elif isinstance(module, StandIn):
                sys.modules.pop(key, None)
            elif tag is None and names.owns(key):
                outside[key] = module
        return outside

    def _set_aside(self, outside: Outside, modules: dict[str, Any]) -> None:
        outside.registry.update(modules)
        outside.active = True
        self.stack, self.active = (*self.stack, outside), (*self.active, outside)
        self.tops = _indexed(self.tops, {outside}, self.stack)

    def _retire_outside(self) -> None:
        """Let go of outside generations that have their names back: they are the host's plain modules again."""
        back = {known for known in self.active if isinstance(known, Outside)}
        self.stack = tuple(known for known in self.stack if known not in back)
        self.active = tuple(known for known in self.active if known not in back)
        self.tops = _indexed(self.tops, back, self.stack)


def _is_covered(generation: Generation, stack: tuple[Generation, ...]) -> bool:
    """Tell whether a later one owns a name of ``generation``."""
    later = stack[stack.index(generation) + 1 :]
    return any(generation.names.overlaps(other.names) for other in later)


def _indexed(
    tops: Mapping[str, tuple[Generation, ...]], changed: Iterable[Generation], stack: tuple[Generation, ...]
) -> Mapping[str, tuple[Generation, ...]]:
    """Return ``tops`` as it is after ``changed`` came (they are in ``stack``, the newest of it) or went."""
    new = dict(tops)
    for generation in changed:
        there = generation in stack
        for top in generation.names.tops:
            others = tuple(known for known in new.get(top, ()) if known is not generation)
            new[top] = (*others, generation) if there else others
            if not new[top]:
                del new[top]
    return new


def _demotion(generation: Generation) -> list[Step]:
    return renaming(dict(generation.registry), str, generation.names.private)


def _promotion(generation: Generation) -> list[Step]:
    return renaming(dict(generation.registry), generation.names.private, str)


def _bind(generation: Generation) -> list[Step]:
    """Plan to show the roots of ``generation`` as attributes of the namespace packages they lie in."""
    return [(namespace.__setitem__, child, module) for namespace, child, module in _bindings(generation)]


def _unbind(generation: Generation) -> list[Step]:
    return [(namespace.pop, child, None) for namespace, child, module in _bindings(generation) if namespace.get(child) is module]


def _bindings(generation: Generation) -> Iterable[tuple[dict[str, Any], str, object]]:
    for prefix in generation.names.prefixes:
        parent, _, child = prefix.rpartition(".")
        if parent in sys.modules and prefix in generation.registry:
            yield vars(sys.modules[parent]), child, generation.registry[prefix]
