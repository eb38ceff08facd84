"""Values that no annotation describes: a closed set of plain types that arrives as it left. Pure.

msgpack alone would turn a tuple or a set into a list. Where an annotation names the type the typed codec restores it;
where none does, the values below travel as extension types, so that a hook answers the same at every isolation level.
Everything else is refused by name, never guessed.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Any, Final

import msgspec

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire.buffers import LARGE, ROWS, NoForm, decode_inline, is_large_row
from blackhole_core.executor.wire.parcels import BESIDE, Packing, Shelf, wrap_buffer

__all__ = ["BUFFER", "ExtensionHook", "NotPlain", "decode_extension", "decode_plain", "encode_plain", "is_bare", "wrap_plain"]

_SCALARS: Final = frozenset({type(None), bool, float, str})
#: Those and integers, which the encoder refuses when they are too large.
_BARE: Final = _SCALARS | {int}
#: msgpack integers: signed 64 bit below zero, unsigned 64 bit above.
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
#: Containers in containers. Far beyond real data, far below what would exhaust the C stack of either side.
MAX_DEPTH: Final = 200

_encoder = msgspec.msgpack.Encoder()


class NotPlain(TypeError):
    """A value outside the closed set. ``path`` leads to it from the top (``[2]['when']``), ``type_name`` is its type."""

    def __init__(self, path: str, type_name: str) -> None:
        self.path = path
        self.type_name = type_name
        super().__init__(f"{path or 'the value'} is of type {type_name}")


def _text(convert: Callable[[Any], str]) -> Callable[[Any], bytes]:
    return lambda value: convert(value).encode()


_BYTEARRAY_CODE: Final = 10
#: type → (extension code, to bytes, from bytes). Codes are part of the protocol: never reuse one.
_SCALAR_EXTENSIONS: Final[dict[type, tuple[int, Callable[[Any], bytes], Callable[[bytes], Any]]]] = {
    int: (4, _text(hex), lambda data: int(data.decode(), 16)),
    datetime.datetime: (5, _text(datetime.datetime.isoformat), lambda data: datetime.datetime.fromisoformat(data.decode())),
    datetime.date: (6, _text(datetime.date.isoformat), lambda data: datetime.date.fromisoformat(data.decode())),
    decimal.Decimal: (7, _text(str), lambda data: decimal.Decimal(data.decode())),
    uuid.UUID: (8, lambda value: value.bytes, lambda data: uuid.UUID(bytes=data)),
    complex: (9, _text(repr), lambda data: complex(data.decode())),
}
_SEQUENCE_EXTENSIONS: Final[dict[type, tuple[int, Callable[[list[Any]], Any]]]] = {
    tuple: (1, tuple),
    set: (2, set),
    frozenset: (3, frozenset),
}
#: A dict with keys that are not strings: pairs, so that no key type is lost.
_DICT_CODE: Final = 11
#: A memoryview or an array, see :mod:`.buffers`; :data:`~.parcels.BESIDE` (13) is one that lies beside the message.
BUFFER: Final = 12

_FROM_BYTES: Final[dict[int, Callable[[bytes], Any]]] = {
    _BYTEARRAY_CODE: bytearray,
    **{code: build for code, _, build in _SCALAR_EXTENSIONS.values()},
}
_FROM_LIST: Final = dict(_SEQUENCE_EXTENSIONS.values())


def encode_plain(value: Any, shelf: Shelf | None = None) -> bytes:
    """Return the msgpack of ``value``; with a ``shelf`` a body whose large parts lie there.

    :raises NotPlain: something in it is outside the closed set, refers to itself, or is nested deeper than 200.
    :raises TooLarge: it and what lies on the shelf are more than the shelf allows for one body.
    """
    try:
        if is_bare(value):
            return _encoder.encode(value)
    except UnicodeEncodeError:
        raise _not_unicode(value) from None
    except OverflowError:
        pass  # an integer beyond 64 bit in what looked bare
    if shelf is None:
        return _encode_wrapped(value, None)
    packing = Packing(shelf)
    try:
        message = _encode_wrapped(value, packing)
    except BaseException:
        packing.discard()
        raise
    return packing.seal(message)


def _encode_wrapped(value: Any, packing: Packing | None) -> bytes:
    wrapped = wrap_plain(value, packing)
    try:
        return _encoder.encode(wrapped)
    except UnicodeEncodeError:
        raise _not_unicode(value) from None


def wrap_plain(value: Any, packing: Packing | None = None) -> Any:
    """Return ``value`` with everything msgpack would flatten wrapped as extension, ready to be a part of a larger message.

    :raises NotPlain: see :func:`encode_plain`.
    """
    try:
        return _wrap(value, 0, packing)
    except _Refused as refused:
        raise NotPlain(_path_to(value, refused.culprit), refused.type_name) from None
    except UnicodeEncodeError:
        raise _not_unicode(value) from None


def is_bare(value: Any, depth: int = 0) -> bool:
    """Whether ``value`` is made of scalars, short bytes, lists and dicts with string keys alone: then msgpack keeps it as it is, integers beyond 64 bit apart.

    Most values are, and this is many times quicker than :func:`wrap_plain`; False tells nothing.
    """
    kind = type(value)
    if kind is dict:
        if depth > MAX_DEPTH:
            return False
        for key, item in value.items():  # noqa: SIM110 - a generator would take twice as long
            if type(key) is not str or (type(item) not in _BARE and not is_bare(item, depth + 1)):
                return False
        return True
    if kind is list:
        if depth > MAX_DEPTH:
            return False
        for item in value:  # noqa: SIM110 - a generator would take twice as long
            if type(item) not in _BARE and not is_bare(item, depth + 1):
                return False
        return True
    return kind in _BARE or (kind is bytes and len(value) < LARGE)  # larger bytes may travel beside the message


def decode_plain(data: bytes) -> Any:
    """Return the value that :func:`encode_plain` was given.

    :raises ProtocolError: ``data`` is not such a value.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise ProtocolError(f"not a plain value: {error}") from error


