"""The gate: who waits, who passes, and when the calls that had begun are over."""

from __future__ import annotations

import contextvars
import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from blackhole_core import callcontext
from blackhole_core.errors import CallTimeout
from blackhole_core.hooks.caller import HookCaller
from blackhole_core.hooks.gate import HookGate
from blackhole_core.messages import Replies

#: Seconds after which a test that waits for something that must come gives up.
SOON = 20.0


class Blocking:
    """An implementation that tells when a call is inside and lets it out on command."""

    def __init__(self) -> None:
        self.inside = threading.Semaphore(0)
        self.leave = threading.Event()

    def __call__(self, x: object) -> object:
        self.inside.release()
        assert self.leave.wait(SOON)
        return x

    def impl(self):
        return lambda x: self(x)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def test_a_gate_over_idle_hooks_is_drained_at_once(pm, plugin_of):
    """Nobody is calling: nothing to wait for."""
    pm.register(plugin_of(a=lambda x: x))
    assert pm.hook.a(x=1) == [1]
    with HookGate(pm, ["a", "b"]) as gate:
        assert gate.drained(0)
        assert not gate.is_open
    assert gate.is_open
    assert pm.hook.a(x=1) == [1]


def test_a_call_that_began_is_waited_for(pm, plugin_of, threads):
    """``drained`` is False while the call runs and True as soon as it ended."""
    blocking = Blocking()
    pm.register(plugin_of(a=blocking.impl()))
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    with HookGate(pm, ["a"]) as gate:
        assert not gate.drained(0.02)
        drained = threads.submit(gate.drained, SOON)
        blocking.leave.set()
        assert drained.result()
        assert call.result() == [1]


def test_a_call_begun_before_an_earlier_change_is_waited_for(pm, plugin_of, threads):
    """A registration between the call's begin and the gate does not hide the call."""
    blocking = Blocking()
    pm.register(plugin_of(a=blocking.impl()))
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    pm.register(plugin_of(a=lambda x: 2))
    with HookGate(pm, ["a"]) as gate:
        assert not gate.drained(0.02)
        blocking.leave.set()
        assert gate.drained(SOON)
    assert call.result() == [1]


def test_other_hooks_are_not_held_back(pm, plugin_of):
    """Only the named hooks wait."""
    pm.register(plugin_of(a=lambda x: x, b=lambda x: x))
    with HookGate(pm, ["a"]):
        assert pm.hook.b(x=1) == [1]


@pytest.mark.parametrize(
    "call",
    [
        lambda pm: pm.hook.a(x=1),
        lambda pm: pm.hook.a.call_extra([], {"x": 1}),
        lambda pm: pm.subset_hook_caller("a", [pm.get_plugin("other")])(x=1),
        lambda pm: pm.subset_hook_caller("a", [pm.get_plugin("other")]).call_extra([], {"x": 1}),
    ],
    ids=["call", "call_extra", "subset", "subset-extra"],
)
def test_every_way_to_call_waits_and_is_waited_for(pm, plugin_of, threads, call):
    """Slow paths stand at the same gate and are counted like compiled calls."""
    blocking = Blocking()
    pm.register(plugin_of(a=blocking.impl()), name="blocking")
    pm.register(plugin_of(a=lambda x: None), name="other")
    running = threads.submit(call, pm)
    blocking.inside.acquire()
    with HookGate(pm, ["a"]) as gate:
        waiting = threads.submit(call, pm)
        assert not gate.drained(0.02)
        blocking.leave.set()
        assert gate.drained(SOON)
        assert running.result() == [1]
        assert not waiting.done()
        assert not blocking.inside.acquire(blocking=False)
    assert waiting.result() == [1]


