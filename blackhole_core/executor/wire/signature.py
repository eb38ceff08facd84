"""Arguments and results of one hook as bytes, typed by the spec's annotations. Pure.

A *typed* position is encoded as it is and decoded strictly by its annotation, so a tuple, a dataclass or a date arrives as
what it was. An *open* position (no annotation, or one with ``Any`` in it) travels as plain data, see :mod:`.plain`.
"""

from __future__ import annotations

import types as types_module
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import msgspec

from blackhole_core.executor.wire.buffers import ROWS, NoForm, describe, is_large_row
from blackhole_core.executor.wire.claims import DECODE_ERRORS, Claim
from blackhole_core.executor.wire.parcels import Packing, Shelf, wrap_buffer
from blackhole_core.executor.wire.plain import BUFFER, NotPlain, decode_extension, encode_plain, is_bare, wrap_plain
from blackhole_core.executor.wire.types import contains_any

__all__ = ["ArgumentsDecoder", "ArgumentsEncoder", "ResultDecoder", "ResultEncoder", "Signature", "Undecodable"]

_encoder = msgspec.msgpack.Encoder()
#: What msgspec raises for a value it cannot encode: unknown type, integer beyond 64 bit, recursion.
_ENCODE_ERRORS: Final = (TypeError, OverflowError, RecursionError, ValueError, BufferError)


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

    __slots__ = ("_open", "_positions", "_rows")

    def __init__(self, types: Sequence[Any]) -> None:
        self._open = tuple(contains_any(annotation) for annotation in types)
        self._positions = tuple(position for position, is_open in enumerate(self._open) if is_open)
        self._rows = tuple(position for position, kind in enumerate(types) if _may_be_row(kind))

    def encode(self, args: Sequence[Any], shelf: Shelf | None = None) -> bytes:
        """Return the msgpack array of ``args``; with a ``shelf`` a body whose large parts lie there.

        :raises NotPlain: an argument cannot cross; ``path`` begins with its position, such as ``[1]``.
        :raises TooLarge: they and what lies on the shelf are more than the shelf allows for one body.
        """
        for position in self._positions:
            if not is_bare(args[position]):
                break
        else:
            try:
                if not (self._rows and self._large(args)):
                    return _encoder.encode(args)
            except _ENCODE_ERRORS:
                pass  # the other way tells what is wrong, or wraps what the encoder does not know
        return _pack(shelf, lambda packing: self._encode(args, packing))

    def _large(self, args: Sequence[Any]) -> bool:
        return any(is_large_row(args[position]) for position in self._rows)

    def _encode(self, args: Sequence[Any], packing: Packing | None) -> bytes:
        encoder = _block_encoder(packing)
        try:
            return encoder.encode(
                [
                    wrap_plain(value, packing) if is_open else _beside(value, packing)
                    for value, is_open in zip(args, self._open, strict=True)
                ]
            )
        except _ENCODE_ERRORS as error:
            raise self._locate(args, error) from None

    def _locate(self, args: Sequence[Any], error: Exception) -> NotPlain:
        encoder = _block_encoder(None)
        for position, (value, is_open) in enumerate(zip(args, self._open, strict=True)):
            try:
                encode_plain(value) if is_open else encoder.encode(value)
            except NotPlain as refused:
                return NotPlain(f"[{position}]{refused.path}", refused.type_name)
            except _ENCODE_ERRORS as refused:
                return NotPlain(f"[{position}]", _describe(value, refused))
        return NotPlain("", str(error))


class ArgumentsDecoder:
    """Decodes positional arguments by their annotations."""

    __slots__ = ("_decoder", "_types")

    def __init__(self, types: Sequence[Any]) -> None:
        self._types = tuple(Any if contains_any(annotation) else annotation for annotation in types)
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
            types_module.GenericAlias(tuple, self._types), ext_hook=decode_extension
        )

    def decode(self, data: bytes | msgspec.Raw | Claim) -> tuple[Any, ...]:
        """Return the arguments.

        :raises Undecodable: they are not what the annotations say.
        """
        try:
            return tuple(data.arguments(self._types) if type(data) is Claim else self._decoder.decode(data))  # type: ignore[arg-type]  # what is no claim is bytes
        except DECODE_ERRORS as error:
            raise Undecodable(str(error)) from error


