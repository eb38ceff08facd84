"""Every message that is declared survives the wire; one that is nearly right is a message or a breach, and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire import codec, spawn
from blackhole_core.executor.wire.claims import claim_body, decode_open
from blackhole_core.executor.wire.frames import FrameReader, frame
from tests.fuzz.grammar import anything, message_types, messages, nearly

WORKER = message_types(codec.WorkerMessage)
HOST = message_types(codec.HostMessage)
SPAWN = message_types(spawn.Answer)


def _body(message: msgspec.Struct) -> list[Any]:
    """Return a message as plain values, which compare: two ``Raw`` of the same bytes are not equal."""
    body: list[Any] = msgspec.msgpack.decode(codec.encode(message))
    return body


@pytest.mark.parametrize("kind", WORKER, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)
@seed(5)
@given(data=st.data())
def test_what_a_worker_may_say_arrives_as_it_was(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    """Any message of any type, framed, fed in two pieces, decoded: the same."""
    message = data.draw(messages(kind))
    framed = frame(codec.encode(message))
    cut = data.draw(st.integers(0, len(framed)))
    reader = FrameReader()
    [body] = [*reader.feed(framed[:cut]), *reader.feed(framed[cut:])]
    back = codec.decode_worker_message(body)
    assert type(back) is kind
    assert repr(_body(back)) == repr(_body(message))


@pytest.mark.parametrize("kind", HOST, ids=lambda kind: kind.__name__)
@settings(max_examples=15, deadline=None)
@seed(6)
@given(data=st.data())
def test_what_a_host_may_say_arrives_as_it_was(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    """The same in the other direction."""
    message = data.draw(messages(kind))
    back = codec.decode_host_message(codec.encode(message))
    assert type(back) is kind
    assert repr(_body(back)) == repr(_body(message))


@pytest.mark.parametrize("kind", WORKER, ids=lambda kind: kind.__name__)
@settings(max_examples=60, deadline=None)
@seed(7)
@given(data=st.data())
def test_what_is_nearly_a_message(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    """A05: a wrong type, too few or too many values, another tag: decoded, or :class:`ProtocolError`; the values in it likewise."""
    with contextlib.suppress(ProtocolError):
        message = claim_body(codec.decode_worker_message(data.draw(nearly(kind))), None)
        for value in [message.result] if isinstance(message, codec.Answer) else getattr(message, "kwargs", {}).values():
            decode_open(value)


@pytest.mark.parametrize("kind", SPAWN, ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None)
@seed(8)
@given(data=st.data())
def test_what_is_nearly_an_answer_of_the_zygote(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    """The same between host and zygote."""
    with contextlib.suppress(ProtocolError):
        spawn.decode_answer(data.draw(nearly(kind)))


@settings(max_examples=200, deadline=None)
@seed(9)
@given(anything)
def test_any_value_is_a_breach_unless_it_is_a_message(value: Any) -> None:
    """What is no array with a tag in front is no message, whatever else it is."""
    with contextlib.suppress(ProtocolError):
        assert type(codec.decode_worker_message(msgspec.msgpack.encode(value))) in WORKER
