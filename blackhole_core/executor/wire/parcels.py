"""A body some of whose values travel beside it, in memory that both processes map. Pure: the memory itself is a :class:`Shelf`.

Such a body is one extension of MessagePack (:data:`WHOLE`). In it is a table that says of each such value where its bytes lie and what it is, and
then the message proper, in which an extension (:data:`BESIDE`) stands for entry ``n`` of the table.

Regions belong to whoever holds the object that stands for them: a :class:`Parcel` until it was handed over, on the other side a
:class:`~blackhole_core.executor.wire.claims.Claim` until it was decoded, then the decoded value. Where such an object is dropped, for whatever
reason (a refused argument, a cancelled call, a caller that left), its regions are free again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Annotated, Any, Final, Protocol, TypeAlias

import msgspec

from blackhole_core.executor.wire.buffers import LARGE, Form, describe

__all__ = [
    "BESIDE",
    "MARK",
    "MAX_REFERENCES",
    "Body",
    "Packing",
    "Parcel",
    "Reference",
    "Shelf",
    "TooLarge",
    "contents",
    "fit",
    "hand_over",
    "wrap_buffer",
]

#: Code of the extension that is such a body.
WHOLE: Final = 14
#: The first byte of such a body: an extension of whatever length. Other bodies rarely begin so; :func:`contents` tells.
MARK: Final = b"\xc9"
_HEAD: Final = struct.Struct(">cIB")
#: Code of the extension that stands for a value beside the message; its payload is the position in the table.
BESIDE: Final = 13
#: Values beside one message; further ones travel inside.
MAX_REFERENCES: Final = 255

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Shelf(Protocol):
    """The memory between this process and another one, as seen from here: a half to send from, a half to receive in."""

    @property
    def limit(self) -> int:
        """Bytes of one body with all that lies beside it."""

    @property
    def in_place(self) -> bool:
        """Whether what is received may be looked at where it lies, because the other side does not change it."""

    def put(self, data: memoryview) -> tuple[int, int] | None:
        """Copy ``data`` there. Return its slot and offset, None when there is no room just now."""

    def send_back(self, data: memoryview) -> tuple[int, int] | None:
        """Return slot and offset of ``data`` where it was received and still lies, so that nothing need be copied; None when it lies elsewhere."""

    def take_back(self, slots: tuple[int, ...]) -> None:
        """Free what was put or sent back and will not be received."""

    def sent(self, slot: int, offset: int, length: int) -> memoryview:
        """Return what was put there."""

    def holds(self, slot: int, offset: int, length: int) -> bool:
        """Whether that can be a region to receive from: of the other side's half, or of this side's own when it was sent back."""

    def received(self, slot: int, offset: int, length: int) -> memoryview:
        """Return what lies there now, for as long as its slot is not released."""

    def lease(self, slot: int, offset: int, length: int) -> memoryview:
        """Return what lies there, to be released when the last that looks at it is gone."""

    def copy(self, slot: int, offset: int, length: int) -> bytes:
        """Return a copy of what lies there."""

    def keep(self, slot: int, offset: int, length: int) -> memoryview:
        """Return the same to be looked at: in memory that the other side does not reach, and that is used again when the last that looks at it is gone."""

    def release(self, slots: tuple[int, ...]) -> None:
        """Let the other side use those regions again. Callable from finalisers."""


class TooLarge(Exception):
    """A body and what lies beside it exceed the limit; ``size`` is what they have, in bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"{size} bytes")


class Reference(msgspec.Struct, array_like=True, frozen=True):
    """Where the bytes of one value lie: in a region, or (``data``) here, when the region was another worker's."""

    form: Form
    slot: _Count
    offset: _Count
    length: _Count
    data: bytes | None = None


class Body(msgspec.Struct, array_like=True, frozen=True):
    """What is in such a body."""

    table: Annotated[tuple[Reference, ...], msgspec.Meta(max_length=MAX_REFERENCES)]
    message: bytes


_encoder = msgspec.msgpack.Encoder()


def _whole(body: Body) -> bytes:
    encoded = _encoder.encode(body)
    return _HEAD.pack(MARK, len(encoded), WHOLE) + encoded


def contents(data: bytes | msgspec.Raw) -> memoryview | None:
    """Return the encoded :class:`Body` that ``data`` is, None when it is none."""
    view = memoryview(data)
    return view[_HEAD.size :] if len(view) > _HEAD.size and view[0] == MARK[0] and view[_HEAD.size - 1] == WHOLE else None


class Parcel(bytes):
    """A body of which something lies on ``shelf``. Whoever sends it sets ``handed``; until then the regions are its own."""

    shelf: Shelf
    body: Body
    handed: bool = False

    def __del__(self) -> None:
        if not self.handed:
            self.take_back()

    def take_back(self) -> None:
        """Free the regions: nobody will receive them."""
        self.shelf.take_back(tuple(reference.slot for reference in self.body.table))

    def inlined(self) -> bytes:
        """Return the same body with everything in it, for another worker."""
        table = tuple(
            Reference(entry.form, 0, 0, entry.length, bytes(self.shelf.sent(entry.slot, entry.offset, entry.length)))
            for entry in self.body.table
        )
        return _whole(Body(table, self.body.message))


def fit(body: bytes, shelf: Shelf | None) -> bytes:
    """Return ``body`` as it can be sent to who has ``shelf``."""
    return body.inlined() if isinstance(body, Parcel) and body.shelf is not shelf else body


def hand_over(bodies: Mapping[str, bytes]) -> dict[str, msgspec.Raw]:
    """Return the bodies as parts of a message that is sent now."""
    for body in bodies.values():
        if isinstance(body, Parcel):
            body.handed = True
    return {name: msgspec.Raw(body) for name, body in bodies.items()}


class Packing:
    """One body in the making. Either :meth:`seal` or :meth:`discard` ends it."""

    __slots__ = ("_shelf", "_table", "_total")

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._table: list[Reference] = []
        self._total = 0

    def place(self, form: Form, row: memoryview) -> msgspec.msgpack.Ext | None:
        """Put a value beside the message and return what stands for it there; None when it must travel inside."""
        length = row.nbytes
        if len(self._table) == MAX_REFERENCES or self._total + length > self._shelf.limit:
            return None
        where = self._shelf.send_back(row) or self._shelf.put(row)
        if where is None:
            return None
        self._total += length
        self._table.append(Reference(form, *where, length))
        return msgspec.msgpack.Ext(BESIDE, _encoder.encode(len(self._table) - 1))

    def seal(self, message: bytes) -> bytes:
        """Return the body.

        :raises TooLarge: it and what lies beside it have too many bytes; nothing lies there any more.
        """
        if not self._table:
            return message
        if self._total + len(message) > self._shelf.limit:
            self.discard()
            raise TooLarge(self._total + len(message))
        body = Body(tuple(self._table), message)
        parcel = Parcel(_whole(body))
        parcel.shelf, parcel.body = self._shelf, body
        return parcel

    def discard(self) -> None:
        """Free what was put there."""
        self._shelf.take_back(tuple(reference.slot for reference in self._table))


def wrap_buffer(value: Any, packing: Packing | None, code: int) -> Any:
    """Return what stands for a block of memory in a message, None when ``value`` is none. ``code``: the extension for one that travels inside.

    :raises NoForm: it cannot cross.
    """
    described = describe(value)
    if described is None:
        return None
    form, row = described
    if packing is not None and row.nbytes >= LARGE:
        placed = packing.place(form, row)
        if placed is not None:
            return placed
    return value if type(value) is bytes else msgspec.msgpack.Ext(code, _encoder.encode((form, row)))
