"""Any value as one that JSON can hold, for people and programs that look at a host from outside. Pure."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import PurePath
from typing import Any, Final

import attrs

__all__ = ["jsonable"]

#: Levels of nesting that are shown; deeper ones become text.
_MAX_DEPTH: Final = 64
#: Beyond 64 bit most readers of JSON lose digits, so such numbers go as text.
_MAX_INT: Final = 2**63
#: Bits of a number that is written in decimal; that takes quadratic time, and Python refuses beyond some 14,000.
_MAX_BITS: Final = 10_000

_DATES: Final = (datetime.datetime, datetime.date, datetime.time)


def jsonable(value: Any, *, max_text: int | None = None) -> Any:
    """Return ``value`` as None, bool, numbers, text, lists and mappings with text keys.

    Bytes become ``{"base64": …}``, dataclasses and attrs classes mappings, dates ISO 8601, sets lists; NaN and infinities text. What has no such form
    becomes its ``repr``. ``max_text`` cuts each text to that many characters.
    """
    return _Plain(max_text).of(value, 0)


@attrs.frozen
class _Plain:
    max_text: int | None

    def of(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, enum.Enum):
            return self.of(value.value, depth)
        if isinstance(value, int | float):
            return _number(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return {"base64": base64.b64encode(value).decode("ascii")}
        return self._container(value, depth)

    def _container(self, value: Any, depth: int) -> Any:
        items = _items(value)
        if items is None:
            return self._text(_as_text(value))
        if depth >= _MAX_DEPTH:
            return f"… (nested deeper than {_MAX_DEPTH})"
        if isinstance(items, Mapping):
            return {self._text(str(key)): self.of(item, depth + 1) for key, item in items.items()}
        return [self.of(item, depth + 1) for item in items]

    def _text(self, text: str) -> str:
        if self.max_text is not None and len(text) > self.max_text:
            text = f"{text[: self.max_text]}… ({len(text)} characters)"
        return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate has no place in JSON


def _number(value: float) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if -_MAX_INT <= value < _MAX_INT:
        return int(value)
    return str(value) if value.bit_length() < _MAX_BITS else hex(value)


def _items(value: Any) -> Mapping[Any, Any] | list[Any] | None:
    """Return what ``value`` is made of, None when it is one piece."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple | AbstractSet):
        return list(value)
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {field.name: getattr(value, field.name) for field in attrs.fields(type(value))} if attrs.has(type(value)) else None


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, _DATES):
        return value.isoformat()
    return str(value) if isinstance(value, PurePath) else repr(value)
