"""Which annotated types can cross a process boundary, and how a type is told to a worker. Pure.

The wire is typed by the annotations of the hook spec. A type made only of builtins and a few standard library types is
sent to the worker as an expression; any other class (a dataclass of the host's API module, an enum) must be named by the
annotations of the implementation, because only the plugin's own import can give the worker that class.
"""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import typing
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from blackhole_core.executor.wire.buffers import is_block_type

__all__ = ["annotations_of", "contains_any", "expression_of", "type_of_expression", "uncrossable"]

#: Everything an expression may name. Nothing here executes anything.
_NAMESPACE: Final[dict[str, Any]] = {
    **{kind.__name__: kind for kind in (bool, int, float, str, bytes, bytearray, list, dict, tuple, set, frozenset, complex, memoryview)},
    "None": None,
    "NoneType": type(None),
    "typing": typing,
    "datetime": datetime,
    "decimal": decimal,
    "uuid": uuid,
    "collections": collections,
}
#: Open when they do not say what is in them.
_CONTAINERS: Final = (list, dict, tuple, set, frozenset)
#: What a ``type`` statement makes, from Python 3.12 on.
_ALIAS: Final[Any] = getattr(typing, "TypeAliasType", None)
_BUILTIN_MODULES: Final = frozenset({"builtins", "typing", "datetime", "decimal", "uuid", "collections.abc", "collections", "types"})


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the resolved annotations of ``function`` (``return`` included); what cannot be resolved is left out as Any."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError):
        # A forward reference that only exists for type checkers. Untyped is honest: the value must then be plain data.
        return {}


def _parts(annotation: Any, aliases: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Yield ``annotation`` and every type it is built from; an alias that a ``type`` statement made is what it stands for. ``aliases`` are those on the way here."""
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if _ALIAS is not None and isinstance(origin, _ALIAS):
        if origin in aliases:
            yield Any  # it is built from itself, as JSON is: that is plain data
        else:
            value = origin.__value__
            yield from _parts(value[arguments] if arguments else value, (*aliases, origin))
        return
    yield annotation
    for argument in arguments:
        for inner in argument if isinstance(argument, list) else [argument]:
            yield from _parts(inner, aliases)


def contains_any(annotation: Any) -> bool:
    """Whether the type leaves something open (``Any``, ``object``, bare ``list``, a type variable, an array): then values travel as plain data."""
    return any(_is_open(part) for part in _parts(annotation))


def _is_open(part: Any) -> bool:
    if part is Any or part is object or isinstance(part, typing.TypeVar):
        return True
    container = typing.get_origin(part) or part  # typing.List without arguments has the origin list
    if is_block_type(container):
        return True  # msgspec knows nothing of the items in it
    return container in _CONTAINERS and not typing.get_args(part) if isinstance(container, type) else False


def expression_of(annotation: Any) -> str | None:
    """Return ``annotation`` as an expression a worker can evaluate, or None when it names a class only a plugin can import."""
    for part in _parts(annotation):
        origin = typing.get_origin(part) or part
        if isinstance(origin, type) and origin.__module__ not in _BUILTIN_MODULES:
            return None
    text = _name(annotation)
    try:
        return text if type_of_expression(text) == annotation else None
    except Exception:  # the repr of an exotic type need not be an expression; then the plugin must name it
        return None


def type_of_expression(text: str) -> Any:
    """Return the type that :func:`expression_of` described. The text comes from the host, never from a worker."""
    return eval(text, {"__builtins__": {}}, _NAMESPACE)  # noqa: S307 - closed namespace, host-made text


def uncrossable(annotation: Any) -> str | None:
    """Return the name of the part of ``annotation`` that no message can carry (a callable, an iterator, a live object), or None."""
    try:
        info = msgspec.inspect.type_info(annotation)
    except TypeError:  # msgspec refuses some combinations outright
        return _name(annotation)
    return _custom_part(info, set())


def _custom_part(info: Any, seen: set[int]) -> str | None:
    if isinstance(info, msgspec.inspect.CustomType):
        return None if is_block_type(typing.get_origin(info.cls) or info.cls) else _name(info.cls)
    if isinstance(info, msgspec.inspect.RawType):
        return "msgspec.Raw"
    if id(info) in seen or not isinstance(info, msgspec.inspect.Type):
        return None
    seen.add(id(info))
    for name in info.__struct_fields__:
        value = getattr(info, name)
        for item in value if isinstance(value, tuple) else (value,):
            inner = getattr(item, "type", None) if isinstance(item, msgspec.inspect.Field) else item
            found = _custom_part(inner, seen)
            if found is not None:
                return found
    return None


def _name(annotation: Any) -> str:
    """Return a class with its module (builtins without), anything else as it prints itself."""
    if typing.get_origin(annotation) is not None or not isinstance(annotation, type):
        return repr(annotation)
    return annotation.__qualname__ if annotation.__module__ == "builtins" else f"{annotation.__module__}.{annotation.__qualname__}"
