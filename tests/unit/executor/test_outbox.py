"""What waits to be written keeps its order, and knows how much of it the worker asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.executor.outbox import Outbox


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.booleans()), max_size=20), st.lists(st.integers(1, 12)))
def test_bytes_leave_in_order_and_answers_are_counted(frames: list[tuple[bytes, bool]], steps: list[int]) -> None:
    """Whatever is taken when, the stream is the same; an answer counts until its last byte has left."""
    outbox, written = Outbox(), b""
    for data, answer in frames:
        outbox.append(data, answer=answer)
    for step in [*steps, *[1] * 200]:
        with outbox.head(step) as head:
            taken = bytes(head)
        outbox.remove(len(taken))
        written += taken
        position, unread, count = 0, 0, 0
        for data, answer in frames:
            position += len(data)
            unread += len(data) if answer and position > len(written) else 0
            count += answer and position > len(written)
        assert (outbox.unread_answers, outbox.unread_count) == (unread, count)
    assert written == b"".join(data for data, _ in frames)
    assert not outbox


def test_clear_forgets_everything() -> None:
    """Nothing is left of what will never be read."""
    outbox = Outbox()
    outbox.append(b"abc", answer=True)
    outbox.clear()
    assert not outbox
    assert outbox.unread_answers == 0
