"""The front door: pluggy's manager until more is asked of it, closed completely, loud when it is not."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from notes_api import NotesSpecs, hookimpl

import blackhole_core as bh
from blackhole_core.executor.lane import UNAVAILABLE
from tests.integration.managed import LEVELS, Log, manager, wheel
from tests.levels import require_level

ROOT = Path(__file__).parents[2]


def test_plain_use_starts_no_machinery() -> None:
    """Registering, calling and closing as with pluggy: no thread, no store, no directory, no part made."""
    threads = threading.active_count()
    with bh.PluginManager("notes") as pm:
        pm.add_hookspecs(NotesSpecs)

        class Plain:
            @hookimpl
            def transform(self, text: str) -> str:
                return text.upper()

        pm.register(Plain())
        assert pm.hook.transform(text="hi") == ["HI"]
        assert pm.plugins() == ()
        assert threading.active_count() == threads
        assert pm._parts is None


def test_plain_use_imports_no_machinery() -> None:
    """In a fresh interpreter: what isolates, stores and watches is not even imported."""
    program = (
        "import sys, blackhole_core as bh\n"
        "pm = bh.PluginManager('x')\npm.register(object(), name='p')\npm.close()\n"
        "print([m for m in sys.modules if m.startswith(('yaml', 'watchfiles', 'msgspec', 'rich', 'blackhole_core.lifecycle.swap'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("level", LEVELS)
def test_closing_ends_everything_and_can_be_repeated(level: str, tmp_path: Path) -> None:
    """Threads, processes and files are gone (the leak check looks); whatever needs the machinery says that it is closed."""
    log = Log()
    pm = bh.PluginManager("notes")
    pm.on_event(log)
    pm.add_hookspecs(NotesSpecs)
    pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
    pm.close()
    pm.close()
    assert [event.plugin for event in log.of("plugin.unloaded")] == ["counter"]
    assert pm.hook.total() == []
    assert pm.plugins() == ()
    for action in (lambda: pm.load("counter"), lambda: pm.plugin("counter"), lambda: pm.swap("counter"), lambda: pm.execute("counter")):
        with pytest.raises(RuntimeError, match="closed"):
            action()


def test_a_plugin_that_fails_to_stop_keeps_no_other_from_stopping(tmp_path: Path) -> None:
    """It is told as an event."""
    from tests.plugins.build import plugin_dir

    tree = plugin_dir("counter", "2.0.0", tmp_path)
    code = tree / "notes_counter" / "__init__.py"
    text = code.read_text("utf-8")
    stop = "    @bh.hookimpl\n    def plugin_stop(self):\n        raise SystemExit('will not')\n\n"
    code.write_text(text.replace("    @bh.hookimpl\n    def plugin_start", stop + "    @bh.hookimpl\n    def plugin_start", 1), "utf-8")
    log = Log()
    with manager(log=log) as pm:
        pm.load("counter", source=tree, isolation="none")
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="thread")
    assert "will not" in log.of("plugin.stop_failed")[0].data["error"]
    assert {event.plugin for event in log.of("plugin.unloaded")} == {"counter", "upper"}


def test_a_manager_that_was_not_closed_is_warned_about_when_it_is_collected(tmp_path: Path) -> None:
    """A leak is a ResourceWarning that names the project."""
    pm = bh.PluginManager("notes")
    pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="none")
    with pytest.warns(ResourceWarning, match="project 'notes' was not closed"):
        pm.__del__()
    pm.close()
    pm.__del__()  # says nothing: what is closed is not leaked
    del pm
    gc.collect()


UNCLOSED = """
import sys, warnings
import blackhole_core as bh
pm = bh.PluginManager("notes")
pm.load("upper", source=sys.argv[1], isolation=sys.argv[2])
"""


@pytest.mark.parametrize("level", [*LEVELS, "container"])
def test_a_host_that_ends_without_closing_is_closed_and_warned(level: str, tmp_path: Path) -> None:
    """The interpreter's end ends the workers too, orderly."""
    require_level(level)
    arguments = [sys.executable, "-W", "always", "-c", UNCLOSED, str(wheel("upper", "1.0.0", tmp_path)), level]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    assert "ResourceWarning" in done.stderr
    assert "was not closed" in done.stderr


