"""Exceptions say which plugin they came from."""

from __future__ import annotations

import functools

import pytest
from pluggy import HookCallError, HookimplMarker

hookimpl = HookimplMarker("t")


def fail(x):
    raise ValueError(x)


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


@pytest.fixture
def labelled(pm):
    """Every plugin whose name begins with ``p`` is labelled."""
    pm.label_of = lambda name: f"{name}@1.0.0" if name.startswith("p") else None
    return pm


CALLS = [
    lambda pm: pm.hook.a(x=1),
    lambda pm: pm.hook.a.call_extra([], {"x": 1}),
    lambda pm: pm.subset_hook_caller("a", [pm.get_plugin("other")])(x=1),
]


@pytest.mark.parametrize("call", CALLS, ids=["call", "extra", "subset"])
@pytest.mark.parametrize("monitored", [False, True])
def test_the_note_names_plugin_hook_and_level(labelled, plugin_of, call, monitored):
    """Exactly one note, on every way to call."""
    labelled.register(plugin_of(a=lambda x: x), name="p0")
    labelled.register(plugin_of(a=lambda x: fail(x)), name="p1")
    labelled.register(plugin_of(a=lambda x: None), name="other")
    if monitored:
        labelled.add_hookcall_monitoring(lambda *_: None, lambda *_: None)
    for _ in range(2):  # the first call compiles
        with pytest.raises(ValueError, match="1") as caught:
            call(labelled)
        assert notes(caught.value) == ["plugin p1@1.0.0, hook a, level none"]


def test_an_unlabelled_plugins_exception_is_untouched(labelled, plugin_of):
    """Plain pluggy plugins raise what they raise."""
    labelled.register(plugin_of(a=lambda x: fail(x)), name="other")
    with pytest.raises(ValueError, match="1") as caught:
        labelled.hook.a(x=1)
    assert not hasattr(caught.value, "__notes__")


def test_a_bad_call_is_no_plugins_fault(labelled, plugin_of):
    """An argument that is missing is the caller's mistake."""
    labelled.register(plugin_of(free=lambda y: y), name="p1")
    with pytest.raises(HookCallError) as caught:
        labelled.hook.free()
    assert notes(caught.value) == []


@pytest.mark.parametrize("old_style", [False, True])
def test_an_error_that_passes_a_wrapper_is_the_inner_plugins(labelled, plugin_of, old_style):
    """A wrapper that lets an error through is not blamed for it."""

    def wrap(x):
        return (yield)

    def old(x):
        yield

    labelled.register(plugin_of(a=hookimpl(hookwrapper=True)(old) if old_style else hookimpl(wrapper=True)(wrap)), name="p1")
    labelled.register(plugin_of(a=lambda x: fail(x)), name="p2")
    with pytest.raises(ValueError, match="1") as caught:
        labelled.hook.a(x=1)
    assert notes(caught.value) == ["plugin p2@1.0.0, hook a, level none"]


@pytest.mark.parametrize("when", ["before", "after", "old-style"])
def test_a_wrappers_own_error_is_the_wrappers(labelled, plugin_of, when):
    """Before the yield, after it, and in an old-style teardown."""

    def before(x):
        fail(x)
        yield

    def after(x):
        yield
        fail(x)

    marker = hookimpl(hookwrapper=True) if when == "old-style" else hookimpl(wrapper=True)
    labelled.register(plugin_of(a=marker(before if when == "before" else after)), name="p1")
    labelled.register(plugin_of(a=lambda x: x), name="p2")

    def call():
        with pytest.raises(ValueError, match="1") as caught:
            labelled.hook.a(x=1)
        assert notes(caught.value) == ["plugin p1@1.0.0, hook a, level none"]

    if when == "old-style":
        with pytest.warns(match="teardown"):
            call()
    else:
        call()


def test_an_error_raised_from_another_gives_each_its_note(labelled, plugin_of):
    """A wrapper turns a plugin's error into its own: both failed, each error says whose it is."""

    def wrap(x):
        try:
            yield
        except ValueError as error:
            raise KeyError("mine") from error

    labelled.register(plugin_of(a=hookimpl(wrapper=True)(wrap)), name="p1")
    labelled.register(plugin_of(a=lambda x: fail(x)), name="p2")
    with pytest.raises(KeyError) as caught:
        labelled.hook.a(x=1)
    assert notes(caught.value) == ["plugin p1@1.0.0, hook a, level none"]
    assert notes(caught.value.__context__) == ["plugin p2@1.0.0, hook a, level none"]


def test_plugins_that_share_one_function_are_told_apart(labelled):
    """Two instances of one class, and two functions made by one decorator."""

    class Plugin:
        def __init__(self, bad):
            self.bad = bad

        @hookimpl
        def a(self, x):
            if self.bad:
                fail(x)

        @hookimpl(wrapper=True)
        def b(self, x):
            if self.bad:
                fail(x)
            return (yield)

    labelled.register(Plugin(bad=False), name="p1")
    labelled.register(Plugin(bad=True), name="p2")
    labelled.register(Plugin(bad=False), name="p3")
    for hook in ("a", "b"):
        with pytest.raises(ValueError, match="1") as caught:
            getattr(labelled.hook, hook)(x=1)
        assert notes(caught.value) == [f"plugin p2@1.0.0, hook {hook}, level none"]


def test_a_shared_decorator_does_not_hide_the_plugin(labelled, plugin_of):
    """The failing frame is the decorator's for both plugins; in pluggy's loop the running one is meant."""

    def decorated(function):
        @functools.wraps(function)
        def inner(x):
            return function(x)

        return inner

    def wrap(x):
        return (yield)

    labelled.register(plugin_of(a=decorated(lambda x: x)), name="p1")
    labelled.register(plugin_of(a=decorated(lambda x: fail(x))), name="p2")
    labelled.register(plugin_of(a=decorated(lambda x: x)), name="p3")
    labelled.register(plugin_of(a=hookimpl(wrapper=True)(wrap)), name="p4")
    with pytest.raises(ValueError, match="1") as caught:
        labelled.hook.a(x=1)
    assert notes(caught.value) == ["plugin p2@1.0.0, hook a, level none"]


def test_nested_calls_each_give_their_note(labelled, plugin_of):
    """b of p2 failed, and so did a of p1, which called it."""
    labelled.register(plugin_of(a=lambda x: labelled.hook.b(x=x)), name="p1")
    labelled.register(plugin_of(b=lambda x: fail(x)), name="p2")
    with pytest.raises(ValueError, match="1") as caught:
        labelled.hook.a(x=1)
    assert notes(caught.value) == ["plugin p2@1.0.0, hook b, level none", "plugin p1@1.0.0, hook a, level none"]


def test_a_cached_exception_collects_no_copies(labelled, plugin_of):
    """A plugin that raises one and the same exception object again and again."""
    cached = ValueError("cached")

    def raise_cached(x):
        raise cached

    labelled.register(plugin_of(a=raise_cached), name="p1")
    for _ in range(5):
        with pytest.raises(ValueError, match="cached"):
            labelled.hook.a(x=1)
    assert notes(cached) == ["plugin p1@1.0.0, hook a, level none"]