class ResultEncoder:
    """Encodes one result: as plain data when ``is_open``, else as it is."""

    __slots__ = ("_open",)

    def __init__(self, is_open: bool) -> None:
        self._open = is_open

    def encode(self, value: Any, shelf: Shelf | None = None) -> bytes:
        """Return the msgpack of ``value``; with a ``shelf`` a body whose large parts lie there.

        :raises NotPlain: it cannot cross.
        :raises TooLarge: it and what lies on the shelf are more than the shelf allows for one body.
        """
        if self._open:
            try:
                return encode_plain(value, shelf)
            except NotPlain:
                raise
            except _ENCODE_ERRORS as error:
                raise NotPlain("", _describe(value, error)) from None
        try:
            if not is_large_row(value):
                return _encoder.encode(value)
        except _ENCODE_ERRORS:
            pass  # the other way tells what is wrong, or wraps what the encoder does not know
        return _pack(shelf, lambda packing: _encode_typed(value, packing))


class ResultDecoder:
    """Decodes one result by its annotation; None is always allowed, it is pluggy's way to abstain."""

    __slots__ = ("_decoder", "_type")

    def __init__(self, annotation: Any) -> None:
        self._type = Any if contains_any(annotation) else typing.Optional[annotation]  # noqa: UP045 - a run-time value, | need not work
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(self._type, ext_hook=decode_extension)

    def decode(self, data: bytes | msgspec.Raw | Claim) -> Any:
        """Return the value.

        :raises Undecodable: it is not what the annotation says.
        """
        try:
            return data.value(self._type) if type(data) is Claim else self._decoder.decode(data)  # type: ignore[arg-type]  # what is no claim is bytes
        except DECODE_ERRORS as error:
            raise Undecodable(str(error)) from error


# --- what may lie beside a message -----------------------------------------------------------------------------------


def _pack(shelf: Shelf | None, encode: Callable[[Packing | None], bytes]) -> bytes:
    if shelf is None:
        return encode(None)
    packing = Packing(shelf)
    try:
        message = encode(packing)
    except BaseException:
        packing.discard()
        raise
    return packing.seal(message)


def _may_be_row(annotation: Any) -> bool:
    parts = (annotation, *typing.get_args(annotation))
    return any(part is row for part in parts for row in ROWS)  # "in" may ask for a hash, which not every annotation has


def _beside(value: Any, packing: Packing | None) -> Any:
    """Return what stands in a typed position: a large row of bytes lies beside the message."""
    if packing is None or not is_large_row(value):
        return value
    described = describe(value)
    assert described is not None, "a row of bytes is a block of memory"
    placed = packing.place(*described)
    return value if placed is None else placed


def _encode_typed(value: Any, packing: Packing | None) -> bytes:
    try:
        return _block_encoder(packing).encode(_beside(value, packing))
    except _ENCODE_ERRORS as error:
        raise NotPlain("", _describe(value, error)) from None


def _block_encoder(packing: Packing | None) -> msgspec.msgpack.Encoder:
    """Return an encoder that knows arrays, which may be parts of typed values."""

    def wrap(value: Any) -> Any:
        wrapped = wrap_buffer(value, packing, BUFFER)
        if wrapped is None:
            raise TypeError(f"Encoding objects of type {type(value).__module__}.{type(value).__qualname__} is unsupported")
        return wrapped

    return msgspec.msgpack.Encoder(enc_hook=wrap)


def _describe(value: Any, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep, or referring to itself"
    if isinstance(error, NoForm):
        return str(error)
    if isinstance(error, OverflowError):
        return "an integer beyond 64 bit"
    if isinstance(error, UnicodeEncodeError):
        return "a str that is not valid Unicode (a lone surrogate)"
    kind = type(value)
    return str(error) if kind.__module__ == "builtins" and kind in (list, dict, tuple, set) else f"{kind.__module__}.{kind.__qualname__}"
