"""The compiled callers beside pluggy's own."""

from __future__ import annotations

import gc
import inspect
import warnings
import weakref

import pluggy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pluggy import HookimplMarker, HookspecMarker

from blackhole_core.hooks.caller import HookCaller, HookRelay
from blackhole_core.hooks.manager import HookManager

hookspec = HookspecMarker("t")
hookimpl = HookimplMarker("t")


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


class _Boom(Exception):
    """What generated plugins raise."""


def _plain(needs_y, outcome, log, tag):
    def result(*given):
        log.append((tag, given))
        if outcome == "raise":
            raise _Boom(tag)
        return outcome

    def both(x, y):
        return result(x, y)

    def only(x):
        return result(x)

    def default(x, y="own"):
        return result(x, y)

    return default if outcome == "default" else both if needs_y else only


def _wrapper(needs_y, outcome, log, tag):
    def wrapper(x):
        log.append((tag, "in"))
        if outcome == "raise" and needs_y:
            raise _Boom(tag)
        try:
            inner = yield
        except _Boom as error:
            log.append((tag, "caught", error.args))
            if outcome is None:
                raise
            if outcome == "raise":
                raise _Boom(tag) from error
            return outcome
        return (tag, inner)

    return wrapper


def _old_wrapper(needs_y, outcome, log, tag):
    def old(x):
        log.append((tag, "in"))
        got = yield
        log.append((tag, "out", type(got.exception)))
        if outcome == "raise":
            raise _Boom(tag)
        if outcome is not None:
            got.force_result(outcome)

    return old


_KINDS = {"plain": _plain, "wrapper": _wrapper, "old": _old_wrapper}

_impls = st.lists(
    st.tuples(
        st.sampled_from(["plain", "plain", "plain", "wrapper", "old"]),
        st.booleans(),
        st.sampled_from([None, 1, "two", "raise", "default"]),
        st.sampled_from(["", "tryfirst", "trylast"]),
        st.booleans(),
    ),
    max_size=6,
)


def _observe(manager_class, impls, spec_kind, calls):
    log: list[object] = []
    pm = manager_class("t")

    class Specs:
        @hookspec(firstresult=spec_kind == "firstresult")
        def h(self, x, y): ...

    class Defaulted:
        @hookspec
        def h(self, x, y="spec"): ...

    if spec_kind != "none":
        pm.add_hookspecs(Defaulted if spec_kind == "default" else Specs)
    registered = []
    for tag, (kind, needs_y, outcome, order, leaves) in enumerate(impls):
        function = _KINDS[kind](needs_y, outcome, log, tag)
        options = {order: True} if order else {}
        plugin = type("P", (), {})()
        plugin.h = hookimpl(wrapper=kind == "wrapper", hookwrapper=kind == "old", **options)(function)
        pm.register(plugin, name=f"p{tag}")
        registered.append((plugin, leaves))
    for leaving in (False, True):
        for plugin, leaves in registered:
            if leaving and leaves:
                pm.unregister(plugin)
        for kwargs in calls:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    log.append(("result", getattr(pm.hook, "h", lambda **_: "no hook")(**kwargs)))
                except Exception as error:  # compared with pluggy's
                    log.append((type(error), str(error), [type(error.__context__), type(error.__cause__)]))
            log.append([(str(w.message), w.filename, w.lineno) for w in warned])
    return log


@settings(deadline=None, max_examples=300)
@given(
    _impls,
    st.sampled_from(["spec", "firstresult", "default", "none"]),
    st.lists(st.sampled_from([{"x": 1, "y": 2}, {"y": 2, "x": None}, {"x": 1}, {}, {"x": 1, "y": 2, "z": 3}]), min_size=1, max_size=3),
)
def test_results_errors_warnings_and_order_are_pluggys(impls, spec_kind, calls):
    """Whatever is registered and called, the compiled callers do what pluggy's do."""
    assert _observe(HookManager, impls, spec_kind, calls) == _observe(pluggy.PluginManager, impls, spec_kind, calls)
