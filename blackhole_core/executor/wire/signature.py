"""Arguments and results of one hook as bytes, typed by the spec's annotations. Pure.

A *typed* position is encoded as it is and decoded strictly by its annotation, so a tuple, a dataclass or a date arrives as
what it was. An *open* position (no annotation, or one with ``Any`` in it) travels as plain data, see :mod:`.plain`.
"""

from __future__ import annotations

import types as types_module
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import msgspec

from blackhole_core.executor.wire.plain import NotPlain, decode_extension, encode_plain, is_bare, wrap_plain
from blackhole_core.executor.wire.types import contains_any

__all__ = ["ArgumentsDecoder", "ArgumentsEncoder", "ResultDecoder", "ResultEncoder", "Signature", "Undecodable"]

_encoder = msgspec.msgpack.Encoder()
#: What msgspec raises for a value it cannot encode: unknown type, integer beyond 64 bit, recursion.
_ENCODE_ERRORS: Final = (TypeError, OverflowError, RecursionError, ValueError)
#: What it raises for bytes that are not what was wanted.
_DECODE_ERRORS: Final = (msgspec.DecodeError, ValueError, TypeError, ArithmeticError, RecursionError)


class Undecodable(ValueError):
    """Bytes that are not what the annotation says. The text says what was wanted and got, and where."""


@attrs.frozen
class Signature:
    """The annotations of one hook: argument name → annotation (missing means open), and the annotation of one result."""

    args: Mapping[str, Any] = attrs.field(factory=dict)
    result: Any = Any

    def type_of(self, argument: str) -> Any:
        """Return the annotation of ``argument``, ``Any`` when it has none."""
        return self.args.get(argument, Any)


class ArgumentsEncoder:
    """Encodes positional arguments whose annotations are ``types``."""

    __slots__ = ("_open", "_positions")

    def __init__(self, types: Sequence[Any]) -> None:
        self._open = tuple(contains_any(annotation) for annotation in types)
        self._positions = tuple(position for position, is_open in enumerate(self._open) if is_open)

    def encode(self, args: Sequence[Any]) -> bytes:
        """Return the msgpack array of ``args``.

        :raises NotPlain: an argument cannot cross; ``path`` begins with its position, such as ``[1]``.
        """
        for position in self._positions:
            if not is_bare(args[position]):
                break
        else:
            try:
                return _encoder.encode(args)
            except _ENCODE_ERRORS:
                pass  # the other way tells what is wrong, or wraps an integer beyond 64 bit
        try:
            return _encoder.encode([wrap_plain(value) if is_open else value for value, is_open in zip(args, self._open, strict=True)])
        except NotPlain as error:
            raise self._locate(args, error) from None
        except _ENCODE_ERRORS as error:
            raise self._locate(args, error) from None

    def _locate(self, args: Sequence[Any], error: Exception) -> NotPlain:
        for position, (value, is_open) in enumerate(zip(args, self._open, strict=True)):
            try:
                encode_plain(value) if is_open else _encoder.encode(value)
            except NotPlain as refused:
                return NotPlain(f"[{position}]{refused.path}", refused.type_name)
            except _ENCODE_ERRORS as refused:
                return NotPlain(f"[{position}]", _describe(value, refused))
        return NotPlain("", str(error))


class ArgumentsDecoder:
    """Decodes positional arguments by their annotations."""

    __slots__ = ("_decoder",)

    def __init__(self, types: Sequence[Any]) -> None:
        wanted: Any = types_module.GenericAlias(tuple, tuple(Any if contains_any(annotation) else annotation for annotation in types))
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(wanted, ext_hook=decode_extension)

    def decode(self, data: bytes | msgspec.Raw) -> tuple[Any, ...]:
        """Return the arguments.

        :raises Undecodable: they are not what the annotations say.
        """
        try:
            return tuple(self._decoder.decode(data))
        except _DECODE_ERRORS as error:
            raise Undecodable(str(error)) from error


class ResultEncoder:
    """Encodes one result: as plain data when ``is_open``, else as it is."""

    __slots__ = ("_open",)

    def __init__(self, is_open: bool) -> None:
        self._open = is_open

    def encode(self, value: Any) -> bytes:
        """Return the msgpack of ``value``.

        :raises NotPlain: it cannot cross.
        """
        try:
            return encode_plain(value) if self._open else _encoder.encode(value)
        except NotPlain:
            raise
        except _ENCODE_ERRORS as error:
            raise NotPlain("", _describe(value, error)) from None


class ResultDecoder:
    """Decodes one result by its annotation; None is always allowed, it is pluggy's way to abstain."""

    __slots__ = ("_decoder",)

    def __init__(self, annotation: Any) -> None:
        wanted = Any if contains_any(annotation) else typing.Optional[annotation]  # noqa: UP045 - a run-time value, | need not work
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(wanted, ext_hook=decode_extension)

    def decode(self, data: bytes | msgspec.Raw) -> Any:
        """Return the value.

        :raises Undecodable: it is not what the annotation says.
        """
        try:
            return self._decoder.decode(data)
        except _DECODE_ERRORS as error:
            raise Undecodable(str(error)) from error


def _describe(value: Any, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep, or referring to itself"
    if isinstance(error, OverflowError):
        return "an integer beyond 64 bit"
    if isinstance(error, UnicodeEncodeError):
        return "a str that is not valid Unicode (a lone surrogate)"
    kind = type(value)
    return str(error) if kind.__module__ == "builtins" and kind in (list, dict, tuple, set) else f"{kind.__module__}.{kind.__qualname__}"
