"""The order of a hook's implementations: pluggy's rules, and what becomes of it when one plugin takes the place of another."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import NoReturn

from pluggy import HookCaller, HookImpl

__all__ = ["inserted", "replaced"]


def inserted(impls: Sequence[HookImpl], new: HookImpl) -> list[HookImpl]:
    """Return ``impls`` with ``new`` at the place that pluggy's rules give it."""
    scratch = HookCaller("", _never_called)
    scratch._hookimpls.extend(impls)
    scratch._add_hookimpl(new)
    return scratch._hookimpls


def replaced(impls: Sequence[HookImpl], old: object, new: Sequence[HookImpl]) -> list[HookImpl]:
    """Return ``impls`` with those of plugin ``old`` replaced by ``new``, given in the order of registration.

    A new implementation takes the exact place of an old one with the same options. What finds none (an option changed, or
    there are more new ones than old) goes where pluggy would put it; old ones without a successor vanish.
    """
    successors: dict[tuple[bool, ...], deque[HookImpl]] = defaultdict(deque)
    for impl in _in_pluggys_order(new):
        successors[_place(impl)].append(impl)
    result = []
    for impl in impls:
        if impl.plugin is not old:
            result.append(impl)
        elif successors[_place(impl)]:
            result.append(successors[_place(impl)].popleft())
    for impl in new:
        if not any(impl is present for present in result):
            result = inserted(result, impl)
    return result


def _place(impl: HookImpl) -> tuple[bool, ...]:
    return (impl.tryfirst, impl.trylast, impl.wrapper or impl.hookwrapper)


def _in_pluggys_order(impls: Iterable[HookImpl]) -> list[HookImpl]:
    ordered: list[HookImpl] = []
    for impl in impls:
        ordered = inserted(ordered, impl)
    return ordered


def _never_called(*_arguments: object) -> NoReturn:
    raise AssertionError("a scratch caller orders implementations, it runs none")
