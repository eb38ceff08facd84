"""Replacing the plugin behind the hooks."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pluggy import HookimplMarker, HookspecMarker, PluginValidationError

from blackhole_core.errors import BlackholeError, UnknownPlugin
from blackhole_core.hooks.gate import HookGate
from blackhole_core.hooks.manager import HookManager
from blackhole_core.hooks.replace import Replacement, _commit

hookimpl = HookimplMarker("t")
hookspec = HookspecMarker("t")


def named(plugin_of, value, *hooks, **options):
    """A plugin whose ``hooks`` answer ``value``."""

    def make():
        return hookimpl(**options)(lambda x: value)

    return plugin_of(**{hook: make() for hook in hooks})


def picture(pm):
    """Everything that a replacement may change."""
    hooks = {name: [impl.function for impl in caller.get_hookimpls()] for name, caller in pm.hook.__dict__.items()}
    return hooks, pm.list_name_plugin(), list(pm._plugin_distinfo)


@pytest.fixture
def three(pm, plugin_of):
    for name in ("one", "two", "three"):
        pm.register(named(plugin_of, name, "a"), name=name)
    return pm


@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_the_place_in_the_order_is_kept(three, plugin_of, name):
    """The new implementation answers exactly where the old one did."""
    held = three.hook.a
    expected = ["new" if value == name else value for value in held(x=1)]
    new = named(plugin_of, "new", "a")
    three.replace(name, new)
    assert held(x=1) == expected
    assert three.get_plugin(name) is new
    assert three.get_name(new) == name
    assert [caller.name for caller in three.get_hookcallers(new)] == ["a"]


def test_a_changed_option_moves_it_to_where_pluggy_would_put_it(three, plugin_of):
    """``tryfirst`` in the new version takes effect."""
    three.replace("one", named(plugin_of, "new", "a", tryfirst=True))
    assert three.hook.a(x=1) == ["new", "three", "two"]
    three.replace("one", named(plugin_of, "last", "a", trylast=True))
    assert three.hook.a(x=1) == ["three", "two", "last"]


def test_an_implementation_may_become_a_wrapper(three, plugin_of):
    """A new version may wrap where the old one answered."""

    @hookimpl(wrapper=True)
    def wrap(x):
        return ["wrapped", *(yield)]

    undo = three.replace("two", plugin_of(a=wrap))
    assert three.hook.a(x=1) == ["wrapped", "three", "one"]
    undo()
    assert three.hook.a(x=1) == ["three", "two", "one"]


def test_hooks_appear_and_vanish_with_the_switch(pm, plugin_of):
    """A hook of the old version only is left, one of the new version only is joined."""
    pm.register(named(plugin_of, "old", "a", "gone"), name="p")
    before = picture(pm)
    undo = pm.replace("p", named(plugin_of, "new", "a", "b", "fresh"))
    assert (pm.hook.a(x=1), pm.hook.b(x=1), pm.hook.gone(x=1), pm.hook.fresh(x=1)) == (["new"], ["new"], [], ["new"])
    undo()
    assert picture(pm) == before
    assert not hasattr(pm.hook, "fresh")
    undo()  # idempotent
    assert picture(pm) == before


def test_several_implementations_of_one_hook_are_paired(pm):
    """A plugin may implement a hook twice through ``specname``; each keeps its place."""

    def version(tag):
        class Plugin:
            @hookimpl
            def a(self, x):
                return tag + "-a"

            @hookimpl(specname="a")
            def extra(self, x):
                return tag + "-extra"

        return Plugin()

    pm.register(version("v1"), name="p")
    between = type("Between", (), {"a": hookimpl(lambda self, x: "between")})()
    pm.register(between)
    assert pm.hook.a(x=1) == ["between", "v1-extra", "v1-a"]
    pm.replace("p", version("v2"))
    assert pm.hook.a(x=1) == ["between", "v2-extra", "v2-a"]


def test_a_mismatch_is_refused_before_anything_changes(pm, plugin_of):
    """S-04: a new version whose second hook does not fit the spec leaves the first hook alone too."""
    pm.register(named(plugin_of, "old", "a", "b"), name="p")
    before = picture(pm)
    with pytest.raises(PluginValidationError, match="wrong"):
        pm.replace("p", plugin_of(a=lambda x: "new", b=lambda wrong: "new"))
    assert picture(pm) == before
    assert pm.hook.a(x=1) == ["old"]


def test_an_unknown_name_is_refused(pm, plugin_of):
    """There must be something to replace; a blocked name is nothing."""
    pm.register(named(plugin_of, "old", "a"), name="p")
    pm.set_blocked("q")
    for name in ("nobody", "q"):
        with pytest.raises(UnknownPlugin, match="known: p"):
            pm.replace(name, named(plugin_of, "new", "a"))


def test_a_plugin_registered_elsewhere_is_refused(pm, plugin_of):
    """One object cannot stand under two names."""
    taken = named(plugin_of, "taken", "a")
    pm.register(taken, name="q")
    pm.register(named(plugin_of, "old", "a"), name="p")
    with pytest.raises(ValueError, match="registered already, as 'q'"):
        pm.replace("p", taken)


def test_undo_keeps_what_others_did_since(three, plugin_of):
    """A plugin registered after the replacement stays, the old one is back in its place."""
    undo = three.replace("two", named(plugin_of, "new", "a"))
    three.register(named(plugin_of, "four", "a"), name="four")
    three.unregister(name="one")
    undo()
    assert three.hook.a(x=1) == ["four", "three", "two"]


def test_undo_after_another_replacement_is_refused(three, plugin_of):
    """An undo that would take away a third version says so."""
    undo = three.replace("two", named(plugin_of, "new", "a"))
    again = three.replace("two", named(plugin_of, "newer", "a"))
    with pytest.raises(BlackholeError, match="'two' cannot be undone"):
        undo()
    again()
    undo()
    assert three.hook.a(x=1) == ["three", "two", "one"]


def test_the_distribution_follows(pm, plugin_of):
    """``list_plugin_distributions`` names the plugin that serves now, and the old one after an undo."""
    old, new = named(plugin_of, "old", "a"), named(plugin_of, "new", "a")
    pluggys, attrss = importlib.metadata.distribution("pluggy"), importlib.metadata.distribution("attrs")
    pm.register(old, name="p")
    pm._plugin_distinfo.append((old, pluggys))
    undo = pm.replace("p", new)
    assert pm.list_plugin_distributions() == [(new, pluggys)]
    undo()
    undo = pm.replace("p", new, distribution=attrss)
    assert pm.list_plugin_distributions() == [(new, attrss)]
    undo()
    assert pm.list_plugin_distributions() == [(old, pluggys)]


def test_history_is_replayed_only_when_asked(pm, plugin_of):
    """A swap does not tell the new version what the old one was told, unless the host wants it."""
    got = []
    pm.register(plugin_of(told=lambda x: got.append(("old", x))), name="p")
    pm.hook.told.call_historic(kwargs={"x": 1})
    pm.replace("p", plugin_of(told=lambda x: got.append(("new", x))))
    pm.replace("p", plugin_of(told=lambda x: got.append(("newer", x))), replay_history=True)
    pm.hook.told.call_historic(kwargs={"x": 2})
    assert got == [("old", 1), ("newer", 1), ("newer", 2)]


def test_a_replay_that_fails_changes_nothing(pm, plugin_of):
    """The history is replayed before the switch."""
    pm.register(plugin_of(told=lambda x: None, a=lambda x: "old"), name="p")
    pm.hook.told.call_historic(kwargs={"x": 1})
    before = picture(pm)

    def fail(x):
        raise ValueError(x)

    with pytest.raises(ValueError, match="1"):
        pm.replace("p", plugin_of(told=fail, a=lambda x: "new"), replay_history=True)
    assert picture(pm) == before


def test_waiters_run_the_new_plugin(pm, plugin_of):
    """S-02: replaced under a closed gate, the calls that waited are served by the new version."""
    pm.register(named(plugin_of, "old", "a", "b"), name="p")
    with ThreadPoolExecutor(4) as pool:
        with HookGate(pm, ["a", "b"]) as gate:
            waiting = [pool.submit(pm.hook.a, x=1) for _ in range(4)]
            assert gate.drained(5)
            pm.replace("p", named(plugin_of, "new", "a", "b"))
            assert not any(call.done() for call in waiting)
        assert [call.result() for call in waiting] == [["new"]] * 4
    assert pm.hook.b(x=1) == ["new"]


def test_an_undo_under_the_gate_leaves_waiters_on_the_old_plugin(pm, plugin_of):
    """S-06: the swap failed after the switch; nobody ever saw the new version."""
    pm.register(named(plugin_of, "old", "a"), name="p")
    with ThreadPoolExecutor(1) as pool:
        with HookGate(pm, ["a"]) as gate:
            waiting = pool.submit(pm.hook.a, x=1)
            assert gate.drained(5)
            pm.replace("p", named(plugin_of, "new", "a"))()
        assert waiting.result() == ["old"]


def test_preparing_changes_nothing(pm, plugin_of):
    """A replacement that is made and forgotten leaves no hook, no code and no plugin behind."""
    pm.register(named(plugin_of, "old", "a"), name="p")
    before, names = picture(pm), {name: set(caller.__globals__) for name, caller in pm.hook.__dict__.items()}
    Replacement(pm, "p", named(plugin_of, "new", "a", "b", "fresh"))
    assert picture(pm) == before
    assert {name: set(caller.__globals__) for name, caller in pm.hook.__dict__.items()} == names
    assert pm.hook.a(x=1) == ["old"]


def test_pauses_hold_no_lock(pm, plugin_of):
    """While a replacement is prepared, others may go first now and then, and whatever they do with hooks, nothing stops them."""
    free = []
    with ThreadPoolExecutor(1) as pool:

        def pause():
            free.append(pool.submit(pm.hook_lock.acquire, timeout=5).result())
            pool.submit(pm.hook_lock.release).result()

        many = [f"hook{number}" for number in range(50)]
        pm.register(named(plugin_of, "old", *many), name="p")
        Replacement(pm, "p", named(plugin_of, "new", *many), pause=pause)
    assert free == [True] * 3


class _InterruptAt:
    """Ctrl-C before the ``line``-th line that runs of ``functions``; ``lines`` counts them."""

    def __init__(self, line, *functions):
        self.lines = 0
        self._line = line
        self._codes = {function.__code__ for function in functions}

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(lambda frame, event, argument: self._trace if frame.f_code in self._codes else None)
        return self

    def __exit__(self, *error):
        sys.settrace(self._before)

    def _trace(self, frame, event, argument):
        if event == "line":
            self.lines += 1
            if self.lines == self._line:
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.parametrize("gated", [False, True], ids=["open", "gated"])
def test_a_commit_that_is_interrupted_can_be_undone(pm, plugin_of, gated):
    """S-06: wherever Ctrl-C comes, what was done so far is known: all of it is taken back, and the next replacement finds nothing amiss."""
    for line in itertools.count(1):
        pm.register(named(plugin_of, "old", "a", "b"), name="p")
        pm.register(named(plugin_of, "other", "a"), name="other")
        before = picture(pm)
        with HookGate(pm, ["a", "b"] if gated else []):
            replacement = Replacement(pm, "p", named(plugin_of, "new", "b", "a", "told"))
            with _InterruptAt(line, Replacement.commit, Replacement._switch, _commit) as interrupt, contextlib.suppress(KeyboardInterrupt):
                replacement.commit()
            if replacement.undo is not None:
                replacement.undo()
            assert picture(pm) == before, f"line {line}"
        assert (pm.hook.a(x=1), pm.hook.b(x=1)) == (["other", "old"], ["old"])
        pm.replace("p", named(plugin_of, "newer", "a"))
        assert (pm.hook.a(x=1), pm.hook.b(x=1)) == (["other", "newer"], [])
        pm.unregister(name="p")
        pm.unregister(name="other")
        if interrupt.lines < line:
            break
    assert line > 20


def test_what_confirms_may_refuse(pm, plugin_of):
    """It is asked when the history has been told, and nothing has changed by then."""
    got = []

    def refuse():
        assert got == [1]
        raise ValueError("not this one")

    pm.register(named(plugin_of, "old", "a"), name="p")
    pm.hook.told.call_historic(kwargs={"x": 1})
    before = picture(pm)
    replacement = Replacement(pm, "p", plugin_of(told=lambda x: got.append(x), a=lambda x: "new"))
    with pytest.raises(ValueError, match="not this one"):
        replacement.commit(replay_history=True, confirm=refuse)
    assert picture(pm) == before


def _register_another(pm, plugin_of):
    pm.register(named(plugin_of, "late", "a", "fresh"), name="late")
    return ["late", "other", "new"], ["new", "late"]


def _unregister_another(pm, plugin_of):
    pm.unregister(name="other")
    return ["new"], ["new"]


def _monitor(pm, plugin_of):
    seen = pm.seen = []
    pm.add_hookcall_monitoring(lambda name, impls, kwargs: seen.append(name), lambda outcome, name, impls, kwargs: None)
    return ["other", "new"], ["new"]


def _replace_another(pm, plugin_of):
    pm.replace("other", named(plugin_of, "another", "a"))
    return ["another", "new"], ["new"]


@pytest.mark.parametrize("change", [_register_another, _unregister_another, _monitor, _replace_another])
@pytest.mark.parametrize("gated", [False, True], ids=["open", "gated"])
@pytest.mark.parametrize("hooks", [["a"], ["a", "fresh"]], ids=["same-hooks", "one-more"])
def test_what_changed_since_it_was_prepared_counts(pm, plugin_of, change, gated, hooks):
    """Code that was compiled for the hook as it was is not used for the hook as it is."""
    pm.register(named(plugin_of, "old", "a", "b"), name="p")
    pm.register(named(plugin_of, "other", "a"), name="other")
    replacement = Replacement(pm, "p", named(plugin_of, "new", *hooks))
    a, fresh = change(pm, plugin_of)
    with HookGate(pm, ["a"] if gated else []):
        replacement.commit()
    assert (pm.hook.a(x=1), pm.hook.b(x=1)) == (a, [])
    assert "fresh" not in hooks or pm.hook.fresh(x=1) == fresh
    assert getattr(pm, "seen", ["a", "b"])[:2] == ["a", "b"]


def test_a_change_behind_the_gate_counts_too(pm, plugin_of):
    """Registered after the switch and before the gate opens, a plugin answers as well."""
    pm.register(named(plugin_of, "old", "a"), name="p")
    with HookGate(pm, ["a"]):
        pm.replace("p", named(plugin_of, "new", "a"))
        pm.register(named(plugin_of, "late", "a"))
    assert pm.hook.a(x=1) == ["late", "new"]


def test_a_spec_that_comes_after_preparing_is_checked(pm, plugin_of):
    """The new plugin must fit the specs of the moment it begins to serve."""
    pm.register(named(plugin_of, "old", "fresh"), name="p")
    replacement = Replacement(pm, "p", named(plugin_of, "new", "fresh"))

    class Spec:
        @hookspec
        def fresh(self): ...

    pm.unregister(pm.get_plugin("p"))
    pm.register(plugin_of(fresh=lambda: "old"), name="p")
    replacement_of_that = Replacement(pm, "p", named(plugin_of, "new", "fresh"))
    pm.add_hookspecs(Spec)
    before = picture(pm)
    with pytest.raises(PluginValidationError, match="x"):
        replacement_of_that.commit()
    assert picture(pm) == before
    with pytest.raises(BlackholeError, match="'p' was replaced or unregistered"):
        replacement.commit()


def test_a_historic_call_made_after_preparing_is_told_once(pm, plugin_of):
    """Also one that is made while the history is being replayed, by the plugin that is told of another."""
    got = []

    def told(x):
        got.append(("new", x))
        if x == 1:
            pm.hook.told.call_historic(kwargs={"x": 3})

    pm.register(plugin_of(told=lambda x: got.append(("old", x))), name="p")
    pm.hook.told.call_historic(kwargs={"x": 1})
    replacement = Replacement(pm, "p", plugin_of(told=told))
    pm.hook.told.call_historic(kwargs={"x": 2})
    replacement.commit(replay_history=True)
    assert [x for who, x in got if who == "old"] == [1, 2, 3]
    assert [x for who, x in got if who == "new"] == [1, 2, 3]


def test_the_calls_that_had_begun_are_known(pm, plugin_of):
    """Without a gate too: what runs on the replaced version can be waited for, what begins later is not counted."""
    inside, leave = threading.Semaphore(0), threading.Event()

    def block(x):
        inside.release()
        assert leave.wait(20)
        return x

    pm.register(plugin_of(a=block), name="p")
    with ThreadPoolExecutor(2) as pool:
        old = pool.submit(pm.hook.a, x=1)
        inside.acquire()
        replacement = Replacement(pm, "p", plugin_of(a=lambda x: "new", b=lambda x: x))
        assert replacement.begun.drained(0)
        replacement.commit()
        assert not replacement.begun.drained(0.02)
        assert not replacement.begun.includes_this_call()
        assert pm.hook.a(x=1) == ["new"]
        leave.set()
        assert replacement.begun.drained(20)
        assert old.result() == [1]


_options = st.fixed_dictionaries({}, optional={"tryfirst": st.just(True), "trylast": st.just(True), "wrapper": st.booleans()})


def _make(tag, options):
    if options.get("wrapper"):

        def a(x):
            return [tag, *(yield)]

    else:

        def a(x):
            return tag

    plugin = type("P", (), {})()
    plugin.a = hookimpl(**options)(a)
    return plugin


@settings(deadline=None, max_examples=200)
@given(st.lists(_options, min_size=1, max_size=6), st.data())
def test_a_replacement_with_the_same_options_changes_nothing_but_the_answer(all_options, data):
    """Whatever the order and the options, old and new give the same picture, and undo gives the old one."""
    pm = HookManager("t")
    for number, options in enumerate(all_options):
        pm.register(_make(number, options), name=str(number))
    before, order = pm.hook.a(x=1), pm.hook.a.get_hookimpls()
    chosen = data.draw(st.integers(0, len(all_options) - 1))
    undo = pm.replace(str(chosen), _make("new", all_options[chosen]))
    assert pm.hook.a(x=1) == ["new" if value == chosen else value for value in before]
    undo()
    assert pm.hook.a.get_hookimpls() == order
    assert pm.hook.a(x=1) == before
