"""How many calls one request carries."""

from __future__ import annotations

from blackhole_core.executor.pace import Pace


def test_the_first_call_goes_alone() -> None:
    assert Pace().count() == 1


def test_quick_calls_go_together_and_slow_ones_do_not() -> None:
    pace = Pace()
    for _ in range(30):
        pace.took(pace.count(), pace.count() * 5e-6)
    assert 100 < pace.count() <= 256
    pace.took(100, 0.5)  # one that takes 5 ms each is believed at once
    assert pace.count() == 1
    for _ in range(30):
        pace.took(1, 1e-9)
    assert pace.count() == 256
