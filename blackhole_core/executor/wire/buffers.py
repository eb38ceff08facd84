"""Values that are one block of memory: what is said of them in a message, and how they are made again. Pure.

Five kinds cross: bytes, bytearray, memoryview, ``array.array`` and ``numpy.ndarray``, of exactly these types. NumPy is never imported for a
value that is none of its own: an array in the message, or one at hand, says that it is needed. Anything else with the buffer protocol crosses
when it is wrapped in a memoryview; it would not arrive as what it was, and so is not taken by guess.

Arrays and memoryviews arrive read-only, whichever way they came; a bytearray and an ``array.array`` are the receiver's own.

What a form says is hostile until :func:`rebuild` has compared it with the bytes that are there.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

if TYPE_CHECKING:
    import numpy

__all__ = [
    "BYTES",
    "LARGE",
    "MEMORYVIEW",
    "NDARRAY",
    "ROWS",
    "Form",
    "NoForm",
    "decode_inline",
    "describe",
    "is_block_type",
    "is_large_row",
    "rebuild",
]

#: Bytes from which a value travels beside the message, where there is room for it. The two ways cost the same at 64 KiB (there and back 40 µs);
#: at 128 KiB it is one fifth. A little less than 64, so that a message with a value below this still fits into the lane.
LARGE: Final = 48 * 1024
#: One row of bytes: inside the message, unless it is large and there is room beside it.
ROWS: Final = frozenset({bytes, bytearray})

BYTES, BYTEARRAY, MEMORYVIEW, ARRAY, NDARRAY = range(5)

_Count = Annotated[int, msgspec.Meta(ge=0)]
#: NumPy allows 64 dimensions.
_Shape = Annotated[tuple[_Count, ...], msgspec.Meta(max_length=64)]
#: Fields of one structured type; more than people write down.
_MAX_FIELDS: Final = 1000
#: Characters of a field's name.
_MAX_NAME: Final = 1000
#: Structured types in structured types.
_MAX_DEPTH: Final = 8
#: Items, or empty rows, of an array without bytes: a few bytes of a message could name so many that whoever looks at each never ends.
_MAX_EMPTY: Final = 2**20

#: What ``memoryview.cast`` can restore: one native item.
_VIEW_FORMATS: Final = frozenset("?cbBhHiIlLqQnNfd")
_ARRAY_CODES: Final = frozenset("bBuwhHiIlLqQfd")
#: A type of NumPy without fields: byte order, kind (all but Python objects), bytes of an item, unit of a time.
_DTYPE: Final = re.compile(r"[<>|=][?biufcmMSUV]\d{1,9}(\[[0-9a-zA-Zμ]{1,20}\])?")


class NoForm(TypeError):
    """A block of memory that cannot be told so that it could be made again. The text names it."""


class Fields(msgspec.Struct, array_like=True, frozen=True):
    """A structured type of NumPy."""

    names: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=_MAX_NAME)], ...], msgspec.Meta(max_length=_MAX_FIELDS)]
    items: Annotated[tuple[Item, ...], msgspec.Meta(max_length=_MAX_FIELDS)]
    offsets: Annotated[tuple[_Count, ...], msgspec.Meta(max_length=_MAX_FIELDS)]
    size: _Count


class Item(msgspec.Struct, array_like=True, frozen=True):
    """What one item of an array is: a NumPy type string or fields, and the shape of a sub-array."""

    format: str | Fields
    shape: _Shape = ()


class Form(msgspec.Struct, array_like=True, frozen=True):
    """All of a value but its bytes. ``format`` is that of a memoryview, the type code of an ``array.array``, or NumPy's type."""

    kind: Annotated[int, msgspec.Meta(ge=BYTES, le=NDARRAY)]
    item: Item = Item("")
    shape: _Shape = ()
    fortran: bool = False


_BYTES_FORM: Final = Form(BYTES)
_BYTEARRAY_FORM: Final = Form(BYTEARRAY)


def is_large_row(value: object) -> bool:
    """Whether ``value`` is a row of bytes that travels beside the message, where there is room."""
    return type(value) in ROWS and len(value) >= LARGE  # type: ignore[arg-type]  # what is in ROWS has a length


def is_block_type(kind: object) -> bool:
    """Whether ``kind`` is memoryview, ``array.array`` or ``numpy.ndarray``; imports none of them."""
    return kind is memoryview or _is_ndarray(kind) or _is_array(kind)


def _is_ndarray(kind: object) -> bool:
    return kind is not None and getattr(sys.modules.get("numpy"), "ndarray", None) is kind


def _is_array(kind: object) -> bool:
    return kind is not None and getattr(sys.modules.get("array"), "array", None) is kind


def describe(value: Any) -> tuple[Form, memoryview] | None:
    """Return what ``value`` is and its bytes in one row, None when it is no block of memory. The bytes are its own unless its parts lie scattered.

    :raises NoForm: it is one, and cannot cross.
    """
    kind = type(value)
    if kind is bytes:
        return _BYTES_FORM, memoryview(value)
    if kind is bytearray:
        return _BYTEARRAY_FORM, memoryview(value)
    if kind is memoryview:
        return _describe_view(value)
    if _is_ndarray(kind):
        return _describe_ndarray(value)
    if _is_array(kind):
        return Form(ARRAY, Item(value.typecode)), memoryview(value).cast("B")
    return None


def _describe_view(value: memoryview) -> tuple[Form, memoryview]:
    code = value.format.removeprefix("@")
    if code not in _VIEW_FORMATS:
        raise NoForm(f"memoryview of format {value.format!r}")
    if value.nbytes == 0 and value.ndim != 1:
        raise NoForm(f"memoryview of {value.ndim} dimensions without items")
    row = value if value.c_contiguous else memoryview(value.tobytes())
    return Form(MEMORYVIEW, Item(code), tuple(value.shape or ())), row.cast("B")


