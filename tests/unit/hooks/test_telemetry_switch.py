"""Telemetry on and off, plugins replaced under it, and many threads that call meanwhile."""

from __future__ import annotations

import gc
import sys
import threading

import pluggy
import pytest

from blackhole_core.hooks import turns
from blackhole_core.hooks.gate import HookGate
from blackhole_core.hooks.manager import HookManager
from tests.unit.hooks.counting import Boom, boom, calls_of, counts

hookimpl = pluggy.HookimplMarker("t")


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
    assert counts(pm, "a") == {"": (1, 0), "one": (1, 0)}
    pm.telemetry.start(sample=1)
    pm.hook.a(x=1)
    assert counts(pm, "a") == {"": (2, 0), "one": (2, 0)}


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
    assert counts(pm, "a") == {"": (3, 0), "one": (3, 0)}


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
    assert counts(pm, "a") == {"": (400, 0), "steady": (400, 0), "passing": (200, 0)}
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
    pm.register(plugin_of(a=lambda x: boom(x) if x % 5 == 0 else x, first=lambda x: x if x % 3 else None), "sometimes")
    pm.register(plugin_of(b=lambda x: boom(x) if x % 5 == 0 else x), "inner")
    pm.register(plugin_of(b=around), "around")
    pm.telemetry.start(sample=sample)
    threads, each = 6, 600

    def call() -> None:
        calls_of(each, lambda number: pm.hook.a(x=number), Boom)
        calls_of(each, lambda number: pm.hook.first(x=number), Boom)
        calls_of(each, lambda number: pm.hook.b(x=number), Boom)

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
    assert counts(pm, "a") == {"": (total, failed), "last": (total - failed, 0), "sometimes": (total, failed)}
    assert counts(pm, "first") == {"": (total, 0), "last": (total // 3, 0), "sometimes": (total, 0)}
    assert counts(pm, "b") == {"": (total, failed), "around": (total, 0), "inner": (total, failed)}


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
    stood = counts(pm, "a")
    assert not wrong
    assert stood["one"] == stood[""]
    assert stood[""][0] >= 50
    pm.hook.a(x=1)
    assert counts(pm, "a") == stood


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
    assert counts(pm, "a") == {"": (1000, 0), "one": (1000, 0)}


def test_telemetry_does_not_slow_the_way_to_the_hook(pm):
    """CPython 3.11 keeps an object's attributes in its fast layout only while nobody looks at its ``__dict__``, cached_property included."""
    assert isinstance(type(pm).telemetry, property)
    assert isinstance(type(pm).ahook, property)
    assert sys.getsizeof(pm) == sys.getsizeof(HookManager("other"))
