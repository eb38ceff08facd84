"""A worker lets everyone else go first while it wants more of the processor than its limit, and no longer."""

from __future__ import annotations

from blackhole_core.executor.limits.pressure import Pressure


def test_it_yields_while_it_is_held_back() -> None:
    """One period in which it had to wait is enough, and so is one look without."""
    first = Pressure(3, 1.0)
    assert not first.looked(3, 1.2).yields
    held = first.looked(4, 1.2)
    assert held.yields
    assert held.looked(9, 1.4).yields
    assert not held.looked(4, 1.4).yields


def test_who_does_nothing_is_looked_at_less_often() -> None:
    """Up to a bound, and as before once it runs again."""
    busy = Pressure(0, 1.0).looked(0, 1.1)
    idle = busy.looked(0, 1.1)
    assert idle.pause > busy.pause
    for _ in range(10):
        last, idle = idle, idle.looked(0, 1.1)
    assert idle.pause == last.pause
    assert idle.looked(0, 1.2).pause == busy.pause