def test_a_call_that_is_interrupted_as_it_begins_is_not_waited_for(pm, plugin_of, monkeypatch):
    """Ctrl-C between its ticket and its first implementation leaves no ticket behind."""

    def interrupted(caller):
        raise KeyboardInterrupt

    pm.register(plugin_of(a=lambda x: x))
    monkeypatch.setattr(HookCaller, "measured_aside", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pm.hook.a.call_extra([], {"x": 1})
    with HookGate(pm, ["a"]) as gate:
        assert gate.drained(0)


def test_historic_calls_wait_and_are_waited_for(pm, plugin_of, threads):
    """``call_historic`` too."""
    blocking = Blocking()
    pm.register(plugin_of(told=blocking.impl()))
    running = threads.submit(pm.hook.told.call_historic, kwargs={"x": 1})
    blocking.inside.acquire()
    with HookGate(pm, ["told"]) as gate:
        assert not gate.drained(0.02)
        blocking.leave.set()
        assert gate.drained(SOON)
        running.result()
        waiting = threads.submit(pm.hook.told.call_historic, kwargs={"x": 2})
        assert not blocking.inside.acquire(timeout=0.02)
    waiting.result()
    assert len(pm.hook.told._call_history) == 2


def test_monitored_calls_wait_and_are_waited_for(pm, plugin_of, threads):
    """Monitoring changes the way of a call, not the gate."""
    blocking = Blocking()
    pm.register(plugin_of(a=blocking.impl()))
    pm.add_hookcall_monitoring(lambda *_: None, lambda *_: None)
    running = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    with HookGate(pm, ["a"]) as gate:
        assert not gate.drained(0.02)
        blocking.leave.set()
        assert gate.drained(SOON)
    assert running.result() == [1]


def test_a_call_waits_no_longer_than_its_deadline(pm, plugin_of):
    """A waiting call ends with its deadline; the sentence says why and that it never ran."""
    ran = []
    pm.register(plugin_of(a=lambda x: ran.append(x)))
    gate = HookGate(pm, ["a"], plugin="upper@1.0.0")
    with gate, callcontext.deadline(0.01), pytest.raises(CallTimeout, match=r"'a' of plugin upper@1\.0\.0.*being swapped.*never began"):
        pm.hook.a(x=1)
    assert ran == []
    pm.hook.a(x=1)
    assert ran == [1]


def test_without_a_deadline_the_managers_timeout_counts(pm):
    """``gate_timeout`` bounds the wait of a call that has no deadline."""
    pm.gate_timeout = 0.01
    with HookGate(pm, ["a"]), pytest.raises(CallTimeout):
        pm.hook.a(x=1)


def test_opening_lets_all_waiters_go(pm, plugin_of, threads):
    """Twelve callers wait; one ``open`` serves them all."""
    pm.register(plugin_of(a=lambda x: x))
    gate = HookGate(pm, ["a"])
    gate.close()
    calls = [threads.submit(pm.hook.a, x=number) for number in range(12)]
    gate.open()
    gate.open()
    assert [call.result() for call in calls] == [[number] for number in range(12)]


def test_a_nested_call_passes_the_gate_that_waits_for_it(pm, plugin_of, threads):
    """Hook a calls hook b while both are gated: b runs on the old code, nothing deadlocks."""
    blocking = Blocking()

    def outer(x):
        blocking(x)
        return pm.hook.b(x=x)

    pm.register(plugin_of(a=outer, b=lambda x: "old"), name="p")
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    with HookGate(pm, ["a", "b"]) as gate:
        blocking.leave.set()
        assert call.result(SOON) == [["old"]]
        assert gate.drained(SOON)


@pytest.mark.parametrize("many", [False, True], ids=["call", "map"])
def test_a_nested_call_sees_what_others_became_meanwhile(pm, plugin_of, threads, many):
    """It runs the gate's own plugin as it was, in its place, and of another one that was replaced the version that serves: the old one may have ended."""
    blocking = Blocking()

    def outer(x):
        blocking(x)
        return pm.hook.b.map([{"x": x}]) if many else [pm.hook.b(x=x)]

    def later(x):
        return "old q"

    later.__call_many__ = lambda columns, count, stop: Replies(["old q"] * count, {})
    for name, plugin in {
        "p": plugin_of(b=lambda x: "old p"),
        "q": plugin_of(a=outer, b=later),
        "gone": plugin_of(b=lambda x: "gone"),
        "r": plugin_of(b=lambda x: "r"),
    }.items():
        pm.register(plugin, name=name)
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    with HookGate(pm, ["a", "b"], of="q") as gate, HookGate(pm, ["b"], part_of_other=lambda: True):
        pm.replace("q", plugin_of(b=lambda x: "new q"))
        pm.replace("p", plugin_of(b=lambda x: "new p"))
        pm.unregister(name="gone")
        pm.register(plugin_of(b=lambda x: "late"))
        blocking.leave.set()
        assert call.result(SOON) == [[["late", "r", "old q", "new p"]]]
        assert gate.drained(SOON)
    assert pm.hook.b(x=1) == ["late", "r", "new q", "new p"]


def test_a_nested_call_finds_its_plugin_where_it_was(pm, plugin_of, threads):
    """The new version may be elsewhere in the order, or nowhere."""
    blocking = Blocking()
    pm.register(plugin_of(a=lambda x: (blocking(x), pm.hook.b(x=x))[1], b=lambda x: "q"), name="q")
    pm.register(plugin_of(b=lambda x: "r"))
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    with HookGate(pm, ["a", "b"], of="q"):
        pm.unregister(name="q")
        blocking.leave.set()
        assert call.result(SOON) == [["r", "q"]]
    assert pm.hook.b(x=1) == ["r"]


def test_a_nested_call_in_a_thread_the_caller_waits_for_passes(pm, plugin_of, threads):
    """A plugin's own thread calls back while the calling thread is blocked in the gated hook."""
    blocking = Blocking()

    def outer(x):
        blocking(x)
        me = callcontext.ActiveCall(runner=None, thread=threading.get_ident(), mailbox=None, call_id=1)
        token = callcontext.chain.set((me,))
        try:
            return threads.submit(contextvars.copy_context().run, lambda: pm.hook.b(x=x)).result(SOON)
        finally:
            callcontext.chain.reset(token)

    pm.register(plugin_of(a=outer, b=lambda x: "old"))
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    with HookGate(pm, ["a", "b"]) as gate:
        blocking.leave.set()
        assert call.result(SOON) == [["old"]]
        assert gate.drained(SOON)


def test_a_call_that_passed_is_waited_for_itself(pm, plugin_of, threads):
    """The outer call ends before the nested one that it began in another thread: the gate waits for that one too."""
    outer, inner = Blocking(), Blocking()
    nested = []

    def begin(x):
        outer(x)
        me = callcontext.ActiveCall(runner=None, thread=threading.get_ident(), mailbox=None, call_id=1)
        context = contextvars.copy_context()
        context.run(callcontext.chain.set, (me,))
        nested.append(threads.submit(context.run, lambda: pm.hook.b(x=x)))
        inner.inside.acquire()

    pm.register(plugin_of(a=begin, b=inner.impl()))
    call = threads.submit(pm.hook.a, x=1)
    outer.inside.acquire()
    with HookGate(pm, ["a", "b"]) as gate:
        outer.leave.set()
        assert call.result(SOON) == []
        assert not gate.drained(0.05)
        inner.leave.set()
        assert gate.drained(SOON)
    assert nested[0].result() == [1]


def test_a_call_from_elsewhere_does_not_pass(pm, plugin_of, threads):
    """Only what is part of an awaited call passes, not every call while one is awaited."""
    blocking = Blocking()
    pm.register(plugin_of(a=blocking.impl(), b=lambda x: x))
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    with HookGate(pm, ["a", "b"]) as gate:
        other = threads.submit(pm.hook.b, x=1)
        with callcontext.deadline(0.01), pytest.raises(CallTimeout):
            pm.hook.b(x=2)
        blocking.leave.set()
        assert gate.drained(SOON)
        assert not other.done()
    assert (call.result(), other.result()) == ([1], [1])


def test_a_call_that_swaps_its_own_plugin_can_be_told(pm, plugin_of):
    """``waits_for_this_call`` is True inside a call that the gate waits for, and False elsewhere."""
    seen = []

    def swapping(x):
        with HookGate(pm, ["a"]) as gate:
            seen.append((gate.waits_for_this_call(), gate.drained(0.02)))

    pm.register(plugin_of(a=swapping))
    pm.hook.a(x=1)
    assert seen == [(True, False)]
    with HookGate(pm, ["a"]) as gate:
        assert not gate.waits_for_this_call()


@pytest.mark.parametrize("first", [0, 1])
def test_a_call_waits_for_all_gates_over_its_hook(pm, plugin_of, threads, first):
    """Two plugins are swapped at once: a call begins when the last gate opened, whichever that is."""
    pm.register(plugin_of(a=lambda x: x))
    gates = [HookGate(pm, ["a"]), HookGate(pm, ["a", "b"])]
    for gate in gates:
        gate.close()
        assert gate.drained(SOON)
    call = threads.submit(pm.hook.a, x=1)
    gates[first].open()
    with callcontext.deadline(0.01), pytest.raises(CallTimeout):
        pm.hook.a(x=2)
    assert not call.done()
    gates[1 - first].open()
    assert call.result(SOON) == [1]


def test_a_second_gate_waits_for_calls_that_the_first_one_found(pm, plugin_of, threads):
    """The call began before both gates: both wait for it."""
    blocking = Blocking()
    pm.register(plugin_of(a=blocking.impl()))
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    with HookGate(pm, ["a"]) as one, HookGate(pm, ["a"]) as two:
        assert not one.drained(0.02)
        assert not two.drained(0.02)
        blocking.leave.set()
        assert one.drained(SOON)
        assert two.drained(SOON)
    assert call.result() == [1]


def test_a_nested_call_waits_for_a_gate_that_does_not_wait_for_it(pm, plugin_of, threads):
    """b's plugin is being handed over: a call of b from inside a must not run on it, even though a's gate waits."""
    blocking = Blocking()
    pm.register(plugin_of(a=lambda x: (blocking(x), pm.hook.b(x=x))[1]))
    pm.register(plugin_of(b=lambda x: x))
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    gate_b = HookGate(pm, ["b"])
    gate_b.close()
    assert gate_b.drained(SOON)
    with HookGate(pm, ["a"]) as gate_a, HookGate(pm, ["b", "a"]):
        blocking.leave.set()
        assert not gate_a.drained(0.05)
        assert not call.done()
        gate_b.open()
        assert gate_a.drained(SOON)
    assert call.result() == [[1]]


def test_a_stored_traceback_does_not_block_a_drain(pm, plugin_of):
    """S-02: an exception kept by the host keeps the finished frame alive; the stacks show that nothing runs."""

    def fail(x):
        raise ValueError(x)

    pm.register(plugin_of(a=fail))
    with pytest.raises(ValueError, match="1") as kept:
        pm.hook.a(x=1)
    with HookGate(pm, ["a"]) as gate:
        assert gate.drained(SOON)
    assert kept.value.__traceback__ is not None


def test_a_traceback_kept_while_draining_does_not_block_either(pm, plugin_of, threads):
    """The call fails during the drain and its exception is kept: its end gives no signal, but is noticed."""
    blocking = Blocking()

    def fail(x):
        blocking(x)
        raise ValueError(x)

    pm.register(plugin_of(a=fail))
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    with HookGate(pm, ["a"]) as gate:
        assert not gate.drained(0.02)
        blocking.leave.set()
        assert gate.drained(SOON)
    assert isinstance(call.exception(), ValueError)


def test_the_end_of_a_call_is_signalled_not_polled(pm, plugin_of, threads, monkeypatch):
    """The drain ends through the finaliser: with the looks at the stacks set an hour apart it still comes at once."""
    monkeypatch.setattr("blackhole_core.hooks.gate._LOOK", 3600.0)
    blocking = Blocking()
    pm.register(plugin_of(a=blocking.impl()))
    call = threads.submit(pm.hook.a, x=1)
    blocking.inside.acquire()
    with HookGate(pm, ["a"]) as gate:
        drained = threads.submit(gate.drained, None)
        time.sleep(0.01)  # lets the drain go to sleep; the result is the same if it did not
        blocking.leave.set()
        assert drained.result(SOON)
    call.result()


def test_looking_at_the_stacks_keeps_nothing_alive(pm, plugin_of, threads):
    """Having been seen on a stack does not hide the end of a call, whichever thread looked, without any garbage collection."""
    blocking = Blocking()
    pm.register(plugin_of(a=blocking.impl()))
    gc.disable()
    try:
        call = threads.submit(pm.hook.a, x=1)
        blocking.inside.acquire()
        with HookGate(pm, ["a"]) as gate:
            assert not gate.drained(0.02)
            assert not threads.submit(gate.drained, 0.02).result()
            blocking.leave.set()
            assert call.result() == [1]
            assert gate.drained(0)
    finally:
        gc.enable()


def test_under_greenlets_only_the_end_of_the_code_counts(pm, plugin_of, monkeypatch):
    """A suspended greenlet is on no stack: a drain must not take its absence for its end."""
    monkeypatch.setitem(sys.modules, "greenlet", sys)

    def fail(x):
        raise ValueError(x)

    pm.register(plugin_of(a=fail))
    with pytest.raises(ValueError, match="1") as kept:
        pm.hook.a(x=1)
    if pm.evidence == "frames":
        with HookGate(pm, ["a"]) as gate:
            assert not gate.drained(0.05)
    del kept
    with HookGate(pm, ["a"]) as gate:
        assert gate.drained(SOON)


def test_a_change_behind_a_closed_gate_serves_when_it_opens(pm, plugin_of, threads):
    """Registering and monitoring while the gate is closed neither open it nor get lost."""
    pm.register(plugin_of(a=lambda x: "one"))
    with HookGate(pm, ["a"]):
        pm.register(plugin_of(a=lambda x: "two"))
        pm.add_hookcall_monitoring(lambda *_: None, lambda *_: None)()
        call = threads.submit(pm.hook.a, x=1)
        with callcontext.deadline(0.01), pytest.raises(CallTimeout):
            pm.hook.a(x=1)
    assert call.result() == ["two", "one"]


def test_a_gate_over_an_unknown_hook_is_no_error(pm):
    """Nobody can be calling a hook that does not exist."""
    with HookGate(pm, ["nobody"]) as gate:
        assert gate.drained(0)
    assert "open over nobody" in repr(gate)
