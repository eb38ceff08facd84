"""One message is told from the next, however the bytes arrive."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire.frames import MOST_AT_ONCE, USUAL_AT_ONCE, FrameReader, frame, read_size


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 50), min_size=1))
def test_cut(bodies: list[bytes], steps: list[int]) -> None:
    """The same bytes whole, byte by byte or in any pieces make the same messages."""
    stream = b"".join(map(frame, bodies))
    assert FrameReader().feed(stream) == bodies
    single = FrameReader()
    assert [body for byte in stream for body in single.feed(bytes([byte]))] == bodies
    pieces, reader, start, turn = [], FrameReader(), 0, 0
    while start < len(stream):
        size = steps[turn % len(steps)]
        pieces += reader.feed(stream[start : start + size])
        start, turn = start + size, turn + 1
    assert pieces == bodies
    assert reader.partial == 0


def test_a_claim_over_the_cap_is_refused_before_a_byte_of_it_is_kept() -> None:
    """A02: a frame that claims 4 GiB is refused, and nothing is allocated for it."""
    reader = FrameReader(cap=1000)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="claims 4294967295 bytes, at most 1000"):
            reader.feed(b"\xff\xff\xff\xff")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_cap_itself_is_allowed() -> None:
    """A message of exactly the cap passes, one byte more does not."""
    assert FrameReader(cap=5).feed(frame(b"12345")) == [b"12345"]
    with pytest.raises(ProtocolError):
        FrameReader(cap=5).feed(frame(b"123456"))


def test_what_came_before_a_bad_frame_in_another_read_is_kept() -> None:
    """A stream turns bad where it turns bad: earlier messages were delivered."""
    reader = FrameReader(cap=5)
    assert reader.feed(frame(b"ok") + b"\x00") == [b"ok"]
    assert reader.partial == 1
    with pytest.raises(ProtocolError):
        reader.feed(b"\x00\x00\xff")


def test_a_large_read_is_made_only_while_much_comes() -> None:
    """Much is taken at once after a read that was filled, and little again after one that was not."""
    assert read_size(0) == read_size(USUAL_AT_ONCE - 1) == USUAL_AT_ONCE
    assert read_size(USUAL_AT_ONCE) == read_size(MOST_AT_ONCE) == MOST_AT_ONCE
