"""In which order plugins start, and which cannot and why. Pure.

Rules: a dependency starts before its dependants; otherwise plugins start by name. A needed plugin that is missing, of a wrong version, part of a
cycle or itself refused refuses its dependants. An optional one only orders; but when it is there in a version that the dependant says it cannot work
with, the dependant is refused. A cycle that exists only through optional dependencies is cut at one of those.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from blackhole_core.ids import canonical_name

if TYPE_CHECKING:
    from blackhole_core.manifest.model import Dependency
    from blackhole_core.registry.candidate import Candidate

__all__ = ["Resolution", "dependants", "refusals", "start_order"]

#: Plugin → the plugins it must start after.
_Graph = dict[str, set[str]]


@attrs.frozen
class Resolution:
    """``order``: what can start, dependencies first. ``refused``: what cannot, with a sentence for each reason."""

    order: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]]


def start_order(candidates: Mapping[str, Candidate]) -> Resolution:
    """Return the order in which ``candidates`` (name → the version that is to run) start, and the reasons of those that cannot."""
    keys = {canonical_name(name): name for name in sorted(candidates)}
    required: _Graph = {}
    optional: _Graph = {}
    refused: dict[str, list[str]] = {}
    for name in sorted(candidates):
        required[name], optional[name] = set(), set()
        for dependency in _dependencies(candidates[name]):
            other = keys.get(canonical_name(dependency.name))
            reason = _unmet(name, dependency, None if other is None else candidates[other])
            if reason is not None:
                refused.setdefault(name, []).append(reason)
            elif other is not None:
                (optional if dependency.optional else required)[name].add(other)
    _refuse_cycles(required, refused)
    _refuse_dependants(required, refused)
    left = {name: required[name] for name in required if name not in refused}
    maybe = {name: {other for other in optional[name] if other in left} for name in left}
    return Resolution(_order(left, maybe), {name: tuple(reasons) for name, reasons in sorted(refused.items())})


def refusals(candidates: Mapping[str, Candidate]) -> Mapping[str, tuple[str, ...]]:
    """Return the reasons of those of ``candidates`` that cannot start, as :func:`start_order` does.

    It leaves out those that need nobody and that nobody needs. They are never refused, and mostly they are nearly all of a thousand.
    """
    needing = {name: candidate for name, candidate in candidates.items() if _dependencies(candidate)}
    if not needing:
        return {}
    needed = {canonical_name(dependency.name) for candidate in needing.values() for dependency in _dependencies(candidate)}
    found = {name: candidate for name, candidate in candidates.items() if name in needing or canonical_name(name) in needed}
    return start_order(found).refused


def dependants(name: str, candidates: Mapping[str, Candidate]) -> tuple[str, ...]:
    """Return the plugins that need ``name``, directly or through others, in the order in which they must stop (the last started first)."""
    wanted = {canonical_name(name)}
    found: set[str] = set()
    grown = True
    while grown:
        grown = False
        for other, candidate in candidates.items():
            if other not in found and any(canonical_name(d.name) in wanted for d in _dependencies(candidate) if not d.optional):
                found.add(other)
                wanted.add(canonical_name(other))
                grown = True
    found.discard(name)
    order = start_order(candidates).order
    place = {other: index for index, other in enumerate(order)}
    return tuple(sorted(found, key=lambda other: (-place.get(other, len(order)), other)))


def _dependencies(candidate: Candidate) -> tuple[Dependency, ...]:
    return () if candidate.manifest is None else candidate.manifest.dependencies


def _unmet(name: str, dependency: Dependency, other: Candidate | None) -> str | None:
    """Say why a dependency is not met, or None."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    need = "can use" if dependency.optional else "needs"
    wanted = f"{dependency.name} {dependency.version}".rstrip()
    if other is None:
        return None if dependency.optional else f"{name} needs {wanted}, which was not found; install it, or take {name} out"
    if not dependency.version:
        return None
    if other.id.version is None:
        return f"{name} {need} {wanted}, but {other.name} does not say its version"
    try:
        # A pre-release that is chosen to run was chosen by somebody: it counts like any other version.
        met = SpecifierSet(dependency.version).contains(Version(other.id.version), prereleases=True)
    except InvalidVersion:
        met = False
    return None if met else f"{name} {need} {wanted}, but version {other.id.version} was found"


def _refuse_cycles(graph: _Graph, refused: dict[str, list[str]]) -> None:
    """Refuse every plugin that needs itself through others; each is told the whole cycle."""
    left = {name: set(needs) for name, needs in graph.items()}
    while (cycle := _find_cycle(left)) is not None:
        shown = " -> ".join((*cycle, cycle[0]))
        for name in cycle:
            refused.setdefault(name, []).append(f"{name} needs itself through others: {shown}; one of them must do without")
            del left[name]
        left = {name: needs - set(cycle) for name, needs in left.items()}


def _refuse_dependants(graph: _Graph, refused: dict[str, list[str]]) -> None:
    """Pass a refusal on to everybody who needs the refused plugin."""
    waiting = sorted(refused)
    while waiting:
        fallen = waiting.pop(0)
        for name in sorted(graph):
            if fallen in graph[name] and name not in refused:
                refused[name] = [f"{name} needs {fallen}, which cannot start: {refused[fallen][0]}"]
                waiting.append(name)


def _order(required: _Graph, optional: _Graph) -> tuple[str, ...]:
    """Return a topological order, by name among those that are free; ``required`` has no cycle."""
    graph = {name: required[name] | optional[name] for name in sorted(required)}
    while (cycle := _find_cycle(graph)) is not None:
        for name, other in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
            if other not in required[name]:
                graph[name].discard(other)
                break
    sorter = graphlib.TopologicalSorter(graph)
    sorter.prepare()
    order: list[str] = []
    free: list[str] = []
    while sorter.is_active():
        free = sorted((*free, *sorter.get_ready()))
        order.append(free.pop(0))
        sorter.done(order[-1])
    return tuple(order)


def _find_cycle(graph: _Graph) -> tuple[str, ...] | None:
    """Return one cycle, each needing the next and the last the first, beginning with the smallest name; or None."""
    try:
        graphlib.TopologicalSorter({name: sorted(graph[name]) for name in sorted(graph)}).prepare()
    except graphlib.CycleError as error:
        around: list[str] = error.args[1][:0:-1]  # graphlib lists the needed one first, and the first again at the end
        start = around.index(min(around))
        return (*around[start:], *around[:start])
    return None
