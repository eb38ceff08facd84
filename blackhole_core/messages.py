"""What crosses between host and plugin code: a call down, a reply up. Plain values, the same at every level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs

__all__ = [
    "CONTRACT",
    "HOST",
    "Call",
    "Calls",
    "Columns",
    "Failure",
    "Implementation",
    "Replies",
    "Reply",
    "Surface",
    "Value",
    "attribution",
    "rows_of",
]

#: ``Call.space`` of the host's own hooks and of the ``blackhole`` contracts.
HOST: Final = "host"
CONTRACT: Final = "contract"

#: The arguments of several requests: for each argument, its values in their order. An implementation may take none at all.
Columns: TypeAlias = Sequence[Sequence[Any]]


@attrs.frozen
class Call:
    """One request: implementation ``index`` of the plugin, which answers ``hook`` (or, in space CONTRACT, the contract of that name).

    ``args`` are positional, in the order of the implementation's ``argnames``.
    """

    hook: str
    args: tuple[Any, ...] = ()
    space: str = HOST
    index: int = -1


@attrs.frozen
class Calls:
    """Several requests to implementation ``index`` of the plugin, which answers ``hook``, made by one caller at one time.

    They are ``count``, and each of ``columns`` has for all of them, in order, the values of one of the implementation's ``argnames``. With
    ``stop_at_failure`` the caller has no use for what comes after the first failure.
    """

    hook: str
    columns: Columns
    count: int
    index: int
    stop_at_failure: bool = False

    def rows(self) -> list[tuple[Any, ...]]:
        """Return for each request what :class:`Call` has as ``args``."""
        return rows_of(self.columns, self.count)

    def some(self, start: int, end: int) -> Calls:
        """Return the requests from place ``start`` to before ``end``."""
        return Calls(self.hook, [column[start:end] for column in self.columns], end - start, self.index, self.stop_at_failure)


def rows_of(columns: Columns, count: int) -> list[tuple[Any, ...]]:
    """Return the arguments of each of ``count`` requests, from the values of each argument."""
    return list(zip(*columns, strict=True)) if columns else [()] * count


@attrs.frozen
class Replies:
    """What came of :class:`Calls`: of its first ``len(results)`` requests, that is; those after them were not begun, and never will be.

    ``failures`` has what those raised that failed, by their place, already of a type that exists on the caller's side; their result is None.
    """

    results: Sequence[Any]
    failures: Mapping[int, BaseException]


@attrs.frozen
class Value:
    """The plugin's answer."""

    result: Any


@attrs.frozen
class Failure:
    """The plugin raised; ``error`` is what the caller gets, already of a type that exists on the caller's side."""

    error: BaseException


Reply: TypeAlias = Value | Failure


@attrs.frozen
class Implementation:
    """One hook implementation as the host needs to know it, whatever the level it runs at.

    ``attribute`` is its name in the plugin, ``hook`` the hook it answers (``specname`` or the attribute), ``options`` pluggy's
    hookimpl options, ``argnames`` the arguments it takes, ``annotated`` those whose type the implementation names itself.
    """

    attribute: str
    hook: str
    argnames: tuple[str, ...]
    options: Mapping[str, Any]
    is_generator: bool = False
    annotated: tuple[str, ...] = ()


@attrs.frozen
class Surface:
    """What a started plugin offers: its hook implementations and the contracts it takes part in (name → argument names)."""

    implementations: tuple[Implementation, ...] = ()
    contracts: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)


def attribution(plugin: object, hook: str, level: object) -> str:
    """Return the note that says where an exception came from: ``plugin upper@1.0.0, hook transform, level thread``."""
    return f"plugin {plugin}, hook {hook}, level {level}"
