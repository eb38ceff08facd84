"""What the host says to its zygote, and what it answers. Pure.

One message is one packet of a ``SOCK_SEQPACKET`` socket, so there is no framing to get wrong; its size is capped on both sides.
Descriptors travel beside a message: with :class:`Spawn` the handshake socket, the working directory, and one for each of
``numbers``; with :class:`Spawned` a pidfd.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from blackhole_core.errors import ProtocolError

__all__ = [
    "GO",
    "MAX_DESCRIPTORS",
    "MAX_MESSAGE",
    "MAX_REPORT",
    "UP",
    "Answer",
    "Ready",
    "Refused",
    "Spawn",
    "Spawned",
    "decode_answer",
    "decode_spawn",
    "encode",
]

#: Bytes of one message. A packet must fit into the socket's send buffer (208 KiB unless the administrator changed it); an import path and an
#: environment have a few KiB.
MAX_MESSAGE: Final = 128 * 1024
#: Descriptors of one message: the three standard streams, the channel, shared memory, and room. The kernel takes 253.
MAX_DESCRIPTORS: Final = 32

#: The handshake of a new worker: the host knows it and lets it go; it answers that it has left the zygote's process group.
GO: Final = b"g"
UP: Final = b"u"
#: Bytes of the report of a worker that could not be set up, which comes in place of :data:`UP`.
MAX_REPORT: Final = 4096


class Spawn(msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True):
    """Fork a worker. Texts of the system are bytes: they need not be UTF-8.

    ``numbers`` are the worker's own numbers of the descriptors that come beside, of which ``receive``, ``send`` and ``further`` are for its
    program. ``limits`` are (resource, soft, hard) as ``setrlimit(2)`` takes them.
    """

    parent: int
    numbers: tuple[int, ...]
    receive: int
    send: int
    further: tuple[int, ...]
    import_path: tuple[bytes, ...]
    environment: tuple[tuple[bytes, bytes], ...]
    umask: int
    limits: tuple[tuple[int, int, int], ...]


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=2, forbid_unknown_fields=True):
    """The zygote has imported what it has to and can fork."""


class Spawned(msgspec.Struct, frozen=True, array_like=True, tag=3, forbid_unknown_fields=True):
    """A worker was forked; it waits to be let go."""

    pid: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=4, forbid_unknown_fields=True):
    """The system did not let it fork, or it cannot fork as it should here; ``errno`` is 0 in the latter case."""

    errno: int
    reason: str


Answer: TypeAlias = Ready | Spawned | Refused

_encoder: Final = msgspec.msgpack.Encoder()
_spawn: Final = msgspec.msgpack.Decoder(Spawn)
_answer: Final = msgspec.msgpack.Decoder(Answer)


def encode(message: Spawn | Answer) -> bytes:
    return _encoder.encode(message)


def decode_spawn(data: bytes) -> Spawn:
    """:raises ProtocolError: it is none, or its numbers contradict each other."""
    try:
        request = _spawn.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"not a request to the zygote: {error}") from None
    program = (request.receive, request.send, *request.further)
    if len(set(request.numbers)) != len(request.numbers) or not set(program) <= set(request.numbers) or min(request.numbers) < 0:
        raise ProtocolError(f"a request to the zygote with descriptors {program} among {request.numbers}")
    return request


def decode_answer(data: bytes) -> Answer:
    """:raises ProtocolError: it is none."""
    try:
        return _answer.decode(data)  # type: ignore[no-any-return]  # the decoder of a union has no type of its own
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"not an answer of the zygote: {error}") from None
