from __future__ import annotations

import array
import mmap
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire.buffers import LARGE, Fields, Form, Item, NoForm, describe, rebuild
from blackhole_core.executor.wire.plain import NotPlain, decode_plain, encode_plain
from blackhole_core.executor.wire.signature import ArgumentsDecoder, ArgumentsEncoder, ResultDecoder, ResultEncoder, Undecodable
from blackhole_core.executor.wire.types import contains_any, uncrossable


@dataclass
class Picture:
    name: str
    pixels: npt.NDArray[np.uint8]


def _there(value: Any) -> Any:
    return decode_plain(encode_plain(value))


def _titled(dtype: np.dtype[Any]) -> bool:
    """Whether it has fields with titles, which NumPy can spell but not compare."""
    if dtype.subdtype is not None:
        return _titled(dtype.subdtype[0])
    return any(len(field) > 2 or _titled(field[0]) for field in (dtype.fields or {}).values())


_DTYPES = hnp.scalar_dtypes() | hnp.array_dtypes(max_size=3, allow_subarrays=True) | hnp.nested_dtypes(max_leaves=4)


@given(st.data())
def test_every_array_arrives_as_it_left(data: st.DataObject) -> None:
    """Any type without Python objects, any shape, any order: the same bytes, type, shape and order come back."""
    dtype = data.draw(_DTYPES)
    assume(not _titled(dtype))
    value = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    if data.draw(st.booleans()):
        value = np.asfortranarray(value)
    answer = _there(value)
    assert type(answer) is np.ndarray
    assert (answer.dtype, answer.shape) == (value.dtype, value.shape)
    assert answer.tobytes("A") == value.tobytes("A")
    assert answer.flags.f_contiguous == value.flags.f_contiguous
    assert not answer.flags.writeable


@pytest.mark.parametrize(
    "value",
    [
        memoryview(b""),
        memoryview(b"abc"),
        memoryview(bytearray(b"abcdefgh")),
        memoryview(b"abcdef")[::-2],
        memoryview(array.array("d", [1.5, 2.5])),
        memoryview(np.arange(12, dtype="i8").reshape(3, 4)),
        memoryview(np.arange(12, dtype="i8").reshape(3, 4).T),
        memoryview(bytes(8)).cast("d", ()),
    ],
    ids=["empty", "bytes", "bytearray", "backwards", "array", "two dimensions", "columns first", "no dimension"],
)
def test_memoryviews_arrive_as_they_left(value: memoryview) -> None:
    """Format, shape and items are kept, scattered parts are gathered; what arrives is read-only."""
    answer = _there(value)
    assert type(answer) is memoryview
    assert answer == value
    assert (answer.format, answer.shape) == (value.format, value.shape)
    assert answer.readonly


def test_an_array_of_the_standard_library() -> None:
    """It arrives as what it was, and as the receiver's own."""
    value = array.array("q", [1, -2, 3])
    answer = _there(value)
    assert answer == value
    assert answer.typecode == "q"
    answer.append(4)


