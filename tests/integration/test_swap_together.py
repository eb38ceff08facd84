"""Plugins that depend on one another are reloaded as one swap: all of them are new, or none is."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.lifecycle.swap import Swap
from tests.integration.managed import Log
from tests.stage import eventually

hookspec = bh.HookspecMarker("together")
LEVELS = ("none", "thread", "process")


class Specs:
    @hookspec
    def base_says(self) -> str: ...

    @hookspec
    def user_says(self) -> str: ...


BASE = """
import blackhole_core as bh

hookimpl = bh.HookimplMarker("together")
WORD = {word!r}


class Base:
    def __init__(self):
        self.kept = 0

    @hookimpl
    def base_says(self):
        return WORD

    @bh.hookimpl
    def plugin_export_state(self):
        return {{"kept": self.kept}}

    @bh.hookimpl
    def plugin_import_state(self, state):
        self.kept = state["kept"]
"""

USER = """
import blackhole_core as bh

hookimpl = bh.HookimplMarker("together")
{imports}


class User:
    def __init__(self):
        self.calls = 0

    @hookimpl
    def user_says(self):
        self.calls += 1
        {lazy}
        return f"{{WORD}} {{self.calls}}"

    @bh.hookimpl
    def plugin_export_state(self):
        return {{"calls": self.calls}}

    @bh.hookimpl
    def plugin_import_state(self, state):
        self.calls = state["calls"]
"""


def write(root: Path, name: str, text: str, needs: str = "") -> Path:
    """Write the source tree of one plugin and return it."""
    root.mkdir(parents=True, exist_ok=True)
    (root / f"together_{name}.py").write_text(text)
    dependencies = f"dependencies: [{{name: {needs}}}]\n" if needs else ""
    (root / "plugin.yaml").write_text(
        f"name: {name}\nversion: 1.0.0\nentry: together_{name}:{name.capitalize()}\nisolation: none\n{dependencies}"
    )
    return root


@pytest.fixture(params=["at import", "in a function"])
def user_text(request: pytest.FixtureRequest) -> str:
    """A plugin that takes a name from the other one's module, early or late."""
    statement = "from together_base import WORD"
    return USER.format(
        imports=statement if request.param == "at import" else "", lazy=statement if request.param != "at import" else "pass"
    )


@pytest.fixture
def pm(tmp_path: Path, user_text: str) -> Iterator[bh.PluginManager]:
    """A host of both plugins at level none, the one depending on the other."""
    with bh.PluginManager("together") as manager:
        manager.add_hookspecs(Specs)
        manager.load("base", source=write(tmp_path / "base", "base", BASE.format(word="one")))
        manager.load("user", source=write(tmp_path / "user", "user", user_text, needs="base"))
        yield manager


def test_who_depends_on_a_plugin_is_reloaded_with_it(pm: bh.PluginManager, tmp_path: Path, user_text: str) -> None:
    """A reload of the base gives its user the new module as well, and both keep their state."""
    assert pm.hook.user_says() == ["one 1"]
    write(tmp_path / "base", "base", BASE.format(word="two"))
    report = pm.reload("base")
    assert report is not None
    assert [other.plugin for other in report.also] == ["user"]
    assert pm.hook.base_says() == ["two"]
    assert pm.hook.user_says() == ["two 2"]


def test_importing_is_depending(tmp_path: Path, user_text: str) -> None:
    """A plugin that imported another one's code goes along although its manifest does not name it."""
    with bh.PluginManager("together") as pm:
        pm.add_hookspecs(Specs)
        pm.load("base", source=write(tmp_path / "base", "base", BASE.format(word="one")))
        pm.load("user", source=write(tmp_path / "user", "user", user_text))
        pm.load(
            "other", source=write(tmp_path / "other", "other", USER.format(imports="WORD = 'own'", lazy="pass").replace("User", "Other"))
        )
        assert sorted(pm.hook.user_says()) == ["one 1", "own 1"]
        write(tmp_path / "base", "base", BASE.format(word="two"))
        report = pm.reload("base")
        assert report is not None
        assert [other.plugin for other in report.also] == ["user"]
        assert sorted(pm.hook.user_says()) == ["own 2", "two 2"]


@pytest.mark.parametrize("broken", ["raise RuntimeError('on purpose')", "from together_base import NOTHING"])
def test_one_that_fails_keeps_all_old(pm: bh.PluginManager, tmp_path: Path, user_text: str, broken: str) -> None:
    """When the dependant cannot be loaded on the new base, neither of them changes, and the error names it."""
    assert pm.hook.user_says() == ["one 1"]
    write(tmp_path / "base", "base", BASE.format(word="two"))
    write(tmp_path / "user", "user", f"{user_text}\n{broken}\n", needs="base")
    with pytest.raises(bh.SwapFailed) as caught:
        pm.reload("base")
    assert caught.value.phase == "load"
    assert any("user@1.0.0" in note for note in caught.value.__notes__)
    assert pm.hook.base_says() == ["one"]
    assert pm.hook.user_says() == ["one 2"]


