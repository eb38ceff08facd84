"""Many streams over one, between a virtual machine and its host: frames, and how much each side may send unread. Pure.

A virtual machine cannot be given sockets. So what a worker at other levels does with its relay socket is done here by frames on a serial port, both ways:

====== ========================================================================================================
open   from the guest: a request to connect, in the words of :mod:`~blackhole_core.executor.relay.messages`; it makes the stream
data   bytes of a stream
end    this side writes no more; the other may
close  this side has nothing more to do with the stream; when both said so, its number is free
credit this side has passed on so many bytes of the stream, and the other may send as many more
====== ========================================================================================================

Each side may send :data:`WINDOW` bytes of a stream that were not passed on yet, so a stream that nobody reads holds up no other, and what waits in a host is bounded.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

import attrs

from blackhole_core.errors import ProtocolError

__all__ = ["MAX_DATA", "WINDOW", "Frame", "Frames", "Kind", "Stream", "encode_frame"]

#: Bytes of one stream that are on their way in one direction: as many as the host holds for a connection at the other levels.
WINDOW: Final = 128 * 1024
#: Bytes of one frame's data: what the guest's driver takes at once is 32 KiB.
MAX_DATA: Final = 32 * 1024
_HEAD: Final = struct.Struct("<BII")  # kind, stream, bytes that follow (or credit)


class Kind(enum.IntEnum):
    """What a frame says."""

    OPEN = 1
    DATA = 2
    END = 3
    CLOSE = 4
    CREDIT = 5


#: Kinds with bytes behind the head, and how many there may be.
_LONGEST: Final = {Kind.OPEN: 512, Kind.DATA: MAX_DATA}


@attrs.frozen
class Frame:
    """One message: ``amount`` is of a credit, ``data`` of what was opened or sent."""

    kind: Kind
    stream: int
    data: bytes = b""
    amount: int = 0


def encode_frame(kind: Kind, stream: int, data: bytes | memoryview = b"", *, amount: int = 0) -> bytes:
    """Return it as bytes; ``amount`` is of a credit, ``data`` of all others."""
    return _HEAD.pack(kind, stream, amount or len(data)) + data


class Frames:
    """What came so far of the frames of one side."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take in bytes and yield the frames that are whole.

        :raises ProtocolError: it is none, or too long; nothing more may be fed.
        """
        data = self._rest + data
        place = 0
        while len(data) - place >= _HEAD.size:
            word, stream, size = _HEAD.unpack_from(data, place)
            try:
                kind = Kind(word)
            except ValueError:
                raise ProtocolError(f"a frame of kind {word}") from None
            longest = _LONGEST.get(kind, 0)
            if kind is Kind.CREDIT:
                longest, amount, size = 0, size, 0
            else:
                amount = 0
            if size > longest or (kind in _LONGEST and not size):
                raise ProtocolError(f"a frame {kind.name.lower()} with {size} bytes")
            if len(data) - place - _HEAD.size < size:
                break
            begin = place + _HEAD.size
            yield Frame(kind, stream, data[begin : begin + size], amount)
            place = begin + size
        self._rest = data[place:]


@attrs.define
class Stream:
    """What one side knows of one stream. Wrong claims of the other side are errors, whoever it is."""

    may_send: int = WINDOW  #: bytes that the other side takes still
    unread: int = 0  #: bytes that came and were not passed on, of which the other side knows
    ended: bool = False  #: the other side sends no more
    sent_end: bool = False
    closed: bool = False  #: the other side has done with it
    sent_close: bool = False

    def received(self, size: int) -> None:
        """Count bytes that came.

        :raises ProtocolError: they may not have been sent.
        """
        if self.ended or self.closed:
            raise ProtocolError("bytes of a stream that was ended")
        self.unread += size
        if self.unread > WINDOW:
            raise ProtocolError(f"more than {WINDOW} bytes of a stream that were not asked for")

    def credited(self, amount: int) -> None:
        """Count what the other side passed on.

        :raises ProtocolError: it was never sent.
        """
        self.may_send += amount
        if self.may_send > WINDOW:
            raise ProtocolError("credit for bytes that were never sent")

    @property
    def over(self) -> bool:
        return self.closed and self.sent_close
