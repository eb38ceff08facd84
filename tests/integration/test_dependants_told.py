"""F33: what plugins that depend on one another learn of each other's deaths."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.lifecycle import dependencies
from blackhole_core.lifecycle.supervisor import Supervisor
from tests.integration.managed import LEVELS, Log, manager, released
from tests.stage import eventually

_PLUGIN = """
import blackhole_core as bh
from notes_api import hang
hookimpl = bh.HookimplMarker("notes")
class Plugin:
    def __init__(self):
        self.told = []
    @hookimpl
    def transform(self, text: str) -> str:
        return f"NAME {{' '.join(self.told)}}"
    @bh.hookimpl
    def plugin_dependency_changed(self, name, phase):
        self.told.append(f"{{name}}:{{phase}}")
        {act}
"""


def _write(directory: Path, name: str, needs: tuple[str, ...] = (), *, act: str = "") -> Path:
    home = directory / name
    home.mkdir()
    (home / f"p_{name}.py").write_text(_PLUGIN.format(act=act or "pass").replace("NAME", name), "utf-8")
    dependencies = ", ".join(f"{{name: {other}}}" for other in needs)
    (home / "plugin.yaml").write_text(f"name: {name}\nversion: 1.0.0\nentry: p_{name}:Plugin\ndependencies: [{dependencies}]\n", "utf-8")
    return home


def _kill(pm: bh.PluginManager, name: str) -> None:
    pid = pm.plugin(name).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("level", LEVELS)
def test_down_and_back(level: str, tmp_path: Path) -> None:
    """Both who needs it and who needs that one, at every level, in the order of dependence; a stranger is not told."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("base", source=_write(tmp_path, "base"), isolation="process")
        pm.load("middle", source=_write(tmp_path, "middle", ("base",)), isolation=level)
        pm.load("top", source=_write(tmp_path, "top", ("middle",)), isolation=level)
        pm.load("other", source=_write(tmp_path, "other"), isolation=level)
        _kill(pm, "base")
        down, back = (log.wait("plugin.dependency_changed", number).data for number in (1, 2))
        assert down == {"change": "down", "dependants": ["middle", "top"]}
        assert back == {"change": "back", "dependants": ["middle", "top"]}
        assert _eventually_told(pm, {"middle base:down base:back", "top base:down base:back", "other ", "base "})


def _answers(pm: bh.PluginManager) -> set[str]:
    return set(pm.hook.transform(text=""))


def _eventually_told(pm: bh.PluginManager, wanted: set[str]) -> bool:
    return eventually(lambda: _answers(pm) == wanted)


def test_given_up_and_replaced(tmp_path: Path) -> None:
    """``broken`` after ``down``; a reload brings it back. An ordinary swap is no news."""
    log = Log()
    with manager({"restart": {"intensity": 0}}, log=log) as pm:
        pm.load("base", source=_write(tmp_path, "base"), isolation="process")
        pm.load("top", source=_write(tmp_path, "top", ("base",)), isolation="thread")
        _kill(pm, "base")
        log.wait("plugin.dependency_changed", 2)
        pm.swap("base", source=_replacement(tmp_path, "again"))
        log.wait("plugin.dependency_changed", 3)
        assert _eventually_told(pm, {"base ", "top base:down base:broken base:back"})
        pm.swap("base", source=_replacement(tmp_path, "once more"))
        assert [event.data["change"] for event in log.of("plugin.dependency_changed")] == ["down", "broken", "back"]


def _replacement(tmp_path: Path, why: str) -> Path:
    directory = tmp_path / why
    directory.mkdir()
    home = _write(directory, "base")
    (home / "p_base.py").write_text((home / "p_base.py").read_text("utf-8") + f"\n# {why}\n", "utf-8")
    return home


def test_one_that_fails_at_it_keeps_no_other_from_knowing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it raises, or that it hangs, is an event; who comes after it is told, and the restart waits for nobody."""
    monkeypatch.setattr(dependencies, "TOLD_SECONDS", 1.0)  # in which the angry one answers
    log = Log()
    with manager({"hang_grace": 0.1, "stop_grace": 0.5}, log=log) as pm, released():
        pm.load("base", source=_write(tmp_path, "base"), isolation="process")
        pm.load("angry", source=_write(tmp_path, "angry", ("base",), act="raise ValueError('no')"), isolation="process")
        pm.load("hung", source=_write(tmp_path, "hung", ("base",), act="hang()"), isolation="thread")
        pm.load("well", source=_write(tmp_path, "well", ("hung", "angry")), isolation="none")
        _kill(pm, "base")
        log.wait("worker.restarted")
        log.wait("plugin.dependency_untold", 2)
        untold = {event.plugin: event.data["error"] for event in log.of("plugin.dependency_untold")[:2]}
        assert untold["angry"] == "ValueError: no"
        assert untold["hung"].startswith("CallTimeout:")
        well: Any = pm.get_plugin("well")
        assert eventually(lambda: well.told == ["base:down", "base:back"])


def test_nobody_depends_on_it_and_nobody_is_told(tmp_path: Path) -> None:
    """No event, no thread."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("base", source=_write(tmp_path, "base"), isolation="process")
        _kill(pm, "base")
        log.wait("worker.restarted")
        assert log.of("plugin.dependency_changed") == []


def test_one_that_dies_again_before_its_restart_is_told_is_not_said_to_be_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was given up meanwhile: that is the last word, to its dependants and in its phase."""
    log, told = Log(), threading.Event()
    restarted = Supervisor._restarted

    def late(supervisor: Supervisor, *restart: Any) -> None:
        _kill(pm, "base")
        log.wait("plugin.broken")
        log.wait("plugin.dependency_changed", 2)
        restarted(supervisor, *restart)
        told.set()

    monkeypatch.setattr(Supervisor, "_restarted", late)
    with manager({"restart": {"intensity": 1}}, log=log) as pm:
        pm.load("base", source=_write(tmp_path, "base"), isolation="process")
        pm.load("top", source=_write(tmp_path, "top", ("base",)), isolation="thread")
        _kill(pm, "base")
        assert told.wait(30)
        assert [event.data["change"] for event in log.of("plugin.dependency_changed")] == ["down", "broken"]
        assert pm.plugin("base").phase is bh.Phase.BROKEN
