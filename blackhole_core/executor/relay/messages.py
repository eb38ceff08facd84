"""What a worker asks of the relay, and what it is told. Pure.

A worker asks by one packet on its relay socket, beside which one end of a stream socket travels. The answer comes by that stream, before anything else: so no two
threads, or processes that a plugin forked, can take each other's answer, and a message needs no number.

Before it asks, a worker may have filled the stream, so that it counts as not writable until there is an answer, as a TCP socket that is being connected does. The host
takes out as many bytes as ``preface`` says when it has answered.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec

from blackhole_core.errors import ProtocolError

__all__ = ["MAX_ASK", "MAX_PREFACE", "VERDICT_HEAD", "Ask", "Verdict", "decode_ask", "decode_verdict", "encode_ask", "encode_verdict"]

#: Bytes of one request: a name has 253 at most.
MAX_ASK: Final = 512
#: Bytes of a preface: what the kernel lets one side of a stream write unread is some 200 KiB, unless the administrator changed it.
MAX_PREFACE: Final = 4 * 1024 * 1024
#: The length of a verdict, in front of it.
VERDICT_HEAD: Final = struct.Struct(">H")
#: Characters of its text: what a name and a permission make of a sentence, and room.
_MAX_TEXT: Final = 2000


class Ask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Connect the stream beside to ``host`` (a name, or an IP address without brackets) at ``port``."""

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    preface: Annotated[int, msgspec.Meta(ge=0, le=MAX_PREFACE)] = 0


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """``error`` is 0 when the stream is connected, else an ``errno``, or with ``lookup`` one of ``getaddrinfo(3)``; ``text`` says why."""

    error: int = 0
    text: str = ""
    lookup: bool = False


_encoder: Final = msgspec.msgpack.Encoder()
_ask: Final = msgspec.msgpack.Decoder(Ask)
_verdict: Final = msgspec.msgpack.Decoder(Verdict)


def encode_ask(ask: Ask) -> bytes:
    """Return the packet."""
    return _encoder.encode(ask)


def decode_ask(data: bytes) -> Ask:
    """:raises ProtocolError: it is none."""
    try:
        return _ask.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a request to the relay: {error}") from None


def encode_verdict(verdict: Verdict) -> bytes:
    """Return it with its length in front."""
    body = _encoder.encode(msgspec.structs.replace(verdict, text=verdict.text[:_MAX_TEXT]))
    return VERDICT_HEAD.pack(len(body)) + body


def decode_verdict(body: bytes) -> Verdict:
    """Return what came behind the length; the host is trusted."""
    return _verdict.decode(body)
