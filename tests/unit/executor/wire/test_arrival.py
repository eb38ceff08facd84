"""Whether the rest of a message comes in time is decided by what came and how long was waited, and by nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire.arrival import Arrival, Patience
from blackhole_core.executor.wire.frames import DEFAULT_MAX_MESSAGE

PATIENCE = Patience(stall=5.0, grace=10.0, rate=1000.0, tick=1.0)


def _take(arrival: Arrival, sizes: list[int], seconds: float) -> None:
    """Have one message come in pieces of these sizes, with so many seconds of waiting before each."""
    for size in sizes:
        arrival.received(size, completed=False, partial=size)
        arrival.waited(seconds)


def test_a_slow_drip_is_a_breach() -> None:
    """A byte a second is progress, and yet too slow: the message must come at the least rate."""
    with pytest.raises(ProtocolError, match="a message of which 11 bytes came in 11 s: at least 1000 a second are wanted"):
        _take(Arrival(PATIENCE), [1] * 100, 1.0)


def test_silence_in_the_middle_is_a_breach() -> None:
    """However much has come, the next piece must come as well."""
    arrival = Arrival(PATIENCE)
    arrival.received(10_000_000, completed=False, partial=10_000_000)
    for _ in range(5):
        arrival.waited(1.0)
    with pytest.raises(ProtocolError, match="stopped after 10000000 bytes, and nothing followed for 5 s"):
        arrival.waited(1.0)


def test_a_large_message_on_a_busy_machine_is_none() -> None:
    """The largest message, a small pipe full every 400 ms: an hour of busy neighbours does no harm."""
    piece = 64 * 1024
    _take(Arrival(Patience()), [piece] * (DEFAULT_MAX_MESSAGE // piece), 0.4)


def test_nothing_is_wanted_between_two_messages() -> None:
    """A worker that has nothing to say may be silent for ever."""
    arrival = Arrival(PATIENCE)
    arrival.received(100, completed=True, partial=0)
    assert arrival.wait is None
    for _ in range(1000):
        arrival.waited(1.0)


def test_each_message_has_its_own_time() -> None:
    """What one message took is not held against the next, the beginning of which came with its end."""
    arrival = Arrival(PATIENCE)
    for _ in range(50):
        _take(arrival, [1] * 9, 1.0)
        arrival.received(2, completed=True, partial=1)
        assert arrival.wait == PATIENCE.tick


def test_a_host_that_slept_blames_nobody() -> None:
    """A wait that took far longer than was asked for, because the host was stopped, counts as what was asked for."""
    arrival = Arrival(PATIENCE)
    arrival.received(10, completed=False, partial=10)
    arrival.waited(3600.0)
    arrival.waited(3600.0)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.0, 2.0)), max_size=200))
def test_every_message_ends_or_is_ended(pieces: list[tuple[int, float]]) -> None:
    """No message, however it comes, is waited for longer than its size allows; the verdict follows from the sums alone."""
    arrival, received, waited, idle = Arrival(PATIENCE), 0, 0.0, 0.0
    for size, seconds in pieces:
        arrival.received(size, completed=False, partial=size)
        received, idle = received + size, min(seconds, PATIENCE.tick)
        waited += idle
        late = idle > PATIENCE.stall or waited > PATIENCE.allowed(received)
        if late:
            with pytest.raises(ProtocolError):
                arrival.waited(seconds)
            return
        arrival.waited(seconds)
