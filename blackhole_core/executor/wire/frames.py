"""Frames: how one message is told from the next on a byte stream. Pure: bytes in, bytes out.

A frame is a four-byte big-endian length and that many bytes. The length is checked against the cap before a byte of the
body is kept, so a peer cannot make us allocate what it merely claims to send.
"""

from __future__ import annotations

from typing import Final

from blackhole_core.errors import ProtocolError

__all__ = ["DEFAULT_MAX_MESSAGE", "HEADER", "MOST_AT_ONCE", "USUAL_AT_ONCE", "FrameReader", "frame", "read_size"]

#: Bytes of the length in front of every message.
HEADER: Final = 4

#: Bytes. Large enough for any sensible hook argument, small enough that a few of them do not hurt the host.
DEFAULT_MAX_MESSAGE: Final = 64 * 1024 * 1024

#: Bytes that are taken from a channel at once: what nearly every message fits in, and what a pipe holds. The C library's allocator maps fresh memory for a buffer of
#: more than 128 KiB and unmaps what was not used, at each read: 17 µs, and in an emulated machine half a millisecond.
USUAL_AT_ONCE: Final = 64 * 1024
MOST_AT_ONCE: Final = 1024 * 1024


def read_size(last: int) -> int:
    """Return how many bytes to take from a channel at once, after a read that brought ``last``."""
    return MOST_AT_ONCE if last >= USUAL_AT_ONCE else USUAL_AT_ONCE


def frame(body: bytes) -> bytes:
    """Return ``body`` with its length in front."""
    return len(body).to_bytes(HEADER, "big") + body


class FrameReader:
    """Cuts a byte stream into messages. Fed whole or byte by byte, the messages are the same."""

    __slots__ = ("_buffer", "_cap")

    def __init__(self, cap: int = DEFAULT_MAX_MESSAGE) -> None:
        self._buffer = bytearray()
        self._cap = cap

    def feed(self, data: bytes) -> list[bytes]:
        """Take in ``data`` and return the messages that are complete now.

        :raises ProtocolError: a frame claims more bytes than the cap; the stream is unusable from here on.
        """
        buffer = self._buffer
        if not buffer and HEADER <= len(data) <= HEADER + self._cap and int.from_bytes(data[:HEADER], "big") == len(data) - HEADER:
            return [data[HEADER:]]  # nearly always: one message, whole
        buffer += data
        messages: list[bytes] = []
        start = 0
        while len(buffer) - start >= HEADER:
            length = int.from_bytes(buffer[start : start + HEADER], "big")
            if length > self._cap:
                raise ProtocolError(f"a frame claims {length} bytes, at most {self._cap} are allowed")
            end = start + HEADER + length
            if len(buffer) < end:
                break
            messages.append(bytes(memoryview(buffer)[start + HEADER : end]))
            start = end
        if start:
            del buffer[:start]
        return messages

    @property
    def partial(self) -> int:
        """Bytes of an unfinished frame held back."""
        return len(self._buffer)
