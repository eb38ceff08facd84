"""Telemetry of hook calls: what is counted, that nothing is lost, and that it costs nothing when it is off."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time

import pluggy
import pytest

from blackhole_core.hooks import turns
from blackhole_core.hooks.gate import HookGate
from blackhole_core.hooks.manager import HookManager
from blackhole_core.hooks.telemetry import DEFAULT_SAMPLE

hookspec = pluggy.HookspecMarker("t")
hookimpl = pluggy.HookimplMarker("t")


class _Boom(Exception):
    """What plugins of these tests raise."""


def _boom(x):
    raise _Boom(x)


@pytest.fixture(params=[1, 3, DEFAULT_SAMPLE], ids=["each", "one in 3", "sampled"])
def sample(request: pytest.FixtureRequest) -> int:
    return request.param


def _counts(pm: HookManager, hook: str) -> dict[str, tuple[int, int]]:
    """Return (calls, errors) of the hook and of each plugin in it."""
    calls = pm.telemetry.read().hooks[hook]
    return {
        "": (calls.total.count, calls.total.errors),
        **{name: (stats.count, stats.errors) for name, stats in calls.plugins.items()},
    }


def _calls(times: int, call, *expected: type[BaseException]) -> None:
    for number in range(times):
        try:
            call(number)
        except expected:
            continue


# --- what is counted -------------------------------------------------------------------------------------------------


def test_every_call_is_counted_for_the_hook_and_each_plugin(pm, plugin_of, sample):
    """300 calls of a hook with two plugins are 300 of the hook and 300 of each."""
    pm.register(plugin_of(a=lambda x: x), "one")
    pm.register(plugin_of(a=lambda x: None), "two")
    pm.telemetry.start(sample=sample)
    _calls(300, lambda number: pm.hook.a(x=number))
    assert _counts(pm, "a") == {"": (300, 0), "one": (300, 0), "two": (300, 0)}


def test_what_a_failure_keeps_from_running_is_not_counted(pm, plugin_of, sample):
    """Of 30 calls, 10 fail in the middle one of three plugins: the last one is reached by 20."""
    pm.register(plugin_of(a=lambda x: x), "last")
    pm.register(plugin_of(a=lambda x: _boom(x) if x % 3 == 0 else x), "middle")
    pm.register(plugin_of(a=lambda x: x), "first")
    pm.telemetry.start(sample=sample)
    _calls(30, lambda number: pm.hook.a(x=number), _Boom)
    assert _counts(pm, "a") == {"": (30, 10), "first": (30, 0), "middle": (30, 10), "last": (20, 0)}


def test_firstresult_counts_who_was_asked(pm, plugin_of, sample):
    """Whoever stands behind the one that answers, or fails, was not asked."""
    pm.register(plugin_of(first=lambda x: None), "never answers")
    pm.register(plugin_of(first=lambda x: _boom(x) if x == 2 else None), "fails at 2")
    pm.register(plugin_of(first=lambda x: x if x == 1 else None), "answers 1")
    pm.register(plugin_of(first=lambda x: x if x == 0 else None), "answers 0")
    pm.telemetry.start(sample=sample)
    _calls(40, lambda number: pm.hook.first(x=number % 4), _Boom)
    assert _counts(pm, "first") == {
        "": (40, 10),
        "answers 0": (40, 0),
        "answers 1": (30, 0),
        "fails at 2": (20, 10),
        "never answers": (10, 0),
    }


def test_a_wrapper_that_saves_a_call_leaves_the_error_with_its_plugin(pm, plugin_of, sample):
    """The plugin failed, the wrapper did not, and the call did not."""

    @hookimpl(wrapper=True)
    def saving(x):
        try:
            return (yield)
        except _Boom:
            return "saved"

    pm.register(plugin_of(a=_boom), "fails")
    pm.register(plugin_of(a=saving), "saves")
    pm.telemetry.start(sample=sample)
    for _ in range(9):
        assert pm.hook.a(x=1) == "saved"
    assert _counts(pm, "a") == {"": (9, 0), "fails": (9, 9), "saves": (9, 0)}


@pytest.mark.parametrize("when", ["before", "after", "instead of another", "yields twice"])
def test_an_error_of_a_wrapper_is_its_own(pm, plugin_of, sample, when):
    """Wherever a wrapper fails, the one around it only passes that on; what it kept from running is not counted."""

    @hookimpl(wrapper=True, tryfirst=True)
    def passing(x):
        return (yield)

    @hookimpl(wrapper=True)
    def failing(x):
        if when == "before":
            raise _Boom(when)
        try:
            yield
        except ValueError as error:
            raise _Boom(when) from error
        if when == "after":
            raise _Boom(when)
        yield

    def plain(x):
        if when == "instead of another":
            raise ValueError

    pm.register(plugin_of(a=plain), "plain")
    pm.register(plugin_of(a=failing), "failing")
    pm.register(plugin_of(a=passing), "passing")
    pm.telemetry.start(sample=sample)
    _calls(8, lambda number: pm.hook.a(x=number), _Boom, RuntimeError)
    reached = 0 if when == "before" else 8
    assert _counts(pm, "a") == {
        "": (8, 8),
        "passing": (8, 0),
        "failing": (8, 8),
        "plain": (reached, 8 if when == "instead of another" else 0),
    }


def test_firstresult_inside_wrappers_counts_who_was_asked(pm, plugin_of, sample):
    """The same with a wrapper around: the one behind the answer was not asked."""

    @hookimpl(wrapper=True)
    def around(x):
        return (yield)

    pm.register(plugin_of(first=lambda x: x), "second")
    pm.register(plugin_of(first=lambda x: x or None), "first")
    pm.register(plugin_of(first=around), "wrapper")
    pm.telemetry.start(sample=sample)
    _calls(10, lambda number: pm.hook.first(x=number % 2))
    assert _counts(pm, "first") == {"": (10, 0), "wrapper": (10, 0), "first": (10, 0), "second": (5, 0)}


def test_implementations_of_one_plugin_count_together(pm, sample):
    """A plugin that answers a hook twice is reached twice by each call."""

    class Twice:
        @hookimpl
        def a(self, x):
            return x

        @hookimpl(specname="a")
        def again(self, x):
            return x

    pm.register(Twice(), "twice")
    pm.telemetry.start(sample=sample)
    _calls(5, lambda number: pm.hook.a(x=number))
    assert _counts(pm, "a") == {"": (5, 0), "twice": (10, 0)}


def test_a_hook_without_implementations_is_counted(pm, sample):
    """Who asks whether anybody listens wants to know how often he asked."""
    pm.telemetry.start(sample=sample)
    _calls(5, lambda number: pm.hook.a(x=number))
    assert _counts(pm, "a") == {"": (5, 0)}
    assert pm.telemetry.read().hooks["a"].unattributed == 0


def test_calls_inside_of_calls_are_counted(pm, plugin_of, sample):
    """A plugin that calls its own hook again: both calls count, and the failure of the inner one is a failure of both."""
    pm.register(plugin_of(a=lambda x: pm.hook.a(x=x - 1) if x else _boom(x)), "deep")
    pm.telemetry.start(sample=sample)
    with pytest.raises(_Boom):
        pm.hook.a(x=4)
    assert _counts(pm, "a") == {"": (5, 5), "deep": (5, 5)}


def test_awaited_calls_are_counted(pm, plugin_of, sample):
    """``ahook`` runs the same bodies."""
    pm.register(plugin_of(a=lambda x: x), "one")
    pm.telemetry.start(sample=sample)
    assert asyncio.run(_awaited(pm)) == [1]
    assert _counts(pm, "a") == {"": (1, 0), "one": (1, 0)}


async def _awaited(pm):
    return await pm.ahook.a(x=1)


# --- what pluggy runs ------------------------------------------------------------------------------------------------


def _old_wrapper(x):
    yield


_ASIDE = {
    "call_extra": lambda pm: pm.hook.a.call_extra([lambda x: x], {"x": 1}),
    "subset": lambda pm: pm.subset_hook_caller("a", [pm.get_plugin("other")])(x=1),
    "missing argument": lambda pm: pm.hook.a(),
    "historic": lambda pm: pm.hook.told.call_historic(kwargs={"x": 1}),
    "monitored": lambda pm: pm.hook.a(x=1),
    "old-style wrapper": lambda pm: pm.hook.a(x=1),
}


@pytest.mark.filterwarnings("ignore:Argument")
@pytest.mark.parametrize("way", _ASIDE)
def test_calls_that_pluggy_runs_are_counted_for_the_hook(pm, plugin_of, sample, way):
    """They count as calls and failures; what plugins did in them is said to be unknown."""
    pm.register(plugin_of(a=lambda x: x, told=lambda x: x), "one")
    pm.register(plugin_of(a=lambda x: x), "other")
    if way == "old-style wrapper":
        pm.register(plugin_of(a=hookimpl(hookwrapper=True)(_old_wrapper)), "old")
    if way == "monitored":
        pm.add_hookcall_monitoring(lambda *_: None, lambda *_: None)
    pm.telemetry.start(sample=sample)
    expected = pluggy.HookCallError if way == "missing argument" else ()
    _calls(6, lambda _number: _ASIDE[way](pm), *([expected] if expected else []))
    calls = pm.telemetry.read().hooks["told" if way == "historic" else "a"]
    assert (calls.total.count, calls.total.errors, calls.unattributed) == (6, 6 if expected else 0, 6)
    assert all(stats.count == 0 for stats in calls.plugins.values())


def test_a_failure_on_pluggys_path_is_counted(pm, plugin_of):
    """``call_extra`` that raises is an error of the hook."""
    pm.telemetry.start()
    with pytest.raises(_Boom):
        pm.hook.a.call_extra([_boom], {"x": 1})
    assert _counts(pm, "a") == {"": (1, 1)}


def test_a_refused_call_is_none(pm):
    """Positional arguments reach no hook."""
    pm.telemetry.start()
    pm.hook.a(x=1)
    with pytest.raises(TypeError):
        pm.hook.a(1)
    assert _counts(pm, "a") == {"": (1, 0)}


# --- times -----------------------------------------------------------------------------------------------------------


def test_each_call_is_timed_when_asked_for(pm, plugin_of):
    """With ``sample=1`` the histogram holds every call, failed ones too."""
    pm.register(plugin_of(a=lambda x: _boom(x) if x % 2 else x), "one")
    pm.telemetry.start(sample=1)
    _calls(50, lambda number: pm.hook.a(x=number), _Boom)
    calls = pm.telemetry.read().hooks["a"]
    assert calls.total.timed == calls.plugins["one"].timed == 50
    assert sum(calls.total.buckets.values()) == 50


def test_the_first_calls_are_timed_then_fewer(pm, plugin_of):
    """A hook that is called seldom has percentiles, too; one that is called often is timed once in ``sample`` calls."""
    pm.register(plugin_of(a=lambda x: x), "one")
    pm.telemetry.start(sample=10)
    _calls(10, lambda number: pm.hook.a(x=number))
    assert pm.telemetry.read().hooks["a"].total.timed == 10
    _calls(990, lambda number: pm.hook.a(x=number))
    before = pm.telemetry.read().hooks["a"].total.timed
    _calls(1000, lambda number: pm.hook.a(x=number))
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
    _calls(2000, lambda number: pm.hook.a(x=number))
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
                raise _Boom(fails)

    def plain(x):
        clock.pass_microseconds(100)
        if fails in {"inside", "twice"}:
            raise _Boom(fails)

    pm.register(plugin_of(a=plain), "plain")
    pm.register(plugin_of(a=inner), "inner")
    pm.register(plugin_of(a=outer), "outer")
    pm.telemetry.start(sample=sample)
    _calls(1, lambda _number: pm.hook.a(x=1), _Boom)
    assert _longest(pm, "a") == {"": 133, "outer": 3, "inner": 30, "plain": 100}


def test_a_failed_call_is_timed(pm, plugin_of, clock, sample):
    """The time up to the failure counts, for the hook and for the plugin that failed."""

    def failing(x):
        clock.pass_microseconds(7)
        raise _Boom

    pm.register(plugin_of(a=lambda x: x), "never reached")
    pm.register(plugin_of(a=failing), "failing")
    pm.register(plugin_of(a=lambda x: clock.pass_microseconds(1)), "first")
    pm.telemetry.start(sample=sample)
    _calls(1, lambda _number: pm.hook.a(x=1), _Boom)
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
        pm.register(plugin_of(a=hookimpl(hookwrapper=True)(_old_wrapper)), "old")
    pm.telemetry.start()
    _ASIDE[way](pm)
    calls = pm.telemetry.read().hooks["a"]
    assert calls.total.max == pytest.approx(9e-6)
    assert all(stats.timed == 0 for stats in calls.plugins.values())


# --- on and off ------------------------------------------------------------------------------------------------------


def _code(pm, hook):
    pm_hook = getattr(pm.hook, hook)
    code = pm_hook.__code__
    return code.co_code, code.co_consts, [name.rpartition(".")[0] or name for name in code.co_names]


def test_off_is_the_very_same_code(pm, plugin_of):
    """Before it was ever on and after it was turned off, the body has the same instructions; while it is on, others."""
    pm.register(plugin_of(a=lambda x: x, first=lambda x: x), "one")
    pm.hook.a(x=1)
    never = _code(pm, "a")
    pm.telemetry.start()
    pm.hook.a(x=1)
    assert _code(pm, "a") != never
    pm.telemetry.stop()
    pm.hook.a(x=1)
    assert _code(pm, "a") == never


def test_off_counts_nothing_and_keeps_what_was_counted(pm, plugin_of):
    """The numbers stand still while it is off, and go on from there."""
    pm.register(plugin_of(a=lambda x: x), "one")
    pm.hook.a(x=1)
    assert pm.telemetry.sample is None
    assert pm.telemetry.read().hooks == {}
    pm.telemetry.start(sample=2)
    assert pm.telemetry.sample == 2
    pm.hook.a(x=1)
    pm.telemetry.stop()
    for call in (pm.hook.a, lambda x: pm.hook.a.call_extra([], {"x": x})):
        call(x=1)
    assert _counts(pm, "a") == {"": (1, 0), "one": (1, 0)}
    pm.telemetry.start(sample=1)
    pm.hook.a(x=1)
    assert _counts(pm, "a") == {"": (2, 0), "one": (2, 0)}


def test_a_sample_below_one_is_refused(pm):
    """The sentence says what to do to turn it off."""
    with pytest.raises(ValueError, match=r"1 or more, got 0; stop\(\) turns telemetry off"):
        pm.telemetry.start(sample=0)


def test_a_replaced_plugin_goes_on_counting(pm, plugin_of):
    """S-01: the numbers belong to the plugin, not to its version."""
    pm.register(plugin_of(a=lambda x: x), "one")
    pm.telemetry.start()
    pm.hook.a(x=1)
    undo = pm.replace("one", plugin_of(a=lambda x: -x))
    pm.hook.a(x=1)
    undo()
    pm.hook.a(x=1)
    assert _counts(pm, "a") == {"": (3, 0), "one": (3, 0)}


def test_calls_through_a_gate_are_counted_once(pm, plugin_of):
    """S-22: one waits until the gate opens, one passes because it is made inside a call that the gate waits for."""
    inside, go_on = threading.Event(), threading.Event()

    def outer(x):
        inside.set()
        assert go_on.wait(10)
        return pm.hook.b(x=x)

    pm.register(plugin_of(a=outer, b=lambda x: x), "one")
    pm.telemetry.start()
    gate = HookGate(pm, ["a", "b"])
    running = threading.Thread(target=pm.hook.a, kwargs={"x": 1})
    running.start()
    assert inside.wait(10)
    gate.close()
    waiting = threading.Thread(target=pm.hook.b, kwargs={"x": 2})
    waiting.start()
    go_on.set()
    assert gate.drained(10)
    gate.open()
    running.join()
    waiting.join()
    calls = pm.telemetry.read().hooks["b"]
    assert (calls.total.count, calls.unattributed, calls.plugins["one"].count) == (2, 1, 1)


def test_numbers_of_replaced_bodies_are_kept_and_the_bodies_are_not(pm, plugin_of):
    """After 200 changes every call is still counted, and nothing has piled up."""
    steady = plugin_of(a=lambda x: x)
    pm.register(steady, "steady")
    pm.telemetry.start()
    passing = plugin_of(a=lambda x: x)
    for _ in range(200):
        pm.register(passing, "passing")
        pm.hook.a(x=1)
        pm.unregister(passing)
        pm.hook.a(x=1)
    assert _counts(pm, "a") == {"": (400, 0), "steady": (400, 0), "passing": (200, 0)}
    assert len(pm.caller("a").meter._tallies) <= 2


def test_plugins_that_left_long_ago_are_forgotten(pm, plugin_of):
    """A host that registers under a new name each time does not fill its memory; the hook's own number stays."""
    pm.telemetry.start()
    for number in range(300):
        plugin = plugin_of(a=lambda x: x)
        pm.register(plugin, f"p{number}")
        pm.hook.a(x=1)
        pm.unregister(plugin)
        pm.hook.a(x=1)
    calls = pm.telemetry.read().hooks["a"]
    assert calls.total.count == 600
    assert len(calls.plugins) < 80
    assert "p299" in calls.plugins
    assert "p0" not in calls.plugins


