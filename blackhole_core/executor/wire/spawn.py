"""What the host says to its zygote and to a worker that was just forked, and what they answer. Pure.

One message is one packet of a ``SOCK_SEQPACKET`` socket, so there is no framing to get wrong; its size is capped on both sides.
Descriptors travel beside a message: with :class:`Fork` the worker's end of a socket of its own, with :class:`Forked` a pidfd, with
:class:`Assignment` the working directory and one for each of ``numbers``.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from blackhole_core.errors import ProtocolError

__all__ = [
    "FREE",
    "GO",
    "MAX_DESCRIPTORS",
    "MAX_MESSAGE",
    "Ahead",
    "Answer",
    "Assignment",
    "Fork",
    "Forked",
    "Order",
    "Ready",
    "Refused",
    "decode_answer",
    "decode_fork",
    "decode_order",
    "encode",
]

#: Bytes of one message. A packet must fit into the socket's send buffer (208 KiB unless the administrator changed it); an import path and an
#: environment have a few KiB.
MAX_MESSAGE: Final = 128 * 1024
#: Descriptors of one assignment: the standard streams, the channel, shared memory, and room. The kernel takes 253.
MAX_DESCRIPTORS: Final = 32

#: The handshake with a worker that was forked: the host knows it and lets it go; it has left the zygote's process group.
GO: Final = b"g"
FREE: Final = b"f"


class Fork(msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True):
    """To the zygote: fork a worker for the host whose pid is ``parent``."""

    parent: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=2, forbid_unknown_fields=True):
    """The zygote has imported what it must and can fork."""


class Forked(msgspec.Struct, frozen=True, array_like=True, tag=3, forbid_unknown_fields=True):
    """A worker was forked; it waits for its assignment."""

    pid: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=4, forbid_unknown_fields=True):
    """The system did not let the zygote fork, or it cannot fork as it should here: ``errno`` is 0 then."""

    errno: int
    reason: str


class Assignment(msgspec.Struct, frozen=True, array_like=True, tag=5, forbid_unknown_fields=True):
    """To a worker: become this. Texts of the system are bytes: they need not be UTF-8.

    ``numbers`` are the worker's own numbers of the descriptors that come beside, of which ``receive``, ``send`` and ``further`` are for its
    program. ``limits`` are (resource, soft, hard) as ``setrlimit(2)`` takes them.
    """

    numbers: tuple[int, ...]
    receive: int
    send: int
    further: tuple[int, ...]
    import_path: tuple[bytes, ...]
    environment: tuple[tuple[bytes, bytes], ...]
    umask: int
    limits: tuple[tuple[int, int, int], ...]


class Ahead(msgspec.Struct, frozen=True, array_like=True, tag=6, forbid_unknown_fields=True):
    """To a worker that is forked ahead of its time: make these namespaces (:class:`~blackhole_core.executor.wire.policy.Layer`), and what else needs no role."""

    namespaces: tuple[str, ...]


Answer: TypeAlias = Ready | Forked | Refused
Order: TypeAlias = Ahead | Assignment

_encoder: Final = msgspec.msgpack.Encoder()
_fork: Final = msgspec.msgpack.Decoder(Fork)
_order: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(Order)
_answer: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(Answer)

_T = TypeVar("_T")


def encode(message: Fork | Order | Answer) -> bytes:
    """Return the packet; whoever sends it looks at its length."""
    return _encoder.encode(message)


def decode_fork(data: bytes) -> Fork:
    """:raises ProtocolError: it is none."""
    return _decode(_fork, data)


def decode_order(data: bytes, descriptors: int) -> Order:
    """Return what a worker is to do, which came with so many descriptors.

    :raises ProtocolError: it is nothing of that kind, or the numbers of an assignment contradict each other or the descriptors.
    """
    order: Order = _decode(_order, data)
    if isinstance(order, Assignment):
        _check(order, descriptors)
    elif descriptors:
        raise ProtocolError(f"{descriptors} descriptors with an order that needs none")
    return order


def _check(assignment: Assignment, descriptors: int) -> None:
    numbers, program = assignment.numbers, (assignment.receive, assignment.send, *assignment.further)
    if len(numbers) + 1 != descriptors:
        raise ProtocolError(f"an assignment with {descriptors} descriptors, it names {len(numbers)} and the working directory")
    if len(set(numbers)) != len(numbers) or not set(program) <= set(numbers) or min(numbers) < 0:
        raise ProtocolError(f"an assignment with descriptors {program} of {numbers}")


def decode_answer(data: bytes) -> Answer:
    """:raises ProtocolError: it is none."""
    answer: Answer = _decode(_answer, data)
    return answer


def _decode(decoder: msgspec.msgpack.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a message between host, zygote and worker: {error}") from None
