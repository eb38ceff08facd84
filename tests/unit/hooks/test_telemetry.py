"""Telemetry of hook calls: what is counted, and that nothing is lost."""

from __future__ import annotations

import asyncio

import pluggy
import pytest

from tests.unit.hooks.counting import ASIDE, Boom, boom, calls_of, counts, old_wrapper

hookimpl = pluggy.HookimplMarker("t")


def test_every_call_is_counted_for_the_hook_and_each_plugin(pm, plugin_of, sample):
    """300 calls of a hook with two plugins are 300 of the hook and 300 of each."""
    pm.register(plugin_of(a=lambda x: x), "one")
    pm.register(plugin_of(a=lambda x: None), "two")
    pm.telemetry.start(sample=sample)
    calls_of(300, lambda number: pm.hook.a(x=number))
    assert counts(pm, "a") == {"": (300, 0), "one": (300, 0), "two": (300, 0)}


def test_what_a_failure_keeps_from_running_is_not_counted(pm, plugin_of, sample):
    """Of 30 calls, 10 fail in the middle one of three plugins: the last one is reached by 20."""
    pm.register(plugin_of(a=lambda x: x), "last")
    pm.register(plugin_of(a=lambda x: boom(x) if x % 3 == 0 else x), "middle")
    pm.register(plugin_of(a=lambda x: x), "first")
    pm.telemetry.start(sample=sample)
    calls_of(30, lambda number: pm.hook.a(x=number), Boom)
    assert counts(pm, "a") == {"": (30, 10), "first": (30, 0), "middle": (30, 10), "last": (20, 0)}


def test_firstresult_counts_who_was_asked(pm, plugin_of, sample):
    """Whoever stands behind the one that answers, or fails, was not asked."""
    pm.register(plugin_of(first=lambda x: None), "never answers")
    pm.register(plugin_of(first=lambda x: boom(x) if x == 2 else None), "fails at 2")
    pm.register(plugin_of(first=lambda x: x if x == 1 else None), "answers 1")
    pm.register(plugin_of(first=lambda x: x if x == 0 else None), "answers 0")
    pm.telemetry.start(sample=sample)
    calls_of(40, lambda number: pm.hook.first(x=number % 4), Boom)
    assert counts(pm, "first") == {
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
        except Boom:
            return "saved"

    pm.register(plugin_of(a=boom), "fails")
    pm.register(plugin_of(a=saving), "saves")
    pm.telemetry.start(sample=sample)
    for _ in range(9):
        assert pm.hook.a(x=1) == "saved"
    assert counts(pm, "a") == {"": (9, 0), "fails": (9, 9), "saves": (9, 0)}


@pytest.mark.parametrize("when", ["before", "after", "instead of another", "yields twice"])
def test_an_error_of_a_wrapper_is_its_own(pm, plugin_of, sample, when):
    """Wherever a wrapper fails, the one around it only passes that on; what it kept from running is not counted."""

    @hookimpl(wrapper=True, tryfirst=True)
    def passing(x):
        return (yield)

    @hookimpl(wrapper=True)
    def failing(x):
        if when == "before":
            raise Boom(when)
        try:
            yield
        except ValueError as error:
            raise Boom(when) from error
        if when == "after":
            raise Boom(when)
        yield

    def plain(x):
        if when == "instead of another":
            raise ValueError

    pm.register(plugin_of(a=plain), "plain")
    pm.register(plugin_of(a=failing), "failing")
    pm.register(plugin_of(a=passing), "passing")
    pm.telemetry.start(sample=sample)
    calls_of(8, lambda number: pm.hook.a(x=number), Boom, RuntimeError)
    reached = 0 if when == "before" else 8
    assert counts(pm, "a") == {
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
    calls_of(10, lambda number: pm.hook.first(x=number % 2))
    assert counts(pm, "first") == {"": (10, 0), "wrapper": (10, 0), "first": (10, 0), "second": (5, 0)}


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
    calls_of(5, lambda number: pm.hook.a(x=number))
    assert counts(pm, "a") == {"": (5, 0), "twice": (10, 0)}


def test_a_hook_without_implementations_is_counted(pm, sample):
    """Who asks whether anybody listens wants to know how often he asked."""
    pm.telemetry.start(sample=sample)
    calls_of(5, lambda number: pm.hook.a(x=number))
    assert counts(pm, "a") == {"": (5, 0)}
    assert pm.telemetry.read().hooks["a"].unattributed == 0


def test_calls_inside_of_calls_are_counted(pm, plugin_of, sample):
    """A plugin that calls its own hook again: both calls count, and the failure of the inner one is a failure of both."""
    pm.register(plugin_of(a=lambda x: pm.hook.a(x=x - 1) if x else boom(x)), "deep")
    pm.telemetry.start(sample=sample)
    with pytest.raises(Boom):
        pm.hook.a(x=4)
    assert counts(pm, "a") == {"": (5, 5), "deep": (5, 5)}


def test_awaited_calls_are_counted(pm, plugin_of, sample):
    """``ahook`` runs the same bodies."""
    pm.register(plugin_of(a=lambda x: x), "one")
    pm.telemetry.start(sample=sample)
    assert asyncio.run(_awaited(pm)) == [1]
    assert counts(pm, "a") == {"": (1, 0), "one": (1, 0)}


async def _awaited(pm):
    return await pm.ahook.a(x=1)


# --- what pluggy runs ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Argument")
@pytest.mark.parametrize("way", ASIDE)
def test_calls_that_pluggy_runs_are_counted_for_the_hook(pm, plugin_of, sample, way):
    """They count as calls and failures; what plugins did in them is said to be unknown."""
    pm.register(plugin_of(a=lambda x: x, told=lambda x: x), "one")
    pm.register(plugin_of(a=lambda x: x), "other")
    if way == "old-style wrapper":
        pm.register(plugin_of(a=hookimpl(hookwrapper=True)(old_wrapper)), "old")
    if way == "monitored":
        pm.add_hookcall_monitoring(lambda *_: None, lambda *_: None)
    pm.telemetry.start(sample=sample)
    expected = pluggy.HookCallError if way == "missing argument" else ()
    calls_of(6, lambda _number: ASIDE[way](pm), *([expected] if expected else []))
    calls = pm.telemetry.read().hooks["told" if way == "historic" else "a"]
    assert (calls.total.count, calls.total.errors, calls.unattributed) == (6, 6 if expected else 0, 6)
    assert all(stats.count == 0 for stats in calls.plugins.values())


def test_a_failure_on_pluggys_path_is_counted(pm, plugin_of):
    """``call_extra`` that raises is an error of the hook."""
    pm.telemetry.start()
    with pytest.raises(Boom):
        pm.hook.a.call_extra([boom], {"x": 1})
    assert counts(pm, "a") == {"": (1, 1)}


def test_a_refused_call_is_none(pm):
    """Positional arguments reach no hook."""
    pm.telemetry.start()
    pm.hook.a(x=1)
    with pytest.raises(TypeError):
        pm.hook.a(1)
    assert counts(pm, "a") == {"": (1, 0)}
