"""How much may wait for a worker is bounded in calls and in bytes, and never so that nothing gets through."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.executor.backlog import Backlog


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=60))
def test_both_bounds_hold(steps: list[tuple[bool, int]]) -> None:
    """Whoever asks first and takes what there is room for stays within both bounds; a call alone always fits."""
    backlog, inside = Backlog(5, 100), list[int]()
    for goes_in, size in steps:
        if goes_in and backlog.has_room(size):
            inside.append(size)
            backlog.add(size)
        elif inside:
            backlog.remove(inside.pop(0))
        assert backlog.calls == len(inside) <= 5
        assert sum(inside) <= 100
        assert backlog.has_room(10**9) is (not inside)
    assert str(backlog) == f"{len(inside)} calls with {sum(inside)} bytes of arguments"
