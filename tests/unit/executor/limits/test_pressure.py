"""A worker stands back while it wants more of the processor than its limit, or keeps starting processes that it may not have, and no longer."""

from __future__ import annotations

from blackhole_core.executor.limits.pressure import Pressure


def test_it_yields_while_it_is_held_back() -> None:
    """One period in which it had to wait is enough, and so is one look without."""
    first = Pressure(3, 0, 1.0)
    assert not first.looked(3, 0, 1.2).yields
    held = first.looked(4, 0, 1.2)
    assert held.yields
    assert held.looked(9, 0, 1.4).yields
    assert not held.looked(4, 0, 1.4).yields


def test_some_refused_processes_are_no_reason() -> None:
    """A plugin that asks for one too many now and then is not punished."""
    pressure = Pressure(0, 0, 1.0)
    for look in range(1, 20):
        pressure = pressure.looked(0, 10 * look, 1.0 + look)
        assert not pressure.short


def test_it_is_kept_short_while_it_starts_processes_again_and_again() -> None:
    """It has so little then that it can hardly try, so one that is refused is enough to go on, and some looks without one are needed to end it."""
    short = Pressure(0, 5, 1.0).looked(0, 16, 1.1)
    assert short.short
    looks, refused = 0, 16
    while looks < 30:  # one try in three looks
        looks, refused = looks + 1, refused + (looks % 3 == 0)
        short = short.looked(0, refused, 1.1)
        assert short.short
    without = 0
    while short.short:
        short, without = short.looked(0, refused, 1.1), without + 1
    assert 5 <= without <= 10


def test_one_that_is_kept_short_is_looked_at_as_often_as_one_that_runs() -> None:
    """It does next to nothing because it may not."""
    short = Pressure(0, 0, 1.0).looked(0, 100, 1.1)
    assert short.looked(0, 100, 1.1).pause == short.pause


def test_who_does_nothing_is_looked_at_less_often() -> None:
    """Up to a bound, and as before once it runs again."""
    busy = Pressure(0, 0, 1.0).looked(0, 0, 1.1)
    idle = busy.looked(0, 0, 1.1)
    assert idle.pause > busy.pause
    for _ in range(10):
        last, idle = idle, idle.looked(0, 0, 1.1)
    assert idle.pause == last.pause
    assert idle.looked(0, 0, 1.2).pause == busy.pause
