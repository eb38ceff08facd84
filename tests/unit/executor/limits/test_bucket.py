"""The token bucket: no more passes than ran in, and what is refused is told when to come again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.executor.limits.bucket import Bucket, bandwidth


def test_a_full_bucket_lets_its_size_pass_at_once_and_then_as_much_as_runs_in() -> None:
    granted, bucket = Bucket.full(100.0, 50.0, now=0.0).take(80.0, 0.0)
    assert granted == 50.0
    assert bucket.take(80.0, 0.0)[0] == 0.0
    assert bucket.take(80.0, 0.2)[0] == pytest.approx(20.0)


def test_it_never_holds_more_than_its_size() -> None:
    assert Bucket.full(100.0, 50.0, now=0.0).take(1e9, 1e6)[0] == 50.0


def test_a_clock_that_goes_back_adds_nothing() -> None:
    _, bucket = Bucket.full(100.0, 50.0, now=10.0).take(50.0, 10.0)
    assert bucket.take(50.0, 5.0)[0] == 0.0
    assert bucket.take(50.0, 5.0)[1].take(50.0, 10.1)[0] == pytest.approx(10.0)


def test_it_says_when_what_is_wanted_may_pass() -> None:
    _, bucket = Bucket.full(100.0, 50.0, now=0.0).take(50.0, 0.0)
    assert bucket.wait(20.0, 0.0) == pytest.approx(0.2)
    assert bucket.wait(20.0, 0.2) == pytest.approx(0.0)
    assert bucket.wait(1000.0, 0.0) == pytest.approx(0.5), (
        "more than its size never passes at once: a full bucket is all there is to wait for"
    )


@pytest.mark.parametrize(("rate", "size"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0)])
def test_a_bucket_that_could_never_let_anything_pass_is_refused(rate: float, size: float) -> None:
    with pytest.raises(ValueError, match="must be > 0"):
        Bucket.full(rate, size, 0.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1000)), max_size=40))
def test_over_any_time_no_more_passes_than_the_size_and_what_ran_in(takes: list[tuple[float, float]]) -> None:
    bucket, now, passed = Bucket.full(100.0, 50.0, 0.0), 0.0, 0.0
    for pause, wanted in takes:
        now += pause
        granted, bucket = bucket.take(wanted, now)
        assert 0.0 <= granted <= wanted
        passed += granted
    assert passed <= 50.0 + 100.0 * now + 1e-6


def test_a_bandwidth_is_in_megabits_and_lets_one_read_pass_however_low_it_is() -> None:
    fast, slow = bandwidth(80.0, 0.0), bandwidth(0.001, 0.0)
    assert fast.rate == 10_000_000
    assert fast.size == 1_000_000
    assert slow.rate == 125
    assert slow.size == 16 * 1024
