"""Hypothesis strategies for messages, made from their declarations: a message that is added tomorrow is covered tomorrow."""

from __future__ import annotations

import functools
import typing
from typing import Any, Final

import msgspec
import msgspec.inspect as declared
from hypothesis import strategies as st

__all__ = ["anything", "message_types", "messages", "nearly"]

#: Whatever msgpack can hold.
anything: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def message_types(union: Any) -> tuple[type[msgspec.Struct], ...]:
    """Return the messages of one direction."""
    return typing.get_args(union)


def messages(kind: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    """Return messages of one type with any values that it allows."""
    return _struct(kind)


@st.composite
def nearly(draw: st.DrawFn, kind: type[msgspec.Struct]) -> bytes:
    """Return the bytes of a message in which something is not as declared: a value, the number of values, or the tag."""
    message: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(draw(messages(kind))), strict=False)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(message)))
        match draw(st.sampled_from(("replace", "remove", "insert"))):
            case "replace":
                message[place : place + 1] = [draw(anything)]
            case "remove":
                del message[place:]
            case _:
                message.insert(place, draw(anything))
    return msgspec.msgpack.encode(message)


@functools.cache
def _struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    # Deferred: a failure has a cause, which is a failure.
    return st.deferred(lambda: st.builds(kind, *(_of(field.type) for field in _struct_info(kind).fields)))


def _struct_info(kind: type[msgspec.Struct]) -> declared.StructType:
    info = declared.type_info(kind)
    assert isinstance(info, declared.StructType)
    return info


def _of(info: Any) -> st.SearchStrategy[Any]:  # noqa: C901 - one case for each kind of declaration
    match info:
        case declared.StructType():
            return _struct(info.cls)
        case declared.UnionType():
            # None more often than not, or a failure whose cause has a cause would have no end.
            return st.one_of(*[st.none()] * (2 * info.includes_none), *(_of(member) for member in info.types))
        case declared.VarTupleType():
            most = 1 if isinstance(info.item_type, declared.StructType) else 3  # as above
            return st.lists(_of(info.item_type), max_size=min(most, info.max_length or most)).map(tuple)
        case declared.TupleType():
            return st.tuples(*map(_of, info.item_types))
        case declared.ListType():
            return st.lists(_of(info.item_type), max_size=3)
        case declared.DictType():
            return st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=min(3, info.max_length or 3))
        case declared.IntType():
            return st.integers(-(2**63) if info.ge is None else info.ge, 2**64 - 1 if info.le is None else info.le)
        case declared.StrType():
            return st.text(max_size=min(30, info.max_length or 30))
        case declared.BytesType():
            return st.binary(max_size=30)
        case declared.FloatType():
            return st.floats(allow_nan=False)
        case declared.BoolType():
            return st.booleans()
        case declared.NoneType():
            return st.none()
        case declared.RawType():
            return anything.map(msgspec.msgpack.encode).map(msgspec.Raw)
        case declared.EnumType():
            return st.sampled_from(list(info.cls))
        case declared.LiteralType():
            return st.sampled_from(info.values)
        case declared.AnyType():
            return anything
    raise TypeError(f"no strategy for {info}: add one, so that the message is covered")
