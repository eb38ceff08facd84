"""W-01 through the whole: save a file, and the new code answers, with the state it had."""

from __future__ import annotations

import ast
import shutil
import threading
import time
from pathlib import Path

import pytest

import blackhole_core as bh
from tests.integration.managed import Callers, Log, manager, running_functions, wheel
from tests.plugins.build import plugin_dir

LEVELS = ("none", "process")


def _code(tree: Path) -> Path:
    return tree / "notes_counter" / "__init__.py"


def _save(path: Path, old: str, new: str) -> None:
    """Edit a file as an editor does: the whole of it, renamed into place."""
    text = path.read_text("utf-8")
    assert old in text
    beside = path.with_name(f".{path.name}.swp")
    beside.write_text(text.replace(old, new), "utf-8")
    beside.rename(path)


@pytest.mark.parametrize("level", LEVELS)
def test_a_saved_file_answers_and_a_broken_one_does_not(level: str, tmp_path: Path) -> None:
    """W-01: state is kept; a broken save keeps the old code and names file and line; the next good save recovers."""
    log = Log()
    tree = plugin_dir("counter", "1.0.0", tmp_path)
    with manager(log=log) as pm:
        pm.load("counter", source=tree, isolation=level)
        pm.hook.add(amount=5)
        pm.watch("counter")
        with Callers(2, lambda: pm.hook.version()) as callers:
            _save(_code(tree), 'return "1.0.0"', 'return "edited"')
            done = log.wait("reload.done")
            assert (pm.hook.version(), pm.hook.total()) == (["edited"], [5])
            assert any(name.endswith("__init__.py") for name in done.data["files"])

            text = _code(tree).read_text("utf-8")
            _save(_code(tree), 'return "edited"', 'return "edited" + 1 1')
            failed = log.wait("reload.failed")
            line = 1 + text[: text.index('return "edited"')].count("\n")
            assert f"__init__.py:{line}" in failed.data["error"] or f'__init__.py", line {line}' in failed.data["traceback"]
            assert (pm.hook.version(), pm.hook.total()) == (["edited"], [5])

            _save(_code(tree), 'return "edited" + 1 1', 'return "mended"')
            log.wait("reload.done", 2)
        assert callers.failures == []
        assert {answer for [answer] in callers.answers} <= {"1.0.0", "edited", "mended"}
        assert (pm.hook.version(), pm.hook.total()) == (["mended"], [5])


@pytest.mark.parametrize("level", LEVELS)
def test_code_that_raises_at_import_is_shown_where_it_raises(level: str, tmp_path: Path) -> None:
    """The traceback of the event ends in the author's own line, from a worker as well."""
    log = Log()
    tree = plugin_dir("counter", "1.0.0", tmp_path)
    with manager(log=log) as pm:
        pm.load("counter", source=tree, isolation=level)
        pm.watch("counter")
        _save(_code(tree), "class Counter:", "undefined_name\n\n\nclass Counter:")
        failed = log.wait("reload.failed")
        assert "undefined_name" in failed.data["error"]
        line = 1 + _code(tree).read_text("utf-8").partition("undefined_name")[0].count("\n")
        told = failed.data["traceback"]
        assert f'__init__.py", line {line}' in told
        assert pm.hook.version() == ["1.0.0"]


def _versions_of_code(answer: str) -> set[str]:
    """Return the versions that the modules of modplug say they are. Its data files are read anew at each call: they are as new as the disk."""
    if not answer.startswith("{"):
        return {answer}
    return {version for part, version in ast.literal_eval(answer).items() if not part.startswith("data_")}


def test_files_that_belong_together_are_never_mixed(tmp_path: Path) -> None:
    """Two files saved at once: every answer is of one version of both."""
    log = Log()
    tree = plugin_dir("modplug", "1.0.0", tmp_path)
    package = tree / "notes_modplug"
    with manager(log=log) as pm:
        pm.load("modplug", source=tree, isolation="none")
        pm.watch("modplug")
        with Callers(2, lambda: pm.hook.version()) as callers:
            for path in sorted(package.rglob("*")):
                if path.is_file() and "1.0.0" in path.read_text("utf-8"):
                    path.write_text(path.read_text("utf-8").replace("1.0.0", "7.0.0"), "utf-8")
            log.until(lambda: pm.hook.version() == ["7.0.0"])
        assert callers.failures == []
        for [answer] in callers.answers:
            assert len(_versions_of_code(answer)) == 1, answer


def test_a_directory_that_is_deleted_is_unloaded_and_comes_back(tmp_path: Path) -> None:
    """What is gone does not answer; when it is there again it is loaded."""
    log = Log()
    tree = plugin_dir("counter", "1.0.0", tmp_path)
    away = tmp_path / "away"
    with manager(log=log) as pm:
        pm.load("counter", source=tree, isolation="none")
        pm.watch("counter")
        tree.rename(away)
        log.wait("reload.source_gone")
        log.wait("plugin.unloaded")
        assert pm.plugin("counter").phase is bh.Phase.STOPPED
        assert pm.hook.version() == []
        shutil.copytree(away, tree)
        log.wait("plugin.loaded", 2)
        assert pm.hook.version() == ["1.0.0"]


def test_a_reload_waits_for_a_swap_by_hand(tmp_path: Path) -> None:
    """A save during another operation is not forgotten."""
    log = Log()
    tree = plugin_dir("counter", "1.0.0", tmp_path)
    hold, inside = threading.Event(), threading.Event()

    def slow_listener(event: bh.Event) -> None:
        if event.name == "swap.phase" and event.data["phase"] == "load" and not inside.is_set():
            inside.set()
            hold.wait(20)

    with manager(log=log) as pm:
        pm.load("counter", source=tree, isolation="none")
        pm.on_event(slow_listener)
        pm.watch("counter")
        swap = threading.Thread(target=lambda: pm.swap("counter", isolation="thread"))
        swap.start()
        assert inside.wait(20)
        _save(_code(tree), 'return "1.0.0"', 'return "edited"')
        deadline = time.monotonic() + 20
        while "claim" not in running_functions():  # where the reload waits for its turn
            assert time.monotonic() < deadline
            assert log.of("reload.failed") == []
            time.sleep(0.001)
        hold.set()
        swap.join(20)
        log.until(lambda: pm.hook.version() == ["edited"])
        assert pm.plugin("counter").isolation == "thread"
        assert log.of("reload.failed") == []


def test_a_wheel_is_not_watched(tmp_path: Path) -> None:
    """By name that is an error that says why; among all plugins it is passed over."""
    tree = plugin_dir("counter", "1.0.0", tmp_path)
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        with pytest.raises(ValueError, match="does not change"):
            pm.watch("upper")
        pm.load("counter", source=tree, isolation="none")
        pm.watch()
        with pytest.raises(bh.UnknownPlugin):
            pm.watch("unheard-of")
