"""Times that telemetry takes: of which calls, and whose they are."""

from __future__ import annotations

import time

import pluggy
import pytest

from tests.unit.hooks.counting import ASIDE, Boom, boom, calls_of, old_wrapper

hookimpl = pluggy.HookimplMarker("t")


def test_each_call_is_timed_when_asked_for(pm, plugin_of):
    """With ``sample=1`` the histogram holds every call, failed ones too."""
    pm.register(plugin_of(a=lambda x: boom(x) if x % 2 else x), "one")
    pm.telemetry.start(sample=1)
    calls_of(50, lambda number: pm.hook.a(x=number), Boom)
    calls = pm.telemetry.read().hooks["a"]
    assert calls.total.timed == calls.plugins["one"].timed == 50
    assert sum(calls.total.buckets.values()) == 50


def test_the_first_calls_are_timed_then_fewer(pm, plugin_of):
    """A hook that is called seldom has percentiles, too; one that is called often is timed once in ``sample`` calls."""
    pm.register(plugin_of(a=lambda x: x), "one")
    pm.telemetry.start(sample=10)
    calls_of(10, lambda number: pm.hook.a(x=number))
    assert pm.telemetry.read().hooks["a"].total.timed == 10
    calls_of(990, lambda number: pm.hook.a(x=number))
    before = pm.telemetry.read().hooks["a"].total.timed
    calls_of(1000, lambda number: pm.hook.a(x=number))
    assert pm.telemetry.read().hooks["a"].total.timed - before == 100


def test_a_call_that_leaves_the_thread_is_always_timed(pm):
    """What that costs is nothing beside the way to another thread or process."""

    class Remote:
        __elsewhere__ = True

        @hookimpl
        def a(self, x):
            return x

    pm.register(Remote(), "remote")
    pm.telemetry.start()
    calls_of(2000, lambda number: pm.hook.a(x=number))
    assert pm.telemetry.read().hooks["a"].plugins["remote"].timed == 2000


class _Clock:
    """A clock that stands still unless a plugin moves it."""

    def __init__(self):
        self.now = 5_000

    def __call__(self):
        return self.now

    def pass_microseconds(self, number):
        self.now += 1000 * number


@pytest.fixture
def clock(monkeypatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(time, "perf_counter_ns", clock)
    return clock


def _longest(pm, hook):
    """Return the microseconds of the longest call, of the hook and of each plugin."""
    calls = pm.telemetry.read().hooks[hook]
    return {name: round(stats.max * 1e6, 3) for name, stats in {"": calls.total, **calls.plugins}.items()}


def test_each_plugin_is_charged_with_its_own_time(pm, plugin_of, clock, sample):
    """Of a call of 111 µs each plugin gets its part."""
    for name, microseconds in (("last", 100), ("middle", 10), ("first", 1)):
        pm.register(plugin_of(a=lambda x, own=microseconds: clock.pass_microseconds(own)), name)
    pm.telemetry.start(sample=sample)
    pm.hook.a(x=1)
    assert _longest(pm, "a") == {"": 111, "first": 1, "middle": 10, "last": 100}


@pytest.mark.parametrize("fails", ["", "inside", "on the way back", "twice"])
def test_a_wrapper_is_not_charged_with_what_it_wraps(pm, plugin_of, clock, sample, fails):
    """Its time is that before the ``yield`` and after it, also on the way back through an error."""

    @hookimpl(wrapper=True)
    def outer(x):
        clock.pass_microseconds(1)
        try:
            return (yield)
        finally:
            clock.pass_microseconds(2)

    @hookimpl(wrapper=True)
    def inner(x):
        clock.pass_microseconds(10)
        try:
            yield
        finally:
            clock.pass_microseconds(20)
            if fails in {"on the way back", "twice"}:
                raise Boom(fails)

    def plain(x):
        clock.pass_microseconds(100)
        if fails in {"inside", "twice"}:
            raise Boom(fails)

    pm.register(plugin_of(a=plain), "plain")
    pm.register(plugin_of(a=inner), "inner")
    pm.register(plugin_of(a=outer), "outer")
    pm.telemetry.start(sample=sample)
    calls_of(1, lambda _number: pm.hook.a(x=1), Boom)
    assert _longest(pm, "a") == {"": 133, "outer": 3, "inner": 30, "plain": 100}


def test_a_failed_call_is_timed(pm, plugin_of, clock, sample):
    """The time up to the failure counts, for the hook and for the plugin that failed."""

    def failing(x):
        clock.pass_microseconds(7)
        raise Boom

    pm.register(plugin_of(a=lambda x: x), "never reached")
    pm.register(plugin_of(a=failing), "failing")
    pm.register(plugin_of(a=lambda x: clock.pass_microseconds(1)), "first")
    pm.telemetry.start(sample=sample)
    calls_of(1, lambda _number: pm.hook.a(x=1), Boom)
    calls = pm.telemetry.read().hooks["a"]
    assert calls.total.max == pytest.approx(8e-6)
    assert calls.plugins["failing"].max == pytest.approx(7e-6)
    never = calls.plugins["never reached"]
    assert (never.timed, never.max, never.p50, never.mean) == (0, None, None, None)


def test_percentiles_come_from_the_calls(pm, plugin_of, clock):
    """Of 100 calls of 1 to 100 µs the percentiles are within 6.25 %."""
    pm.register(plugin_of(a=lambda x: clock.pass_microseconds(x)), "one")
    pm.telemetry.start(sample=1)
    for number in range(1, 101):
        pm.hook.a(x=number)
    stats = pm.telemetry.read().plugin("one").total
    assert stats.p50 == pytest.approx(50e-6, rel=0.0625)
    assert stats.p95 == pytest.approx(95e-6, rel=0.0625)
    assert stats.p99 == pytest.approx(99e-6, rel=0.0625)
    assert stats.mean == pytest.approx(50.5e-6, rel=0.0625)
    assert stats.max == pytest.approx(100e-6)


@pytest.mark.parametrize("way", ["call_extra", "old-style wrapper"])
def test_calls_that_pluggy_runs_are_timed_as_a_whole(pm, plugin_of, clock, way):
    """The hook's histogram has them, no plugin's has."""
    pm.register(plugin_of(a=lambda x: clock.pass_microseconds(9)), "one")
    if way == "old-style wrapper":
        pm.register(plugin_of(a=hookimpl(hookwrapper=True)(old_wrapper)), "old")
    pm.telemetry.start()
    ASIDE[way](pm)
    calls = pm.telemetry.read().hooks["a"]
    assert calls.total.max == pytest.approx(9e-6)
    assert all(stats.timed == 0 for stats in calls.plugins.values())