class _Refused(Exception):
    """Ends the walk at the first value that is not plain; the path to it is looked for only then."""

    def __init__(self, culprit: Any, type_name: str) -> None:
        self.culprit = culprit
        self.type_name = type_name


def _wrap(value: Any, depth: int, packing: Packing | None) -> Any:
    kind = type(value)
    if kind in _SCALARS or (kind is int and _INT_MIN <= value <= _INT_MAX):
        return value
    if kind in ROWS and (packing is None or not is_large_row(value)):
        return value if kind is bytes else msgspec.msgpack.Ext(_BYTEARRAY_CODE, bytes(value))
    if depth > MAX_DEPTH:
        raise _Refused(value, f"{kind.__qualname__} nested deeper than {MAX_DEPTH}, or referring to itself")
    if kind is list:
        return [_wrap(item, depth + 1, packing) for item in value]
    if kind is dict:
        if all(type(key) is str for key in value):
            return {key: _wrap(item, depth + 1, packing) for key, item in value.items()}
        pairs = [[_wrap(key, depth + 1, packing), _wrap(item, depth + 1, packing)] for key, item in value.items()]
        return msgspec.msgpack.Ext(_DICT_CODE, _encoder.encode(pairs))
    if kind in _SEQUENCE_EXTENSIONS:
        items = [_wrap(item, depth + 1, packing) for item in value]
        return msgspec.msgpack.Ext(_SEQUENCE_EXTENSIONS[kind][0], _encoder.encode(items))
    if kind in _SCALAR_EXTENSIONS:
        code, to_bytes, _ = _SCALAR_EXTENSIONS[kind]
        return msgspec.msgpack.Ext(code, to_bytes(value))
    return _wrap_block(value, packing)


def _wrap_block(value: Any, packing: Packing | None) -> Any:
    try:
        wrapped = wrap_buffer(value, packing, BUFFER)
    except NoForm as error:
        raise _Refused(value, str(error)) from None
    if wrapped is None:
        kind = type(value)
        advice = "; a memoryview of it can cross" if _has_buffer(value) else ""
        raise _Refused(value, f"{kind.__module__}.{kind.__qualname__}{advice}")
    return wrapped