def _describe_ndarray(value: numpy.ndarray[Any, Any]) -> tuple[Form, memoryview]:
    item = _item_of(value.dtype)
    fortran = value.flags.f_contiguous and not value.flags.c_contiguous
    form = Form(NDARRAY, item, value.shape, fortran)
    if value.nbytes == 0:
        if _is_endless(value.shape):
            raise NoForm(f"numpy.ndarray without bytes of shape {value.shape}, which has more than {_MAX_EMPTY} items or rows")
        return form, memoryview(b"")
    import numpy

    row = value.T if fortran else numpy.ascontiguousarray(value)
    return form, memoryview(row.reshape(-1).view(numpy.uint8).data)


def _is_endless(shape: tuple[int, ...]) -> bool:
    """Whether an array of that shape, which has no bytes, has too many items or rows."""
    return math.prod(filter(None, shape)) > _MAX_EMPTY


@functools.lru_cache(maxsize=256)
def _item_of(dtype: numpy.dtype[Any]) -> Item:
    if dtype.hasobject:
        raise NoForm(f"numpy.ndarray of dtype {dtype}, which holds Python objects")
    try:
        item = _spell(dtype, 0)
        if _dtype_of(item) == dtype:
            return item
    except (ValueError, TypeError):
        pass  # NumPy cannot make it from what it says of itself
    raise NoForm(
        f"numpy.ndarray of dtype {dtype}, which is not one of NumPy's own, has sub-arrays without bytes, or more or longer names than can cross"
    )


def _spell(dtype: numpy.dtype[Any], depth: int) -> Item:
    if depth > _MAX_DEPTH:
        raise ValueError("too deep")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return Item(_spell(base, depth + 1).format, shape)
    if dtype.fields is None:
        return Item(dtype.str)
    names = dtype.names or ()
    if len(names) > _MAX_FIELDS or any(len(name) > _MAX_NAME for name in names):
        raise ValueError("more fields, or longer names, than the receiver takes")
    found = [dtype.fields[name] for name in names]
    return Item(Fields(names, tuple(_spell(kind, depth + 1) for kind, *_ in found), tuple(at for _, at, *_ in found), dtype.itemsize))


@functools.lru_cache(maxsize=256)  # of short texts only: what a stranger sent is kept
def _dtype_of_format(known: str) -> numpy.dtype[Any]:
    import numpy

    if _DTYPE.fullmatch(known) is None:
        raise ValueError(f"{known!r} is not a type of NumPy without Python objects")
    return numpy.dtype(known)


def _dtype_of(item: Item, depth: int = 0) -> numpy.dtype[Any]:
    """:raises ValueError, TypeError: NumPy has no such type."""
    import numpy

    known = item.format
    if isinstance(known, str):
        base = _dtype_of_format(known)
    else:
        if depth > _MAX_DEPTH or not len(known.names) == len(known.items) == len(known.offsets):
            raise ValueError("fields that do not fit together")
        formats = [_dtype_of(inner, depth + 1) for inner in known.items]
        base = numpy.dtype({"names": list(known.names), "formats": formats, "offsets": list(known.offsets), "itemsize": known.size})
    if not item.shape:
        return base
    whole = numpy.dtype((base, item.shape))
    if not whole.itemsize:
        raise ValueError(f"a sub-array without bytes of shape {item.shape}")  # in one another they have any number of items
    return whole


_inline: msgspec.msgpack.Decoder[tuple[Form, bytes]] = msgspec.msgpack.Decoder(tuple[Form, bytes])


def decode_inline(data: memoryview) -> Any:
    """Return the value that travelled inside a message.

    :raises ValueError: there is none.
    """
    form, row = _inline.decode(data)
    return rebuild(form, memoryview(row))


def rebuild(form: Form, row: memoryview) -> Any:
    """Return the value of which ``row`` are the bytes: an array or a memoryview looks at them, anything else copies them.

    :raises ValueError: they are not what the form says, or there is no such form.
    """
    if form.kind == BYTES:
        return bytes(row)
    if form.kind == BYTEARRAY:
        return bytearray(row)
    if form.kind == NDARRAY:
        return _rebuild_ndarray(form, row.toreadonly())
    code = form.item.format
    if form.kind == ARRAY:
        import array

        if code not in _ARRAY_CODES:
            raise ValueError(f"an array of type code {code!r}")
        value = array.array(str(code))
        value.frombytes(row)
        return value
    if code not in _VIEW_FORMATS:
        raise ValueError(f"a memoryview of format {code!r}")
    return _rebuild_view(code, form.shape, row.toreadonly())


def _rebuild_view(code: Any, shape: tuple[int, ...], row: memoryview) -> Any:
    if shape == (0,) and not row.nbytes:
        return row.cast(code)
    try:
        return row.cast(code, list(shape))
    except TypeError as error:  # the shape does not fit the bytes
        raise ValueError(str(error)) from None


def _rebuild_ndarray(form: Form, row: memoryview) -> Any:
    import numpy

    try:
        dtype = _dtype_of(form.item)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"no type of NumPy: {error}") from None
    wanted = math.prod(form.shape) * dtype.itemsize
    if wanted != row.nbytes:
        raise ValueError(f"an array of {wanted} bytes where {row.nbytes} are")
    if not wanted and _is_endless(form.shape):
        raise ValueError(f"an array without bytes of shape {form.shape}")
    return numpy.ndarray(form.shape, dtype, row, order="F" if form.fortran else "C")
