"""``marshal`` takes plain strings only; profilers marshal the file names of the code they saw, which are :class:`SourceFile` for plugins.

``python -m cProfile -o out host.py`` would end in "unmarshallable object". So what ``marshal`` refuses is tried once more with plain file names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

from blackhole_core.loader.sourcelines import SourceFile

__all__ = ["install_marshal"]


def install_marshal(marshal: ModuleType) -> None:
    """Make ``dump`` and ``dumps`` accept file names of plugin code."""
    for name in ("dump", "dumps"):
        setattr(marshal, name, _tolerant(getattr(marshal, name)))


def _tolerant(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def shim(value: Any, *rest: Any, **named: Any) -> Any:
        try:
            return original(value, *rest, **named)
        except ValueError:
            return original(_plain(value), *rest, **named)  # nothing was written: marshal writes when all is encoded

    return shim


def _plain(value: Any) -> Any:
    """Return ``value`` with every file name in it as a plain string."""
    kind = type(value)
    if kind is SourceFile:
        return str(value)
    if kind is dict:
        return {_plain(key): _plain(item) for key, item in value.items()}
    if kind in (tuple, list, set, frozenset):
        return kind(_plain(item) for item in value)
    if kind is CodeType:
        return value.replace(co_filename=str(value.co_filename), co_consts=_plain(value.co_consts))
    return value