def _has_buffer(value: Any) -> bool:
    try:
        memoryview(value).release()
    except (TypeError, BufferError, ValueError):
        return False
    return True


def _path_to(value: Any, culprit: Any) -> str:
    """Return the subscripts that lead from ``value`` to ``culprit``, at most three levels of them."""
    trail: list[tuple[Any, str]] = [(value, "")]
    for _ in range(3):
        following: list[tuple[Any, str]] = []
        for item, path in trail:
            if item is culprit:
                return path
            if type(item) is dict:
                following += [(inner, f"{path}[{key!r:.40}]") for key, inner in item.items()]
            elif type(item) in (list, tuple):
                following += [(inner, f"{path}[{index}]") for index, inner in enumerate(item)]
        trail = following
    return next((path for item, path in trail if item is culprit), "a part of it")


def _not_unicode(value: Any) -> NotPlain:
    """Return the refusal of a string that UTF-8 cannot spell; it is looked for only now, since almost none is."""
    return NotPlain(_path_to_surrogate(value, ""), "a str that is not valid Unicode (a lone surrogate)")


def _path_to_surrogate(value: Any, path: str) -> str:
    if type(value) is dict:
        steps = [(part, f"{path}[{key!r:.40}]") for key, item in value.items() for part in (key, item)]
    elif type(value) in (list, tuple):
        steps = [(item, f"{path}[{index}]") for index, item in enumerate(value)]
    else:
        return path
    return next((_path_to_surrogate(item, step) for item, step in steps if _has_surrogate(item)), path)


def _has_surrogate(value: Any) -> bool:
    if type(value) is str:
        return any("\ud800" <= character <= "\udfff" for character in value)
    if type(value) is dict:
        return any(_has_surrogate(item) for pair in value.items() for item in pair)
    return type(value) in (list, tuple, set, frozenset) and any(map(_has_surrogate, value))


def decode_extension(code: int, data: memoryview) -> Any:
    """Turn one extension back into its value; the ``ext_hook`` of every decoder of messages with nothing beside them."""
    if code in _FROM_LIST:
        return _FROM_LIST[code](_list_decoder.decode(data))
    if code == _DICT_CODE:
        return dict(_pairs_decoder.decode(data))
    if code in _FROM_BYTES:
        return _FROM_BYTES[code](bytes(data))
    if code == BUFFER:
        return decode_inline(data)
    raise ValueError(f"unknown extension type {code}")


class ExtensionHook:
    """An ``ext_hook`` for a message with values beside it: ``take`` returns the one at a position. :meth:`close` when it is decoded."""

    __slots__ = ("_lists", "_pairs", "_take")

    def __init__(self, take: Callable[[int], Any]) -> None:
        self._take = take
        self._lists: msgspec.msgpack.Decoder[list[Any]] | None = None  # made once, when the first is needed: a message has many
        self._pairs: msgspec.msgpack.Decoder[list[tuple[Any, Any]]] | None = None

    def close(self) -> None:
        """Let go of the decoders, which refer to this: in a cycle, what was taken would live until the garbage collector comes."""
        self._lists = self._pairs = None

    def __call__(self, code: int, data: memoryview) -> Any:
        if code == BESIDE:
            return self._take(_position.decode(data))
        if code in _FROM_LIST:
            if self._lists is None:
                self._lists = msgspec.msgpack.Decoder(list[Any], ext_hook=self)
            return _FROM_LIST[code](self._lists.decode(data))
        if code == _DICT_CODE:
            if self._pairs is None:
                self._pairs = msgspec.msgpack.Decoder(list[tuple[Any, Any]], ext_hook=self)
            return dict(self._pairs.decode(data))
        return decode_extension(code, data)


_position: msgspec.msgpack.Decoder[int] = msgspec.msgpack.Decoder(int)
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ext_hook=decode_extension)
_list_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[Any], ext_hook=decode_extension)
_pairs_decoder: msgspec.msgpack.Decoder[list[tuple[Any, Any]]] = msgspec.msgpack.Decoder(list[tuple[Any, Any]], ext_hook=decode_extension)
