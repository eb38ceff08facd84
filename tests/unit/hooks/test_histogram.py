"""Buckets of durations, and what is read out of them."""

from __future__ import annotations

import itertools
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.hooks.callstats import CallReport, CallStats, HookCalls
from blackhole_core.hooks.counting import LockedCounter, new_counter, steps
from blackhole_core.hooks.histogram import BUCKETS, Histogram, bounds_of, bucket_of
from blackhole_core.hooks.turns import EveryTurn, LockedTurns, SkippingTurns, skipped

_LONGEST = 2**42 - 1


@given(st.integers(min_value=0, max_value=_LONGEST))
def test_a_duration_lies_within_the_bounds_of_its_bucket(nanoseconds):
    """And the middle of the bucket is within 6.25 % of it, from 64 ns on."""
    low, high = bounds_of(bucket_of(nanoseconds))
    assert low <= nanoseconds < high
    if nanoseconds >= 64:
        assert abs((low + high - 1) / 2 - nanoseconds) <= 0.0625 * nanoseconds


def test_buckets_follow_each_other_without_a_gap():
    """Each begins where the one before ends."""
    bounds = [bounds_of(bucket) for bucket in range(BUCKETS)]
    assert bounds[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))


@pytest.mark.parametrize(("nanoseconds", "bucket"), [(-5, 0), (0, 0), (7, 0), (8, 1), (_LONGEST, BUCKETS - 1), (2**60, BUCKETS - 1)])
@pytest.mark.parametrize("locked", [False, True])
def test_a_histogram_takes_any_duration(nanoseconds, bucket, locked):
    """What is out of range falls into the first or the last bucket."""
    histogram = Histogram(locked=locked)
    histogram.add(nanoseconds)
    assert histogram.counts() == {bucket: 1}


@given(st.lists(st.integers(min_value=0, max_value=2**36), max_size=200))
def test_a_histogram_agrees_with_the_rule(durations):
    """The table that makes it quick says what the rule says."""
    histogram = Histogram(locked=False)
    for duration in durations:
        histogram.add(duration)
    expected: dict[int, int] = {}
    for duration in durations:
        expected[bucket_of(duration)] = expected.get(bucket_of(duration), 0) + 1
    assert histogram.counts() == dict(sorted(expected.items()))
    assert histogram.longest == max(durations, default=0)


@pytest.mark.parametrize("locked", [False, True])
def test_no_step_of_many_threads_is_lost(locked):
    """8 threads at a 10 µs switch interval: counters, histogram and maximum are exact."""
    counter, histogram = new_counter(locked=locked), Histogram(locked=locked)
    assert isinstance(counter, LockedCounter) is locked

    def work(own: int) -> None:
        for number in range(2000):
            next(counter)
            histogram.add(number * 8 + own)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(own,)) for own in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert steps(counter) == 16_000
    assert sum(histogram.counts().values()) == 16_000
    assert histogram.longest == 1999 * 8 + 7


# --- turns -----------------------------------------------------------------------------------------------------------


def _drive(turns, calls: int) -> list[int]:
    """Make calls as a generated body does; return the numbers of those that were timed."""
    box = [iter(())]
    box[0] = turns.quiet(lambda fresh: box.__setitem__(0, fresh))
    return [number for number in range(calls) if next(box[0], "ended") == "ended" and turns.turn() is not None]


@pytest.mark.parametrize("sample", [2, 3, 7, 251])
def test_both_ways_of_sampling_time_the_same_calls(sample):
    """The one that skips and the one that asks: the first 16, then fewer, then one in ``sample``; and no call is uncounted."""
    skipping, asking = SkippingTurns(sample), LockedTurns(sample)
    timed = _drive(skipping, 20_000)
    assert timed == _drive(asking, 20_000)
    assert timed[:16] == list(range(16))
    assert timed[-1] - timed[-2] == sample
    assert skipping.calls() == asking.calls() == 20_000


def test_every_turn_is_timed():
    """``sample=1`` skips none."""
    turns = EveryTurn(locked=False)
    assert _drive(turns, 100) == list(range(100))
    assert turns.calls() == 100


def test_the_way_to_the_sample_is_gradual():
    """None is skipped at first, never more than ``sample - 1``."""
    assert [skipped(calls, 251) for calls in (0, 15, 16, 160, 4000, 10**9)] == [0, 0, 1, 10, 250, 250]


# --- values ----------------------------------------------------------------------------------------------------------


def test_nothing_timed_is_unknown_never_zero():
    """Counts are known, times are None."""
    stats = CallStats(count=3)
    assert (stats.p50, stats.p95, stats.p99, stats.mean, stats.max) == (None,) * 5
    assert stats.as_dict() == {"count": 3, "errors": 0, "timed": 0, "mean": None, "p50": None, "p95": None, "p99": None, "max": None}


def test_percentiles_never_exceed_the_longest():
    """The middle of a bucket may lie above everything in it."""
    stats = CallStats(count=1, timed=1, max=16 * 8e-9, buckets={bucket_of(128): 1})
    assert stats.p99 == stats.max
    assert stats.percentile(0) == stats.max


@pytest.mark.parametrize("percent", [-1, 101])
def test_an_impossible_percentile_is_refused(percent):
    """The sentence says what was wanted."""
    with pytest.raises(ValueError, match="lies between 0 and 100"):
        CallStats().percentile(percent)


def test_statistics_of_several_add_up():
    """Counts and buckets add up, the longest is the longest."""
    one = CallStats(count=2, errors=1, timed=2, max=1e-6, buckets={5: 1, 6: 1})
    other = CallStats(count=3, timed=1, max=2e-6, buckets={6: 1})
    assert CallStats.together([one, other, CallStats(count=1)]) == CallStats(count=6, errors=1, timed=3, max=2e-6, buckets={5: 1, 6: 2})
    assert CallStats.together([]) == CallStats()


def test_bounds_are_what_exporters_want():
    """Ascending upper bounds in seconds, each with its own number."""
    stats = CallStats(count=3, timed=3, max=1e-3, buckets={bucket_of(100): 1, bucket_of(1_000_000): 2})
    (first, one), (second, two) = stats.bounds()
    assert 100e-9 < first < 113e-9
    assert 1e-3 < second < 1.13e-3
    assert (one, two) == (1, 2)


def test_a_report_knows_what_reached_a_plugin():
    """Over all hooks together and in each; None of a plugin that never was measured."""
    a, b = CallStats(count=1), CallStats(count=2, errors=2)
    report = CallReport({"a": HookCalls(CallStats(count=9), {"p": a}), "b": HookCalls(CallStats(count=9), {"p": b, "q": a})})
    calls = report.plugin("p")
    assert calls.total == CallStats(count=3, errors=2)
    assert calls.hooks == {"a": a, "b": b}
    assert calls.as_dict()["hooks"]["b"]["errors"] == 2
    assert report.plugin("nobody") is None
