"""What the table "What differs" of docs/reference/levels.md says of each level, asked of a plugin that runs there."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from tests.levels import require_level

PLUGIN = '''
import sys
import threading
from contextvars import copy_context

import blackhole_core as bh

hookimpl = bh.HookimplMarker("table")


class Own(Exception):
    """Of a type that only the plugin has."""


class Table:
    @hookimpl
    def change(self, items):
        items.append("changed")
        return items

    @hookimpl
    def thread(self):
        return threading.get_ident() if threading.current_thread() is threading.main_thread() else -threading.get_ident()

    @hookimpl
    def leave(self):
        sys.exit(3)

    @hookimpl
    def fail(self):
        raise Own("mine")

    @hookimpl
    async def later(self):
        return "done"

    @hookimpl
    def variables(self):
        return [variable.name for variable in copy_context()]

    @hookimpl
    def say(self):
        print("printed by the plugin", flush=True)
'''

WRAPPER = """
import blackhole_core as bh

hookimpl = bh.HookimplMarker("table")


class Wrapper:
    @hookimpl(wrapper=True)
    def thread(self):
        return (yield)
"""

hookspec = bh.HookspecMarker("table")
told: ContextVar[str] = ContextVar("told_by_the_caller")


class TableSpecs:
    @hookspec(firstresult=True)
    def change(self, items: list[Any]) -> Any: ...

    @hookspec(firstresult=True)
    def thread(self) -> Any: ...

    @hookspec(firstresult=True)
    def leave(self) -> Any: ...

    @hookspec(firstresult=True)
    def fail(self) -> Any: ...

    @hookspec(firstresult=True)
    def later(self) -> Any: ...

    @hookspec(firstresult=True)
    def variables(self) -> Any: ...

    @hookspec(firstresult=True)
    def say(self) -> Any: ...


@pytest.fixture(params=["none", "thread", "process"])
def level(request: pytest.FixtureRequest) -> str:
    return str(require_level(request.param))


@pytest.fixture
def pm(level: str, tmp_path: Path) -> Iterator[bh.PluginManager]:
    for name, code in [("table", PLUGIN), ("wrapper", WRAPPER)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(code)
        (tmp_path / name / "plugin.yaml").write_text(f"name: {name}\nversion: 1.0.0\nentry: {name}:{name.title()}\n")
    with bh.PluginManager("table") as manager:
        manager.add_hookspecs(TableSpecs)
        manager.load("table", source=tmp_path / "table", isolation=level)
        yield manager


def test_arguments_are_the_objects_or_copies(pm: bh.PluginManager, level: str) -> None:
    """Row "a changed argument": seen by the caller at none and thread, not at process."""
    items: list[Any] = []
    answer = pm.hook.change(items=items)
    assert answer == ["changed"]
    assert (answer is items) is (items == ["changed"]) is (level != "process")


def test_where_a_call_runs(pm: bh.PluginManager, level: str) -> None:
    """Row "where a call runs": the caller's thread, a thread of the plugin's, the worker's main thread."""
    import threading

    here, ran = threading.get_ident(), pm.hook.thread()
    if level == "none":
        assert ran == here
    elif level == "thread":
        assert ran < 0
        assert -ran != here
    else:
        assert ran > 0


def test_exit_is_not_the_hosts(pm: bh.PluginManager, level: str) -> None:
    """Row "SystemExit": propagates at none, becomes RemoteError elsewhere."""
    with pytest.raises(SystemExit if level == "none" else bh.RemoteError):
        pm.hook.leave()


def test_types_of_exceptions(pm: bh.PluginManager, level: str) -> None:
    """Row "an exception's type": a type of the plugin's own arrives as itself at none and thread, as RemoteError from a worker."""
    with pytest.raises(Exception, match="mine") as caught:
        pm.hook.fail()
    assert type(caught.value).__name__ == ("RemoteError" if level == "process" else "Own")
    assert f"plugin table@1.0.0, hook fail, level {level}" in caught.value.__notes__


def test_async_implementations(pm: bh.PluginManager, level: str) -> None:
    """Rows "async def": ``pm.hook`` gives the coroutine at none and thread and the result at process; ``pm.ahook`` the result."""
    answer = pm.hook.later()
    if level == "process":
        assert answer == "done"
    else:
        assert inspect.iscoroutine(answer)
        answer.close()

    async def ask() -> Any:
        return await pm.ahook.later()

    assert asyncio.run(ask()) == "done"


def test_context_variables(pm: bh.PluginManager, level: str) -> None:
    """Row "context variables of the caller": seen at none and thread, not at process."""
    token = told.set("something")
    try:
        assert ("told_by_the_caller" in pm.hook.variables()) is (level != "process")
    finally:
        told.reset(token)


def test_wrappers(pm: bh.PluginManager, level: str, tmp_path: Path) -> None:
    """Row "hook wrappers": refused at load at process."""
    if level == "process":
        with pytest.raises(bh.LoadFailed, match="hook wrapper"):
            pm.load("wrapper", source=tmp_path / "wrapper", isolation=level)
    else:
        pm.load("wrapper", source=tmp_path / "wrapper", isolation=level)
        assert isinstance(pm.hook.thread(), int)


def test_output(pm: bh.PluginManager, level: str, caplog: pytest.LogCaptureFixture) -> None:
    """Row "standard output": a worker's goes to the plugin's logger, the other levels have the host's."""
    with caplog.at_level(logging.INFO, "blackhole.plugin.table"):
        pm.hook.say()
        pm.close()
    logged = [record.getMessage() for record in caplog.records if record.name == "blackhole.plugin.table"]
    assert logged == (["printed by the plugin"] if level == "process" else [])


def test_usage(pm: bh.PluginManager, level: str) -> None:
    """Row "usage": known of a worker only."""
    usage = pm.plugin("table").usage
    assert (usage.memory is not None) is (level == "process")
