"""The share of the processor from one look to the next."""

from __future__ import annotations

import pytest

from blackhole_core.executor.limits.usage import CpuMeter


def test_the_share_is_of_the_time_since_the_last_look() -> None:
    meter = CpuMeter(0.0, 1.0)
    assert meter.percent(2.0, 2.0) == pytest.approx(50.0)
    assert meter.percent(4.0, 2.0) == pytest.approx(0.0)
    assert meter.percent(5.0, 4.5) == pytest.approx(250.0)


def test_two_who_look_at_once_see_the_same_interval() -> None:
    meter = CpuMeter(0.0, 0.0)
    assert meter.percent(2.0, 1.0) == pytest.approx(50.0)
    assert meter.percent(2.001, 1.0) == pytest.approx(50.0, rel=0.01)


def test_what_is_not_known_is_none() -> None:
    meter = CpuMeter(0.0, None)
    assert meter.percent(1.0, 1.0) is None, "nobody knew where it began"
    assert meter.percent(2.0, None) is None
    assert CpuMeter(0.0, 1.0).percent(0.1, 1.1) is None, "too short to say anything"