def test_an_interrupt_while_a_call_is_being_counted_stays_an_interrupt(pm, plugin_of, monkeypatch, sample):
    """Ctrl-C may come inside of the counting: who made the call sees it, and no error of ours."""

    def interrupted(self):
        raise KeyboardInterrupt

    for kind in (turns.EveryTurn, turns.LockedTurns, turns.SkippingTurns):
        monkeypatch.setattr(kind, "turn", interrupted)
    pm.register(plugin_of(a=lambda x: x), "one")
    pm.telemetry.start(sample=sample)
    with pytest.raises(KeyboardInterrupt) as seen:
        pm.hook.a(x=1)
    assert seen.value.__context__ is None


# --- under attack ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("switching")
def test_no_call_of_many_threads_is_lost(pm, plugin_of, sample):
    """6 threads, 600 calls each, while the hook is compiled anew and telemetry read all the time: every number is exact."""

    @hookimpl(wrapper=True)
    def around(x):
        return (yield)

    pm.register(plugin_of(a=lambda x: x, first=lambda x: x), "last")
    pm.register(plugin_of(a=lambda x: _boom(x) if x % 5 == 0 else x, first=lambda x: x if x % 3 else None), "sometimes")
    pm.register(plugin_of(b=lambda x: _boom(x) if x % 5 == 0 else x), "inner")
    pm.register(plugin_of(b=around), "around")
    pm.telemetry.start(sample=sample)
    threads, each = 6, 600

    def call() -> None:
        _calls(each, lambda number: pm.hook.a(x=number), _Boom)
        _calls(each, lambda number: pm.hook.first(x=number), _Boom)
        _calls(each, lambda number: pm.hook.b(x=number), _Boom)

    callers = [threading.Thread(target=call) for _ in range(threads)]
    for caller in callers:
        caller.start()
    samples = (sample, sample + 1)
    before: dict[str, int] = {}
    for number in range(25):
        pm.telemetry.start(sample=samples[number % 2])
        now = {hook: calls.total.count for hook, calls in pm.telemetry.read().hooks.items()}
        assert all(now[hook] >= count for hook, count in before.items())
        before = now
    for caller in callers:
        caller.join()
    total, failed = threads * each, threads * each // 5
    assert _counts(pm, "a") == {"": (total, failed), "last": (total - failed, 0), "sometimes": (total, failed)}
    assert _counts(pm, "first") == {"": (total, 0), "last": (total // 3, 0), "sometimes": (total, 0)}
    assert _counts(pm, "b") == {"": (total, failed), "around": (total, 0), "inner": (total, failed)}


@pytest.mark.usefixtures("switching")
def test_it_can_be_turned_on_and_off_while_calls_flow(pm, plugin_of):
    """No call fails; a call that begins while it is on is counted, one that begins while it is off is not."""
    pm.register(plugin_of(a=lambda x: x), "one")
    wrong: list[object] = []
    ended = threading.Event()

    def call() -> None:
        while not ended.is_set():
            answer = pm.hook.a(x=1)
            if answer != [1]:
                wrong.append(answer)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        for number in range(50):
            pm.telemetry.start(sample=1 + number % 3)
            own = pm.hook.a(x=1)
            pm.telemetry.stop()
            assert own == [1]
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    stood = _counts(pm, "a")
    assert not wrong
    assert stood["one"] == stood[""]
    assert stood[""][0] >= 50
    pm.hook.a(x=1)
    assert _counts(pm, "a") == stood


def test_a_finaliser_that_calls_the_hook_inside_of_counting_loses_nothing(pm, plugin_of):
    """A garbage collection may run plugin code at any allocation, also between the steps of counting."""
    pm.register(plugin_of(a=lambda x: x), "one")
    pm.telemetry.start(sample=2)
    made = []

    class Finalised:
        def __init__(self):
            self.itself = self

        def __del__(self):
            made.append(pm.hook.a(x=1))

    threshold = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(500):
            Finalised()
            pm.hook.a(x=1)
        gc.collect()
    finally:
        gc.set_threshold(*threshold)
    assert len(made) == 500
    assert _counts(pm, "a") == {"": (1000, 0), "one": (1000, 0)}


def test_telemetry_does_not_slow_the_way_to_the_hook(pm):
    """CPython 3.11 keeps an object's attributes in its fast layout only while nobody looks at its ``__dict__``, cached_property included."""
    assert isinstance(type(pm).telemetry, property)
    assert isinstance(type(pm).ahook, property)
    assert sys.getsizeof(pm) == sys.getsizeof(HookManager("other"))