@pytest.mark.parametrize("level", LEVELS)
def test_execute_answers_at_every_level(level: str, tmp_path: Path) -> None:
    """The seed's generic call: method, parameters and bytes go in, an answer comes out."""
    from tests.plugins.build import plugin_dir

    tree = plugin_dir("upper", "1.0.0", tmp_path)
    (tree / "notes_upper" / "__init__.py").write_text(
        "import blackhole_core as bh\n\n\nclass Upper:\n    @bh.hookimpl\n    def plugin_handle(self, request):\n"
        "        if request['method'] == 'fail':\n            raise ValueError('on purpose')\n"
        "        return {'method': request['method'], 'params': request['params'], 'data': request['data'][::-1]}\n",
        "utf-8",
    )
    with manager() as pm:
        pm.load("upper", source=tree, isolation=level)
        answer = pm.execute("upper", "reverse", params={"n": 1}, data=b"abc")
        assert answer == {"method": "reverse", "params": {"n": 1}, "data": b"cba"}
        with pytest.raises(ValueError, match="on purpose") as caught:
            pm.execute("upper", "fail")
        assert any("upper@1.0.0" in note for note in caught.value.__notes__)


def test_execute_says_who_does_not_answer(tmp_path: Path) -> None:
    """A plugin without ``plugin_handle``, one that does not run, and one that nobody knows."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        with pytest.raises(bh.PluginError, match="implements no plugin_handle"):
            pm.execute("upper")
        pm.unload("upper")
        with pytest.raises(bh.PluginError, match="is not running \\(phase stopped\\)"):
            pm.execute("upper")
        with pytest.raises(bh.UnknownPlugin, match="known: upper"):
            pm.execute("lower")


def test_a_handle_stays_right_across_swaps(tmp_path: Path) -> None:
    """It names the plugin, not a version; everything about it goes into JSON."""
    import json

    with manager() as pm:
        counter = pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        assert (str(counter.id), counter.generation, counter.isolation) == ("counter@1.0.0", 1, "process")
        assert counter.usage.memory is not None
        assert counter.usage.memory > 1_000_000
        assert counter.transport == ("shared memory" if UNAVAILABLE is None else "pipes")
        pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path), isolation="none")
        assert (str(counter.id), counter.generation, counter.isolation, counter.pid) == ("counter@2.0.0", 2, "none", None)
        assert counter.usage.memory is None
        assert counter.transport is None
        assert json.loads(json.dumps(counter.as_dict()))["version"] == "2.0.0"
        assert repr(counter) == "<Plugin counter@2.0.0 running at level none, generation 2>"
        pm.unload("counter")
        assert (counter.phase, counter.isolation) == (bh.Phase.STOPPED, None)


def test_a_listener_can_be_taken_off(tmp_path: Path) -> None:
    """It hears nothing any more; taking it off twice does nothing."""
    log = Log()
    with manager() as pm:
        unsubscribe = pm.on_event(log)
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        heard = len(log.events)
        assert heard
        unsubscribe()
        unsubscribe()
        pm.unload("upper")
        assert len(log.events) == heard


def test_parts_that_cannot_be_made_leave_nothing(tmp_path: Path) -> None:
    """A state directory that is a file: the error is the system's, and what was made before it is closed."""
    (tmp_path / "state").write_text("", "utf-8")
    pm = bh.PluginManager("notes", state_dir=tmp_path / "state")
    with pytest.raises((OSError, bh.BlackholeError)):
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
    pm.close()


def test_two_managers_do_not_know_each_other(tmp_path: Path) -> None:
    """The same plugin in two hosts of one process: two plugins, two states."""
    with manager() as one, manager() as other:
        for pm in (one, other):
            pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        assert (one.hook.add(amount=5), other.hook.add(amount=1)) == ([5], [1])
        one.close()
        assert other.hook.total() == [1]


def _events(log: Log) -> set[str]:
    return set(log.names)


def test_the_life_of_a_plugin_is_told(tmp_path: Path) -> None:
    """What a log of events shows of load, swap and unload."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path))
        pm.unload("upper")
    phases: list[Any] = [event.data["phase"] for event in log.of("plugin.phase")]
    assert phases[:3] == ["admitted", "starting", "running"]
    assert phases[-1] == "stopped"
    assert {"plugin.loaded", "swap.phase", "swap.done", "plugin.unloaded"} <= _events(log)