def test_no_call_sees_a_mixture(pm: bh.PluginManager, tmp_path: Path, user_text: str, fast_switching: Any) -> None:
    """While both are reloaded again and again, a caller never finds the base newer than what its user sees."""
    seen: list[tuple[str, str]] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            [base] = pm.hook.base_says()
            [user] = pm.hook.user_says()
            seen.append((base, user.split()[0]))

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        for number in range(10):
            write(tmp_path / "base", "base", BASE.format(word=f"w{number}"))
            pm.reload("base")
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    order = ["one", *(f"w{number}" for number in range(10))]
    assert all(order.index(base) <= order.index(user) for base, user in seen)
    calls = len(seen)
    assert pm.hook.user_says() == [f"w9 {calls + 1}"]


@pytest.mark.parametrize("level", LEVELS)
def test_dependants_go_along_at_every_level(level: str, tmp_path: Path) -> None:
    """A plugin that only declares the dependency is started anew with it too, whatever the level."""
    text = USER.format(imports="WORD = 'own'", lazy="pass")
    with bh.PluginManager("together") as pm:
        pm.add_hookspecs(Specs)
        pm.load("base", source=write(tmp_path / "base", "base", BASE.format(word="one")), isolation=level)
        pm.load("user", source=write(tmp_path / "user", "user", text, needs="base"), isolation=level)
        assert pm.hook.user_says() == ["own 1"]
        generation = pm.plugin("user").generation
        write(tmp_path / "base", "base", BASE.format(word="two"))
        pm.reload("base")
        assert pm.hook.base_says() == ["two"]
        assert pm.hook.user_says() == ["own 2"]
        assert pm.plugin("user").generation != generation
        assert pm.plugin("user").isolation == level


@pytest.fixture
def failing_switch(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is to be done before a plugin's switch, by its name."""
    switch, before = Swap.switch, dict[str, Any]()

    def failing(swap: Swap) -> None:
        before.pop(swap.member.name, lambda: None)()
        switch(swap)

    monkeypatch.setattr(Swap, "switch", failing)
    return before


def both(pm: bh.PluginManager, tmp_path: Path) -> None:
    """Load both plugins at level process and write a new version of the base."""
    pm.add_hookspecs(Specs)
    pm.load("base", source=write(tmp_path / "base", "base", BASE.format(word="one")), isolation="process")
    user = USER.format(imports="WORD = 'own'", lazy="pass")
    pm.load("user", source=write(tmp_path / "user", "user", user, needs="base"), isolation="process")
    write(tmp_path / "base", "base", BASE.format(word="one") + "# a later version")


def death_then_failure(pm: bh.PluginManager, log: Log) -> Any:
    """Return what kills the base's old worker, waits until the host knows, and fails."""
    pid = pm.plugin("base").pid
    assert pid is not None

    def act() -> None:
        died = len(log.of("worker.died"))
        os.kill(pid, signal.SIGKILL)
        log.wait("worker.died", died + 1)
        raise RuntimeError("on purpose")

    return act


@pytest.mark.parametrize("intensity", [3, 0])
def test_what_dies_while_it_is_replaced_is_supervised_when_it_is_put_back(
    intensity: int, tmp_path: Path, failing_switch: dict[str, Any]
) -> None:
    """S-12: an old worker that dies between its switch and its being undone is restarted, or given up for all to see, as after any other death."""
    log = Log()
    with bh.PluginManager("together", config={"restart": {"intensity": intensity, "delay": 0.01, "max_delay": 0.02}}) as pm:
        pm.on_event(log)
        both(pm, tmp_path)
        failing_switch["user"] = death_then_failure(pm, log)
        with pytest.raises(bh.SwapFailed, match="on purpose"):
            pm.reload("base")
        base = pm.plugin("base")
        if intensity:
            log.wait("worker.restarted")
            assert eventually(lambda: base.phase == "running")
            assert (pm.hook.base_says(), pm.hook.user_says(), base.restarts) == (["one"], ["own 1"], 1)
        else:
            log.wait("plugin.broken")
            assert eventually(lambda: base.phase == "broken")
            with pytest.raises(bh.PluginBroken):
                pm.hook.base_says()
        report = pm.reload("base")
        assert report is not None
        assert (report.status, pm.hook.base_says(), base.phase) == ("swapped", ["one"], "running")


def test_a_broken_plugin_is_broken_when_it_is_put_back(tmp_path: Path, failing_switch: dict[str, Any]) -> None:
    """S-04: a swap that was undone does not say of a plugin that was given up that it runs."""
    log = Log()
    with bh.PluginManager("together", config={"restart": {"intensity": 0}}) as pm:
        pm.on_event(log)
        both(pm, tmp_path)
        pid = pm.plugin("base").pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        log.wait("plugin.broken")
        failing_switch["user"] = lambda: 1 / 0
        with pytest.raises(bh.SwapFailed, match="ZeroDivisionError"):
            pm.reload("base")
        assert pm.plugin("base").phase == "broken"
