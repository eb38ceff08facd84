"""The compiled callers beside pluggy's own."""

from __future__ import annotations

import gc
import inspect
import weakref

import pluggy
import pytest
from pluggy import HookimplMarker, HookspecMarker

from blackhole_core.hooks.caller import HookCaller, HookRelay
from blackhole_core.hooks.manager import HookManager

hookspec = HookspecMarker("t")
hookimpl = HookimplMarker("t")


class _Boom(Exception):
    """What generated plugins raise."""


def test_a_caller_is_known_as_a_hook_caller(pm):
    """``isinstance`` and the attributes of pluggy's caller hold for what ``pm.hook.x`` gives."""
    caller = pm.hook.a
    assert isinstance(caller, HookCaller)
    assert not isinstance(len, HookCaller)
    assert not isinstance(test_a_caller_is_known_as_a_hook_caller, HookCaller)
    assert isinstance(pm.hook, HookRelay)
    assert (caller.name, caller.has_spec(), caller.is_historic(), caller.get_hookimpls()) == ("a", True, False, [])
    assert caller.spec.argnames == ("x",)
    assert "a" in repr(caller)
    assert inspect.isfunction(caller)


def test_a_held_caller_sees_every_later_change(pm, plugin_of):
    """A reference taken before any plugin existed serves all of them, and none after they left."""
    held = pm.hook.a
    assert held(x=1) == []
    plugin = plugin_of(a=lambda x: x + 1)
    pm.register(plugin)
    assert held(x=1) == [2]
    pm.unregister(plugin)
    assert held(x=1) == []
    assert held is pm.hook.a


def test_none_is_dropped_and_firstresult_stops(pm, plugin_of):
    """None is no result; with ``firstresult`` nothing runs after the first result."""
    seen = []
    pm.register(plugin_of(a=lambda x: x, first=lambda x: seen.append(x)))
    pm.register(plugin_of(a=lambda x: None, first=lambda x: "found"))
    pm.register(plugin_of(a=lambda x: 0, first=lambda x: None))
    assert pm.hook.a(x=5) == [0, 5]
    assert pm.hook.first(x=5) == "found"
    assert seen == []


def test_positional_arguments_are_refused_in_pluggys_words(pm):
    """A host that matches on the message of the TypeError still finds it."""
    pm.hook.a(x=1)  # compiled by now
    with pytest.raises(TypeError, match=r"__call__\(\) takes 1 positional argument but 3 were given"):
        pm.hook.a(1, 2)


def test_a_missing_argument_warns_at_the_line_that_calls(pm):
    """The warning points at the caller's file, however the call went."""
    for call in (pm.hook.a, lambda: pm.hook.a.call_extra([], {}), lambda: pm.hook.told.call_historic()):
        with pytest.warns(UserWarning, match="'x'") as seen:
            call()
        assert seen[0].filename == __file__


def test_a_failing_teardown_warns_at_the_line_that_calls(pm, plugin_of):
    """pluggy counts frames to find it: on no path do we add one."""

    @hookimpl(hookwrapper=True)
    def failing(x):
        yield
        raise _Boom

    pm.register(plugin_of(a=failing))
    other = plugin_of(a=lambda x: x)
    pm.register(other)
    subset = pm.subset_hook_caller("a", [other])
    for call in (
        pm.hook.a,
        subset,
        lambda x: pm.hook.a.call_extra([], {"x": x}),
        lambda x: subset.call_extra([], {"x": x}),
    ):
        with pytest.warns(pluggy.PluggyTeardownRaisedWarning) as seen, pytest.raises(_Boom):
            call(x=1)
        assert seen[0].filename == __file__


