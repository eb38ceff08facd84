"""A closed set of plain values arrives as it left; everything else is refused by name."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire.plain import MAX_DEPTH, NotPlain, decode_plain, encode_plain, is_bare

_text = st.text(st.characters(exclude_categories=["Cs"]))
_hashable_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | _text
    | st.binary()
    | st.datetimes()
    | st.datetimes(timezones=st.just(datetime.UTC))
    | st.dates()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
)
_hashables = st.recursive(
    _hashable_scalars, lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4), max_leaves=8
)
_values = st.recursive(
    _hashable_scalars | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.sets(_hashables, max_size=5)
        | st.frozensets(_hashables, max_size=5)
        | st.dictionaries(_text, inner, max_size=5)
        | st.dictionaries(_hashables, inner, max_size=5)
    ),
    max_leaves=12,
)


def _same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down: 1, 1.0 and True are three values here."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, dict):
        return left == right and all(map(_same, left.values(), right.values())) and list(map(type, left)) == list(map(type, right))
    return bool(left == right)


@given(_values)
def test_round_trip(value: Any) -> None:
    """Every value of the closed set arrives equal and of the same types."""
    assert _same(decode_plain(encode_plain(value)), value)


def test_not_a_number_arrives() -> None:
    """NaN is a float like any other."""
    assert math.isnan(decode_plain(encode_plain(math.nan)))


class _Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "path", "type_name"),
    [
        (object(), "", "builtins.object"),
        ({"a": [1, {"b": object()}]}, "['a'][1]['b']", "builtins.object"),
        ((1, _Colour.RED), "[1]", "_Colour"),
        ([1, lambda: None], "[1]", "builtins.function"),
        ({1: {"when": datetime.timedelta(1)}}, "[1]['when']", "datetime.timedelta"),
        (["fine", "\ud800"], "[1]", "lone surrogate"),
        ({"a": {"\udfff": 1}}, "['a']['\\udfff']", "lone surrogate"),
        (("\ud800",), "[0]", "lone surrogate"),
        ([[[[object()]]]], "a part of it", "builtins.object"),
    ],
)
def test_refused_values_name_path_and_type(value: Any, path: str, type_name: str) -> None:
    """What is not plain is refused with the way to it and its type."""
    with pytest.raises(NotPlain) as caught:
        encode_plain(value)
    assert caught.value.path == path
    assert type_name in caught.value.type_name
    assert caught.value.type_name in str(caught.value)


def test_subclasses_are_not_what_they_inherit_from() -> None:
    """A subclass would arrive as its base, so it is refused."""

    class Text(str):
        __slots__ = ()

    with pytest.raises(NotPlain, match="Text"):
        encode_plain(Text("x"))


def test_depth_ends_at_the_limit() -> None:
    """Nesting and cycles end in a refusal, never in a RecursionError."""
    nested: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        nested = [nested]
    assert decode_plain(encode_plain(nested)) == nested
    circle: list[Any] = []
    circle.append(circle)
    for value in ([[nested]], circle):
        with pytest.raises(NotPlain, match="nested deeper than 200"):
            encode_plain(value)


@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    """A05: whatever the bytes are, decoding returns a value or raises ProtocolError."""
    try:
        decode_plain(data)
    except ProtocolError:
        pass


@given(_values, st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0))
def test_mutated_bytes(value: Any, changes: list[tuple[int, int]], cut: int) -> None:
    """A05: a valid message with some bytes changed, and cut off somewhere, likewise."""
    data = bytearray(encode_plain(value))
    for position, byte in changes:
        data[position % len(data)] = byte
    try:
        decode_plain(bytes(data[: len(data) - cut % len(data)]))
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 1_000_000 + b"\xc0",  # lists in lists (A04)
        b"\x81\xa1a" * 300_000 + b"\xc0",  # dicts in dicts
        b"\xdd\xff\xff\xff\xff",  # 4 G elements that are not there
        b"\xc6\xff\xff\xff\xff",  # 4 GiB that are not there
        b"\xc7\x01\x63x",  # extension type 99
        b"\xc7\x03\x02\x91\x91\xc0",  # a set with a list in it
        b"\xc7\x01\x05x",  # a datetime that is none
        b"\xa1\xff",  # invalid UTF-8
        b"\xc0\xc0",  # trailing bytes
        b"",
    ],
)
def test_hostile_bytes(data: bytes) -> None:
    """A04, A05: crafted bytes are a ProtocolError."""
    with pytest.raises(ProtocolError, match="not a plain value"):
        decode_plain(data)


def test_extensions_nested_in_extensions_end() -> None:
    """A04: a tuple in a tuple in a tuple …, 20,000 deep, is a ProtocolError and not a crash."""
    data = b"\xc0"
    for _ in range(20_000):
        body = b"\x91" + data
        data = msgspec.msgpack.encode(msgspec.msgpack.Ext(1, body))
        if len(data) > 3_000_000:
            break
    with pytest.raises(ProtocolError):
        decode_plain(data)


def test_bare_values_are_known() -> None:
    """Only what msgpack keeps as it is counts as bare."""
    assert all(map(is_bare, (None, True, 1, 1.5, "x", b"x", [], {}, [1, "x", [2.5]], {"a": {"b": [None]}, "c": [{}]})))
    assert not any(map(is_bare, ((), [()], {1: 2}, {"a": {1}}, decimal.Decimal(1), [[uuid.UUID(int=0)]], [bytearray()])))


def test_what_nests_too_deep_is_not_bare() -> None:
    """A list in itself ends the look."""
    endless: list[object] = []
    endless.append(endless)
    assert not is_bare(endless)
