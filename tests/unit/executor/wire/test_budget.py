"""What a worker says unasked costs it; who has spent everything rests, and is never deaf for long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.executor.wire.budget import Budget


def test_a_burst_is_free_and_a_flood_is_not() -> None:
    """All of the bucket may be used at once; then as much as flows in."""
    budget = Budget(0.0, rate=100.0, burst=50.0)
    budget.spend(49)
    assert not budget.overdrawn(0.0)
    budget.spend(1)
    assert budget.overdrawn(0.0)
    assert budget.overdrawn(0.04)  # a tenth must have flowed in first
    assert not budget.overdrawn(0.1)
    budget.spend(10)
    assert budget.overdrawn(0.1)


def test_the_debt_is_bounded() -> None:
    """An hour of flood costs the time in which one bucket fills."""
    budget = Budget(0.0, rate=100.0, burst=50.0)
    for _ in range(1000):
        budget.spend(1000)
    assert budget.overdrawn(0.0)
    assert budget.overdrawn(0.49)
    assert not budget.overdrawn(0.6)


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 90.0)), max_size=100))
def test_no_more_gets_through_than_the_bucket_and_what_flowed_in(steps: list[tuple[float, float]]) -> None:
    """Whoever stops spending while overdrawn has never spent more than two buckets, what flowed in, and one step."""
    budget, now, spent, largest = Budget(0.0, rate=100.0, burst=50.0), 0.0, 0.0, 0.0
    for seconds, units in steps:
        now += seconds
        if budget.overdrawn(now):
            continue
        budget.spend(units)
        spent, largest = spent + units, max(largest, units)
        assert spent <= 2 * 50.0 + 100.0 * now + largest
