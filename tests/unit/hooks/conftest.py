"""Managers of both kinds of evidence, and small plugins to hang on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
from pluggy import HookimplMarker, HookspecMarker

from blackhole_core.hooks.inflight import EVIDENCE
from blackhole_core.hooks.manager import HookManager
from blackhole_core.hooks.telemetry import DEFAULT_SAMPLE

hookspec = HookspecMarker("t")
hookimpl = HookimplMarker("t")


class Specs:
    @hookspec
    def a(self, x): ...

    @hookspec
    def b(self, x): ...

    @hookspec(firstresult=True)
    def first(self, x): ...

    @hookspec(historic=True)
    def told(self, x): ...


class CountingManager(HookManager):
    """The path of interpreters on which a frame proves nothing."""

    evidence = "counter"


@pytest.fixture(params=[EVIDENCE, "counter"] if EVIDENCE == "frames" else ["counter"])
def manager_class(request: pytest.FixtureRequest) -> type[HookManager]:
    return HookManager if request.param == "frames" else CountingManager


@pytest.fixture
def pm(manager_class: type[HookManager]) -> Iterator[HookManager]:
    manager = manager_class("t")
    manager.add_hookspecs(Specs)
    yield manager
    manager.close()


@pytest.fixture(params=[None, 1e-5], ids=["usual-switching", "10us-switching"])
def switching(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run at the interpreter's switch interval and at 10 µs."""
    before = sys.getswitchinterval()
    if request.param is not None:
        sys.setswitchinterval(request.param)
    yield
    sys.setswitchinterval(before)


def make_plugin(**hooks: Callable[..., object]) -> object:
    """Make a plugin that implements ``hooks`` with plain options."""
    plugin = type("Plugin", (), {})()
    for name, function in hooks.items():
        if not hasattr(function, "t_impl"):
            hookimpl(function)
        setattr(plugin, name, function)
    return plugin


@pytest.fixture
def plugin_of() -> Callable[..., object]:
    return make_plugin


@pytest.fixture(params=[1, 3, DEFAULT_SAMPLE], ids=["each", "one in 3", "sampled"])
def sample(request: pytest.FixtureRequest) -> int:
    return request.param
