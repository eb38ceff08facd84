"""Messages become bytes and come back; bytes that are no message are a ProtocolError and nothing else."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.policy import Place, Policy, WallReport

_RAW = msgspec.Raw(b"\x01")
_FAILURE = codec.WireFailure("builtins", "ValueError", "x", args=b"\x91\xa1x", notes=("n",), group=(codec.WireFailure("m", "n", "t"),))
_FROM_WORKER = [
    codec.Hello(1, 2, "3.11"),
    codec.Loaded((codec.ImplementationInfo("a", "a", ("x",), {"tryfirst": True, "specname": None}),), {"plugin_start": ("context",)}),
    codec.Answer(3, _RAW),
    codec.Error(4, _FAILURE),
    codec.HostCall(5, "transform", {"text": _RAW}, 1.5, 7),
    codec.Log(30, "root", "text"),
    codec.Imported(6, ("acme", "acme.core")),
    codec.Pong(6),
    codec.StateChanged(),
    codec.Stacks(6, ('  File "x.py", line 1, in f',)),
]
_FROM_HOST = [
    codec.Confine(),
    codec.Confine(Policy((Place(b"/usr/lib", b"/lib"),), ("seccomp",), ("files",), 1, limits=((4, 0, 0),))),
    codec.Load("m:a", "/p", ("m",), "n", None, 1, "notes", 1, 100, b"\x80"),
    codec.Bind((codec.BoundTypes(("int", None), False),), {"transform": codec.HookInfo(("x",), False, "str")}),
    codec.Request(1, "host", "transform", 0, _RAW, None, 0),
    codec.Cancel(1),
    codec.Stop(),
    codec.AskImported(6),
    codec.Ping(6),
    codec.AskStacks(6),
    codec.Answer(3, _RAW),
    codec.Error(4, _FAILURE),
]


@pytest.mark.parametrize("message", _FROM_WORKER, ids=lambda message: type(message).__name__)
def test_a_worker_s_messages_arrive(message: msgspec.Struct) -> None:
    """Every message of a worker is the same on the other side."""
    assert codec.encode(codec.decode_worker_message(codec.encode(message))) == codec.encode(message)


@pytest.mark.parametrize("message", _FROM_HOST, ids=lambda message: type(message).__name__)
def test_a_host_s_messages_arrive(message: msgspec.Struct) -> None:
    """Every message of a host is the same on the other side."""
    assert codec.encode(codec.decode_host_message(codec.encode(message))) == codec.encode(message)


@pytest.mark.parametrize("message", _FROM_HOST[:8], ids=lambda message: type(message).__name__)
def test_a_worker_cannot_speak_as_the_host(message: msgspec.Struct) -> None:
    """Each direction has its own closed set of messages."""
    with pytest.raises(ProtocolError, match="not a message of protocol 1"):
        codec.decode_worker_message(codec.encode(message))


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    """A05: bytes that are no message raise ProtocolError, nothing else."""
    for decode in (codec.decode_worker_message, codec.decode_host_message):
        try:
            decode(data)
        except ProtocolError:
            pass


@given(
    st.sampled_from(_FROM_WORKER),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4),
    st.integers(0),
    st.binary(max_size=4),
)
def test_mutated_messages(message: msgspec.Struct, changes: list[tuple[int, int]], cut: int, tail: bytes) -> None:
    """A05: a message with bytes changed, cut off, or with bytes behind it is a message or a ProtocolError."""
    data = bytearray(codec.encode(message))
    for position, byte in changes:
        data[position % len(data)] = byte
    try:
        codec.decode_worker_message(bytes(data[: len(data) - cut % len(data)]) + tail)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x93\x05\x01" + b"\x91" * 1_000_000 + b"\xc0",  # an answer nested a million deep (A04)
        b"\x93\x06\x00" + b"\x97\xa1a\xa1a\xa1a\xc0\xa0\x90" * 50_000,  # causes of causes of causes
        b"\xdd\xff\xff\xff\xff",
        b"\x92\x08\xdd\xff\xff\xff\xff",  # 4 G implementations that are not there
        b"\x94\x05\x01\xc0",  # truncated
        b"\x93\x05\xa1x\xc0",  # an id that is text
        b"\x93\x05\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xc0",  # an id that is NaN
        b"\x92\x07\xa1\xff",  # invalid UTF-8
        b"\x92\x63\x01",  # unknown tag
    ],
)
def test_hostile_messages(data: bytes) -> None:
    """A04, A05: crafted messages are a ProtocolError."""
    with pytest.raises(ProtocolError):
        codec.decode_worker_message(data)


def test_only_messages_with_a_value_may_be_large() -> None:
    """A02: a decoded message takes many times its size, so those that are decoded at once are small."""
    large = b"x" * codec.MAX_CONTROL
    assert isinstance(codec.decode_worker_message(codec.encode(codec.Answer(1, msgspec.Raw(msgspec.msgpack.encode(large))))), codec.Answer)
    with pytest.raises(ProtocolError, match="without a value"):
        codec.decode_worker_message(codec.encode(codec.Log(1, "root", "x" * codec.MAX_CONTROL)))
    # A header that only looks like an answer's: array16 whose length begins with the answer's tag.
    disguised = b"\xdc\x05\x00" + b"\x08" + b"\x90" * codec.MAX_CONTROL
    with pytest.raises(ProtocolError, match="without a value"):
        codec.decode_worker_message(disguised)


def test_lists_in_messages_are_short() -> None:
    """Groups of exceptions and arguments of calls are capped before they are made."""
    inner = codec.WireFailure("m", "n", "t")
    with pytest.raises(ProtocolError, match="length <= 100"):
        codec.decode_worker_message(codec.encode(codec.Error(1, codec.WireFailure("m", "n", "t", group=(inner,) * 101))))
    with pytest.raises(ProtocolError, match="length <= 255"):
        codec.decode_worker_message(codec.encode(codec.HostCall(1, "h", {str(number): _RAW for number in range(256)})))


def test_fields_of_a_later_release_are_ignored() -> None:
    """H-04: unknown trailing fields do no harm, missing optional ones have their default."""
    data = msgspec.msgpack.encode([7, 1, 99, "3.11", True, True, [{"Landlock": ""}], "a field of the future", 5])
    assert codec.decode_worker_message(data) == codec.Hello(1, 99, "3.11", lane=True, arena=True, walls=WallReport({"Landlock": ""}))
    assert codec.decode_worker_message(msgspec.msgpack.encode([7, 1, 99])) == codec.Hello(1, 99, "")