def test_a_part_of_a_larger_array() -> None:
    """Only the part crosses, whatever lies between its items."""
    whole = np.arange(1000).reshape(10, 100)
    part = whole[::3, ::7]
    assert (_there(part) == part).all()
    assert len(encode_plain(part)) < part.nbytes + 100


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.array([None]), "numpy.ndarray of dtype object, which holds Python objects"),
        (np.array([(1, "x")], dtype=[("a", "i4"), ("b", object)]), "which holds Python objects"),
        (memoryview(np.zeros(2, ">f8")), "memoryview of format '>d'"),
        (memoryview(np.zeros((0, 3))), "memoryview of 2 dimensions without items"),
        (np.rec.array([(1,)]), "numpy.rec.recarray; a memoryview of it can cross"),
        (mmap.mmap(-1, 10), "mmap.mmap; a memoryview of it can cross"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_cross_is_refused_by_name(value: Any, says: str) -> None:
    """The sentence names the type and where it is, and says what to do where something can be done."""
    with pytest.raises(NotPlain) as caught:
        encode_plain({"a": [1, value]})
    assert says in str(caught.value)
    assert caught.value.path == "['a'][1]"


def test_what_is_wrapped_in_a_memoryview_crosses() -> None:
    """Anything with the buffer protocol can cross as a view of it."""
    memory = mmap.mmap(-1, 10)
    memory[:3] = b"abc"
    assert _there(memoryview(memory)) == b"abc" + bytes(7)


@pytest.mark.parametrize(
    "form",
    [
        Form(4, Item("|O8"), (1,)),
        Form(4, Item("<f8,<f8"), (1,)),
        Form(4, Item("(2,2)<f8"), (1,)),
        Form(4, Item("<f8"), (2,)),
        Form(4, Item("<f8"), (2**40, 2**40)),
        Form(4, Item("<f3"), (1,)),
        Form(4, Item("<f8", (2**62,)), (1,)),
        Form(2, Item("B"), (9,)),
        Form(2, Item("0"), (8,)),
        Form(2, Item("B"), (0,)),
        Form(3, Item("z")),
        Form(3, Item("d"), ()),
    ],
    ids=repr,
)
def test_a_form_that_lies(form: Form) -> None:
    """What a stranger says of eight (or seven) bytes is refused when it cannot be, never made."""
    with pytest.raises(ValueError, match="."):
        rebuild(form, memoryview(bytes(7 if form.kind == 3 else 8)))


@pytest.mark.parametrize(
    "form",
    [
        Form(4, Item("<U0"), (2**40,)),
        Form(4, Item("|V0"), (2**20, 2)),
        Form(4, Item("<f8"), (2**40, 0)),
        Form(4, Item(Fields((), (), (), 0)), (2**40,)),
        Form(4, Item(Fields((), (), (), 0), (2**30,)), (1,)),
        Form(4, Item(Fields(("x",), (Item("<f8", (2**30, 0)),), (0,), 0)), (1,)),
    ],
    ids=repr,
)
def test_a_form_without_end(form: Form) -> None:
    """Items without bytes cost the sender nothing; more of them than anybody has are refused before somebody looks at each."""
    with pytest.raises(ValueError, match="without bytes"):
        rebuild(form, memoryview(b""))


def test_what_a_stranger_says_is_not_kept() -> None:
    """A structured type that was received is made and forgotten: it can be as large as a message."""
    item = Item(Fields(("x", "y"), (Item("<f8"), Item("<i4", (2,))), (0, 8), 16))
    before = sys.getrefcount(item)
    assert rebuild(Form(4, item, (1,)), memoryview(bytes(16)))["y"].tolist() == [[0, 0]]
    assert sys.getrefcount(item) == before


@pytest.mark.parametrize("names", [["x" * 1001], [str(number) for number in range(1001)]], ids=["long", "many"])
def test_fields_beyond_the_limits(names: list[str]) -> None:
    """Neither side takes more fields, or longer names, than people write."""
    with pytest.raises(NotPlain, match="more or longer names than can cross"):
        encode_plain(np.zeros(1, [(name, "u1") for name in names]))
    form = Form(4, Item(Fields(tuple(names), (Item("|u1"),) * len(names), tuple(range(len(names))), len(names))), (1,))
    with pytest.raises(ProtocolError, match="Expected `(str|array)` of length <= 1000"):
        decode_plain(msgspec.msgpack.encode(msgspec.msgpack.Ext(12, msgspec.msgpack.encode((form, bytes(len(names)))))))


def test_an_array_without_bytes() -> None:
    """It crosses with its shape, up to a number of items or rows."""
    for value in (np.zeros((1000, 0)), np.zeros(0), np.zeros(2**20, "V0")):
        assert (_there(value).shape, _there(value).dtype) == (value.shape, value.dtype)
    for value in (np.zeros((2**20 + 1, 0)), np.zeros((2**20, 2), "V0")):
        with pytest.raises(NotPlain, match=r"without bytes of shape \(.*more than 1048576"):
            encode_plain(value)
    with pytest.raises(NotPlain, match="sub-arrays without bytes"):
        encode_plain(np.zeros(1, [("x", "<f8", (5, 0))]))


@given(st.binary(max_size=60))
def test_no_bytes_do_harm(data: bytes) -> None:
    """Whatever stands in the place of such a value is one, or refused with the protocol's error."""
    try:
        decode_plain(msgspec.msgpack.encode(msgspec.msgpack.Ext(12, data)))
    except ProtocolError:
        pass


def test_a_value_without_form_is_none() -> None:
    """Other values are nobody's business here; a subclass is one of those."""
    assert describe("text") is None
    assert describe(type("Mine", (bytes,), {})(b"x")) is None
    with pytest.raises(NoForm, match="objects"):
        describe(np.array([None]))


def test_annotations_of_arrays() -> None:
    """A position that is annotated as an array is open, a part of a data class that is one can cross."""
    assert contains_any(np.ndarray)
    assert contains_any(npt.NDArray[np.float64])
    assert contains_any(list[memoryview])
    assert not contains_any(bytes)
    assert uncrossable(Picture) is None


def test_an_array_in_a_data_class() -> None:
    """Typed values may have arrays among their parts, as arguments and as results."""
    picture = Picture("a", np.arange(100, dtype="u1"))
    [argument] = ArgumentsDecoder([Picture]).decode(ArgumentsEncoder([Picture]).encode((picture,)))
    result = ResultDecoder(Picture).decode(ResultEncoder(False).encode(picture))
    for answer in (argument, result):
        assert answer.name == "a"
        assert (answer.pixels == picture.pixels).all()
    with pytest.raises(NotPlain, match="Python objects"):
        ResultEncoder(False).encode(Picture("b", np.array([None])))
    with pytest.raises(Undecodable):
        ResultDecoder(Picture).decode(ResultEncoder(False).encode({"name": "c", "pixels": 1}))


def test_large_bytes_without_a_shelf() -> None:
    """With no memory beside the channel everything travels inside the message, at every size."""
    large = bytes(LARGE + 1)
    for value in (large, bytearray(large), memoryview(large)):
        assert type(_there(value)) is type(value)
        assert _there(value) == value
    assert ArgumentsDecoder([bytes]).decode(ArgumentsEncoder([bytes]).encode((large,))) == (large,)


def test_numpy_is_not_imported_for_other_values() -> None:
    """Who has no arrays does not pay for them."""
    program = (
        "import sys; from blackhole_core.executor.wire.plain import *; from blackhole_core.executor import arena\n"
        "decode_plain(encode_plain([memoryview(b'abc'), b'x' * 100_000, {1: bytearray(3)}]))\n"
        "print('numpy' in sys.modules, 'ctypes' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False False\n"
