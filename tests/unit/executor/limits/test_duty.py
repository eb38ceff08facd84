"""The duty cycle of a worker whose share of the processor the host holds itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.executor.limits.duty import Duty


def drive(share: float, demand: float, seconds: float) -> float:
    """Return what part of the time a worker got that wants ``demand`` cores, watched for ``seconds``."""
    duty, now, used = Duty(share, 0.0, 0.0), 0.0, 0.0
    while now < seconds:
        rest = duty.rest
        pause = rest or duty.turn
        now += pause
        used += 0.0 if rest else demand * pause
        duty = duty.looked(used, now)
    return used / now


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("demand", [1.0, 2.0])
def test_a_worker_that_spins_gets_its_share(share: float, demand: float) -> None:
    """A36: within 5 % of it, on one core or several; never more than it wants."""
    assert drive(share, demand, 60.0) == pytest.approx(min(share, demand), rel=0.05)


def test_a_worker_that_does_little_is_never_stopped() -> None:
    assert drive(0.5, 0.4, 60.0) == pytest.approx(0.4)


def test_what_was_not_used_for_an_hour_may_not_be_used_at_once() -> None:
    duty = Duty(0.5, 0.0, 0.0).looked(0.0, 3600.0)
    assert duty.rest == 0.0
    assert duty.looked(0.2, 3600.1).rest > 0


@given(st.floats(0.001, 64), st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1e6)), max_size=20))
def test_no_rest_is_longer_than_a_second_and_no_turn_is_none(share: float, looks: list[tuple[float, float]]) -> None:
    """A worker with the smallest share answers its host, and a clock or a meter that jumps stops nobody for ever."""
    duty, now = Duty(share, 0.0, 0.0), 0.0
    for pause, used in looks:
        now += pause
        duty = duty.looked(used, now)
        assert 0.0 <= duty.rest <= 1.0
        assert duty.turn > 0


def test_processor_time_that_shrinks_because_a_process_ended_counts_as_none() -> None:
    duty = Duty(0.5, 10.0, 0.0).looked(2.0, 0.1)
    assert duty.rest == 0.0
    assert duty.looked(2.2, 0.2).rest > 0


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="must be > 0"):
        Duty(0.0, 0.0, 0.0)
