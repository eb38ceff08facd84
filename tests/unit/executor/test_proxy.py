"""A proxy looks like the plugin it stands for, whatever names a worker made up."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from typing import Any

import attrs
import pluggy
import pytest

from blackhole_core.executor.proxy import check_names, make_proxy, wrapper_stub
from blackhole_core.messages import Implementation, Surface

_OPTIONS = {"wrapper": False, "hookwrapper": False, "optionalhook": False, "tryfirst": False, "trylast": False, "specname": None}
_GOOD = Implementation("transform", "transform", ("text", "_target", "self_like"), _OPTIONS)


def _proxy(*implementations: Implementation) -> Any:
    return make_proxy("p@1", "notes", Surface(implementations), lambda index, known: lambda *args: (index, known.hook, args))


def test_the_functions_have_the_names_of_the_real_ones() -> None:
    """pluggy sees the arguments and options of the implementation; a call is forwarded with its values in order."""
    proxy = _proxy(_GOOD, Implementation("other", "add", (), {**_OPTIONS, "specname": "add", "tryfirst": True}))
    assert list(inspect.signature(proxy.transform).parameters) == ["text", "_target", "self_like"]
    assert proxy.transform("a", "b", "c") == (0, "transform", ("a", "b", "c"))
    assert proxy.other() == (1, "add", ())
    assert repr(proxy) == "<plugin p@1>"

    class Specs:
        @pluggy.HookspecMarker("notes")
        def transform(self, text: str, _target: str, self_like: str) -> None: ...

        @pluggy.HookspecMarker("notes")
        def add(self) -> None: ...

    pm = pluggy.PluginManager("notes")
    pm.add_hookspecs(Specs)
    pm.register(proxy)
    pm.check_pending()
    assert pm.hook.transform(text=1, _target=2, self_like=3) == [(0, "transform", (1, 2, 3))]
    assert pm.hook.add() == [(1, "add", ())]


@pytest.mark.parametrize(
    "name", ["", "a b", "a=1", "a): import os #", "class", "None", "__class__", "__init__", "1a", "a\n", "*args", "x" * 201, "\x1b"]
)
def test_names_that_are_none_are_refused(name: str) -> None:
    """Names of hooks and arguments come from a worker and must be identifiers; dunders would reach into the proxy."""
    for changed in (
        attrs.evolve(_GOOD, attribute=name, hook=name),
        attrs.evolve(_GOOD, argnames=(name,)),
        attrs.evolve(_GOOD, hook=name, options={**_OPTIONS, "specname": name}),
    ):
        with pytest.raises(ValueError, match="not a usable name"):
            _proxy(changed)


@pytest.mark.parametrize(
    ("surface", "says"),
    [
        ((attrs.evolve(_GOOD, argnames=("a", "a")),), "twice"),
        ((attrs.evolve(_GOOD, argnames=tuple(f"a{number}" for number in range(101))),), "more than 100"),
        ((_GOOD, _GOOD), "same name"),
        ((attrs.evolve(_GOOD, hook="total"),), "options say something else"),
        ((attrs.evolve(_GOOD, options={**_OPTIONS, "specname": "total"}),), "options say something else"),
    ],
)
def test_surfaces_that_cannot_be_are_refused(surface: tuple[Implementation, ...], says: str) -> None:
    """What contradicts itself is refused with the reason."""
    with pytest.raises(ValueError, match=says):
        check_names(Surface(surface))


def test_look_alike_letters_stay_apart() -> None:
    """Names never become source text, so what Python's parser would fold or forbid is just a name."""
    proxy = _proxy(attrs.evolve(_GOOD, argnames=("ﬁ", "fi", "\uff34rue")))
    assert proxy.transform(1, 2, 3)[2] == (1, 2, 3)


def test_a_wrapper_is_driven_step_by_step() -> None:
    """Each half of a hook wrapper runs through the given call; what is sent, thrown and returned passes."""
    steps: list[str] = []

    def call(step: Any, args: tuple[Any, ...]) -> Any:
        steps.append("step")
        return step(*args)

    def wrapper(text: str) -> Generator[None, str, str]:
        try:
            result = yield
        except KeyError:
            return f"caught for {text}"
        return f"{text}:{result}"

    stub = wrapper_stub(call, wrapper)
    generator = stub("x")
    next(generator)
    with pytest.raises(StopIteration) as stop:
        generator.send("r")
    assert stop.value.value == "x:r"
    generator = stub("x")
    next(generator)
    with pytest.raises(StopIteration) as stop:
        generator.throw(KeyError())
    assert stop.value.value == "caught for x"
    closed = stub("x")
    next(closed)
    closed.close()
    assert len(steps) == 6
