"""What a plugin object offers is pluggy's own judgement, the same in the host and in a worker."""

from __future__ import annotations

from collections.abc import Generator
from types import ModuleType
from typing import Any

import pluggy
import pytest
from notes_api import hookimpl

import blackhole_core as bh
from blackhole_core.executor.hosted import host_object, instantiate
from blackhole_core.messages import CONTRACT, HOST


class _Plugin:
    @hookimpl(tryfirst=True, specname="transform")
    def shout(self, text: str) -> str:
        return text.upper()

    @hookimpl(wrapper=True)
    def add(self, amount: int) -> Generator[None, Any, Any]:
        return (yield)

    @bh.hookimpl
    def plugin_start(self) -> str:
        return "started"

    def helper(self) -> None: ...


def test_implementations_and_contracts_are_found() -> None:
    """Names, options and arguments are those pluggy sees; contracts are kept apart; other methods are nobody's business."""
    hosted = host_object(_Plugin(), "notes")
    found = {known.attribute: known for known in hosted.surface.implementations}
    assert set(found) == {"shout", "add"}
    assert (found["shout"].hook, found["shout"].argnames, found["shout"].options["tryfirst"]) == ("transform", ("text",), True)
    assert found["add"].is_generator
    assert hosted.surface.contracts == {"plugin_start": ()}
    index = [known.attribute for known in hosted.surface.implementations].index("shout")
    assert hosted.function(HOST, "transform", index)("x") == "X"
    assert hosted.function(CONTRACT, "plugin_start", -1)() == "started"
    with pytest.raises(KeyError):
        hosted.function(CONTRACT, "plugin_stop", -1)


def test_classes_are_made_and_everything_else_is_taken() -> None:
    """An entry point may name a class, an instance or a module."""
    assert isinstance(instantiate(_Plugin), _Plugin)
    plugin, module = _Plugin(), ModuleType("m")
    assert instantiate(plugin) is plugin
    assert instantiate(module) is module


def test_what_pluggy_refuses_is_refused() -> None:
    """A wrapper that is no generator is pluggy's error."""

    class Bad:
        @hookimpl(wrapper=True)
        def transform(self, text: str) -> str:
            return text

    assert not host_object(object(), "notes").surface.implementations
    hosted = host_object(Bad(), "notes")
    pm = pluggy.PluginManager("notes")
    assert not hosted.surface.implementations[0].is_generator
    assert pm.project_name == "notes"
