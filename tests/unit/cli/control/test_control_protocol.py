"""Frames and requests: what is no request is refused with a sentence, before anything is allocated for it."""

from __future__ import annotations

import json
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.cli.control import protocol
from blackhole_core.cli.control.answers import ANSWERS
from blackhole_core.errors import ProtocolError

REQUESTS = get_args(protocol.AnyRequest)


def test_every_request_has_an_answer_and_nothing_else_has() -> None:
    """The table of what a host does covers exactly the requests of the protocol."""
    assert set(ANSWERS) == set(REQUESTS)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: str(kind.__name__))
def test_a_request_survives_the_wire(kind: type[protocol.Request]) -> None:
    """What was sent is what arrives, of the same type."""
    required = {field.name: field.name for field in msgspec.structs.fields(kind) if field.required}
    request = kind(**required)
    frame = protocol.encode(request, limit=1000)
    assert protocol.payload_length(frame[:4], limit=1000) == len(frame) - 4
    assert protocol.decode_request(frame[4:]) == request


def test_commands_are_told_apart_by_name() -> None:
    """The wire says ``state-export`` for StateExport."""
    assert json.loads(protocol.encode(protocol.StateExport("x", "/y"), limit=1000)[4:]) == {
        "command": "state-export",
        "name": "x",
        "path": "/y",
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "missing required field `command`"),
        ('{"command": "explode"}', "Invalid value 'explode'"),
        ('{"command": "plugins", "also": 1}', "unknown field `also`"),
        ('{"command": "describe"}', "missing required field `name`"),
        ('{"command": "describe", "name": 3}', r"Expected `str`, got `int` - at `\$.name`"),
        ('{"command": "plugins"', "truncated"),
        ("[" * 100_000, "Expected `object`|ecursion|nest"),
    ],
)
def test_what_is_no_request_is_refused(text: str, reason: str) -> None:
    """Unknown commands, unknown fields, missing ones and wrong types are errors that say where."""
    with pytest.raises(ProtocolError, match=reason):
        protocol.decode_request(text.encode())


@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoder_fail_otherwise(data: bytes) -> None:
    """Whatever arrives is a request or a ProtocolError."""
    try:
        protocol.decode_request(data)
    except ProtocolError:
        pass


@pytest.mark.parametrize("length", [0, 1001, 2**30, 2**32 - 1])
def test_an_impossible_length_is_refused(length: int) -> None:
    """A claim of nothing, or of more than the cap, is refused on its four bytes."""
    with pytest.raises(ProtocolError, match=f"it has {length} bytes, wanted 1 to 1000"):
        protocol.payload_length(length.to_bytes(4, "big"), limit=1000)


def test_a_message_over_the_cap_is_not_sent() -> None:
    """The sender is told, and not the other side."""
    with pytest.raises(ProtocolError, match="the control socket carries at most 100"):
        protocol.encode(protocol.Result("x" * 100), limit=100)


def test_a_value_that_json_cannot_hold_is_not_sent() -> None:
    """A lone surrogate is an error with a sentence."""
    with pytest.raises(ProtocolError, match="cannot be written as JSON"):
        protocol.encode(protocol.Result("\udc80"), limit=100)


def test_an_answer_that_cannot_be_read_is_an_error() -> None:
    """A client that talks to something else says so."""
    with pytest.raises(ProtocolError, match="the host's answer cannot be read"):
        protocol.decode_answer(b"HTTP/1.1 400 Bad Request")