def test_a_spec_that_comes_too_late_to_refuse(pm, plugin_of):
    """The implementation stays, as in pluggy, and each call says which argument it misses."""
    pm.register(plugin_of(late=lambda unknown: unknown))

    class Late:
        @hookspec
        def late(self, x): ...

    with pytest.raises(pluggy.PluginValidationError, match="unknown"):
        pm.add_hookspecs(Late)
    with pytest.raises(pluggy.HookCallError, match="must provide argument 'unknown'"):
        pm.hook.late(x=1)
    assert pm.hook.late(x=1, unknown=2) == [2]


def test_a_reset_history_is_seen_by_the_caller(pm, plugin_of):
    """pytest empties ``_call_history`` by assignment; later plugins then get nothing replayed."""
    got = []
    pm.hook.told.call_historic(kwargs={"x": 1})
    pm.hook.told._call_history = []
    pm.register(plugin_of(told=lambda x: got.append(x)))
    assert got == []


def test_a_late_plugin_is_told_the_history_once(pm, plugin_of):
    """Registered after two historic calls, it gets both, and the callbacks get its results."""
    got, answers = [], []
    for number in (1, 2):
        pm.hook.told.call_historic(answers.append, {"x": number})
    pm.register(plugin_of(told=lambda x: got.append(x) or -x))
    pm.hook.told.call_historic(answers.append, {"x": 3})
    assert got == [1, 2, 3]
    assert answers == [-1, -2, -3]


def test_monitoring_sees_every_call_and_can_be_taken_back(pm, plugin_of):
    """Monitoring reaches held, compiled callers as well."""
    pm.register(plugin_of(a=lambda x: x))
    held = pm.hook.a
    held(x=0)
    seen = []
    undo = pm.add_hookcall_monitoring(lambda name, impls, kwargs: seen.append((name, kwargs)), lambda *_: None)
    assert held(x=1) == [1]
    undo()
    assert held(x=2) == [2]
    assert seen == [("a", {"x": 1})]


def test_a_hosts_own_hookexec_sees_every_call(plugin_of):
    """A subclass that overrides ``_hookexec`` is obeyed."""
    seen = []

    class Own(HookManager):
        def _hookexec(self, hook_name, methods, kwargs, firstresult):
            seen.append(hook_name)
            return super()._hookexec(hook_name, methods, kwargs, firstresult)

    pm = Own("t")
    pm.register(plugin_of(a=lambda x: x))
    assert [pm.hook.a(x=1), pm.hook.a(x=2)] == [[1], [2]]
    assert seen == ["a", "a"]


def test_unusual_parameter_names_go_pluggys_way(pm, plugin_of):
    """Parameters that collide with generated names still arrive."""
    pm.register(plugin_of(odd=lambda _bh_x, _bh_p: (_bh_x, _bh_p)))
    assert pm.hook.odd(_bh_x=1, _bh_p=2) == [(1, 2)]


def test_ellipsis_is_an_ordinary_argument(pm, plugin_of):
    """``...`` stands for a missing argument in generated source only."""
    pm.register(plugin_of(a=lambda x: [x]))
    assert pm.hook.a(x=...) == [[...]]


def test_a_dropped_manager_is_collected_with_its_plugins():
    """A manager, its callers and a plugin that points back at it form a cycle which the collector can free."""

    class Plugin:
        def __init__(self, manager):
            self.manager = manager

        @hookimpl
        def a(self, x):
            return x

    manager = HookManager("t")
    manager.register(Plugin(manager))
    manager.register(manager)
    assert manager.hook.a(x=1) == [1]
    gone = weakref.ref(manager)
    del manager
    gc.collect()
    assert gone() is None


def test_replaced_states_leave_nothing_in_the_callers_globals(pm, plugin_of):
    """After 200 changes a caller holds what it held after one."""
    plugin = plugin_of(a=lambda x: x)
    pm.register(plugin)
    pm.hook.a(x=1)
    size = len(pm.hook.a.__globals__)
    for _ in range(200):
        pm.unregister(plugin)
        pm.register(plugin)
        assert pm.hook.a(x=1) == [1]
    assert len(pm.hook.a.__globals__) == size
