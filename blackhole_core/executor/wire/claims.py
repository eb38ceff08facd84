"""A received body some of whose values lie beside it, until it has been decoded. Pure.

The table is checked when the claim is made, the values are decoded when somebody wants them. What is in a claim belongs to it: when it goes,
decoded or not, the regions that no value looks at are given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.buffers import BYTES, MEMORYVIEW, NDARRAY, rebuild
from blackhole_core.executor.wire.parcels import BESIDE, Body, Reference, Shelf, contents
from blackhole_core.executor.wire.plain import ExtensionHook, decode_plain

__all__ = ["DECODE_ERRORS", "Claim", "claim_body", "claimed", "decode_open"]

_decoder: msgspec.msgpack.Decoder[Body] = msgspec.msgpack.Decoder(Body)
_raws: msgspec.msgpack.Decoder[list[msgspec.Raw]] = msgspec.msgpack.Decoder(list[msgspec.Raw])
_index: msgspec.msgpack.Decoder[int] = msgspec.msgpack.Decoder(int)
#: What decoding raises for bytes that are not what was wanted.
DECODE_ERRORS: Final = (msgspec.DecodeError, ValueError, TypeError, ArithmeticError, RecursionError)
#: What an annotation may say of a value beside the message, besides NumPy's arrays.
_BUFFERS: Final = (bytes, bytearray, memoryview)


def claimed(data: bytes | msgspec.Raw, shelf: Shelf | None) -> Any:
    """Return ``data``, or the :class:`Claim` that it is.

    :raises ProtocolError: it says that it is one and lies.
    """
    body = contents(data)
    return data if body is None else Claim(body, shelf)


def decode_open(data: bytes | msgspec.Raw | Claim) -> Any:
    """Return the plain value that was received.

    :raises ProtocolError: there is none.
    """
    if not isinstance(data, Claim):
        return decode_plain(bytes(data))
    try:
        return data.value(Any)
    except DECODE_ERRORS as error:
        raise ProtocolError(f"not a plain value: {error}") from error


def claim_body(message: Any, shelf: Shelf | None) -> Any:
    """Return a message that was received, with its body as the :class:`Claim` that it may be.

    :raises ProtocolError: see :func:`claimed`.
    """
    if isinstance(message, codec.Answer):
        result = claimed(message.result, shelf)
        return message if result is message.result else codec.Answer(message.id, result)
    if isinstance(message, codec.Request):
        args = claimed(message.args, shelf)
        return message if args is message.args else msgspec.structs.replace(message, args=args)
    if isinstance(message, codec.HostCall):
        for name, raw in message.kwargs.items():
            message.kwargs[name] = claimed(raw, shelf)
    return message


class Claim:
    """One body, to be decoded once. ``take`` and ``decode`` belong to one thread at a time."""

    __slots__ = ("_held", "_message", "_shelf", "_table")

    def __init__(self, data: memoryview, shelf: Shelf | None) -> None:
        self._held: dict[int, int] = {}  # position → slot, of what lies on the shelf and nobody has taken
        self._shelf = shelf
        try:
            body = _decoder.decode(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise ProtocolError(f"a body whose table is none: {error}") from None
        _check(body, shelf)
        self._table = body.table
        self._message = body.message
        self._held = {position: entry.slot for position, entry in enumerate(body.table) if entry.data is None}

    def __del__(self) -> None:
        if self._held and self._shelf is not None:
            self._shelf.release(tuple(self._held.values()))

    def arguments(self, wanted: Sequence[Any]) -> list[Any]:
        """Return the decoded items of an array, one of each type.

        :raises msgspec.DecodeError, ValueError, TypeError: they are not that.
        """
        items = _raws.decode(self._message)
        if len(items) != len(wanted):
            raise msgspec.ValidationError(f"Expected {len(wanted)} arguments, got {len(items)}")
        return [self._value(item, kind) for item, kind in zip(items, wanted, strict=True)]

    def value(self, wanted: Any) -> Any:
        """Return the whole decoded as one value, likewise."""
        return self._value(msgspec.Raw(self._message), wanted)

    def _value(self, item: msgspec.Raw, wanted: Any) -> Any:
        position = _position(item)
        if position is not None:  # the strict decoder knows no extensions, and the other one takes some microseconds to make
            value = self._take(position)
            return value if wanted is Any else msgspec.convert(value, wanted, builtin_types=_BUFFERS)
        hook = ExtensionHook(self._take)
        decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(wanted, ext_hook=hook)
        try:
            return decoder.decode(item)
        finally:
            hook.close()

    def _take(self, position: int) -> Any:
        """Return the value at ``position`` of the table, once."""
        if not 0 <= position < len(self._table):
            raise ValueError(f"value {position} of {len(self._table)} beside the message")
        entry = self._table[position]
        if entry.data is not None:
            return rebuild(entry.form, memoryview(entry.data))
        if position not in self._held:
            raise ValueError(f"value {position} beside the message twice")
        assert self._shelf is not None, "checked when the claim was made"
        if self._shelf.in_place and entry.form.kind in (MEMORYVIEW, NDARRAY):
            row = self._shelf.lease(entry.slot, entry.offset, entry.length)
            del self._held[position]  # whoever looks at it has it now
            return rebuild(entry.form, row)
        value = _copied(entry, self._shelf)
        self._shelf.release((self._held.pop(position),))
        return value


def _check(body: Body, shelf: Shelf | None) -> None:
    """:raises ProtocolError: the table names what was never put there, or more than a body may have."""
    total = len(body.message)
    for entry in body.table:
        total += entry.length
        if entry.data is not None:
            fits = len(entry.data) == entry.length
        else:
            fits = shelf is not None and shelf.holds(entry.slot, entry.offset, entry.length)
        if not fits:
            raise ProtocolError(
                f"{entry.length} bytes at {entry.offset} (slot {entry.slot}) beside a message, where there is no such region"
            )
    if shelf is not None and total > shelf.limit:
        raise ProtocolError(f"a body of {total} bytes with what lies beside it, at most {shelf.limit} are allowed")


def _position(item: msgspec.Raw) -> int | None:
    """Return the position in the table, when ``item`` is nothing but what stands for it: an extension of one or two bytes."""
    head = memoryview(item)
    return _index.decode(head[2:]) if len(head) > 2 and head[0] in (0xD4, 0xD5) and head[1] == BESIDE else None


def _copied(entry: Reference, shelf: Shelf) -> Any:
    """Return a value that the other side cannot change any more."""
    if entry.form.kind == NDARRAY:
        return rebuild(entry.form, shelf.keep(entry.slot, entry.offset, entry.length))
    if entry.form.kind in (BYTES, MEMORYVIEW):  # a memoryview of bytes can be hashed
        data = shelf.copy(entry.slot, entry.offset, entry.length)
        return data if entry.form.kind == BYTES else rebuild(entry.form, memoryview(data))
    return rebuild(entry.form, shelf.received(entry.slot, entry.offset, entry.length))  # which copies
