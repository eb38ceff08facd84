"""A change set is loaded whole or not at all, at every level: S-04, H-05, and callers that never see a mixture."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import blackhole_core as bh
from blackhole_core.errors import LoadFailed, SwapFailed
from blackhole_core.events import Event
from tests.integration.managed import Callers, Log

#: Seconds for anything that must happen.
LONG = 20.0

LEVELS = ["none", "thread", "process"]

hookspec = bh.HookspecMarker("atomic")


class Specs:
    @hookspec
    def versions(self) -> list[int]: ...

    @hookspec
    def count(self) -> int: ...

    @hookspec(firstresult=True)
    def wait(self, started: str, go: str) -> list[int]: ...


PLUGIN = """
import time
from pathlib import Path
import blackhole_core as bh
from p import a, z
hookimpl = bh.HookimplMarker("atomic")
class Plugin:
    n = 0
    @hookimpl
    def versions(self):
        from p.a import V as lazily
        return [a.V, a.from_z(), z.V, z.from_a(), lazily]
    @hookimpl
    def count(self):
        self.n += 1
        return self.n
    @hookimpl
    def wait(self, started, go):
        Path(started).touch()
        while not Path(go).exists():
            time.sleep(0.002)
        from p.late import V
        return [a.V, z.V, V]
    @bh.hookimpl
    def plugin_export_state(self): return {"n": self.n}
    @bh.hookimpl
    def plugin_import_state(self, state): self.n = state["n"]
"""
STATELESS = PLUGIN[: PLUGIN.index("    @bh.hookimpl")]

#: Each module needs a name that only the same version of the other has.
A = "V = {v}\ndef from_z():\n    from p.z import only_{v}\n    return only_{v}\ndef a_only_{v}(): return {v}\n"
Z = "from p.a import a_only_{v}\nV = {v}\nonly_{v} = {v}\ndef from_a(): return a_only_{v}()\n"


def write_version(root: Path, v: int, order: str = "az") -> None:
    texts = {"a": A.format(v=v), "z": Z.format(v=v)}
    for name in order:
        (root / "p" / f"{name}.py").write_text(texts[name])
    (root / "p" / "late.py").write_text(f"V = {v}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "plugin"
    (root / "p").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "p"\nversion = "1"\n[project.entry-points.atomic]\np = "p:Plugin"\n')
    (root / "p" / "__init__.py").write_text(PLUGIN)
    write_version(root, 1)
    return root


@pytest.fixture
def manager() -> Iterator[bh.PluginManager]:
    with bh.PluginManager("atomic", config={"sandbox": "off"}) as pm:  # its plugin tells by files of the test where it is
        pm.add_hookspecs(Specs)
        yield pm


@pytest.fixture(params=LEVELS)
def loaded(
    request: pytest.FixtureRequest, manager: bh.PluginManager, root: Path, require_level: Callable[[str], object]
) -> bh.PluginManager:
    """The manager with version 1 running at a level, whose count stands at 2."""
    require_level(request.param)
    manager.load("p", source=root, isolation=request.param)
    assert [manager.hook.count(), manager.hook.count()] == [[1], [2]]
    return manager


BROKEN = {
    "syntax error": ("z.py", "V = 2\ndef from_a(:\n", "z.py:2"),
    "import error": ("z.py", "V = 2\nfrom p.a import not_there\n", "cannot import name 'not_there' from 'p.a'"),
    "missing import": ("z.py", "import no_module_of_that_name\n", "No module named 'no_module_of_that_name'"),
    "error at import": ("z.py", "V = 2\n1 / 0\n", "ZeroDivisionError: division by zero"),
    "the plugin's class is gone": ("__init__.py", "Other = 1\n", "'Plugin'"),
    "state refused": ("__init__.py", PLUGIN.replace('self.n = state["n"]', 'raise KeyError("n")'), "KeyError"),
    "start refused": ("__init__.py", PLUGIN + "    @bh.hookimpl\n    def plugin_start(self): raise OSError('no port')\n", "no port"),
    "no manifest any more": ("../pyproject.toml", "[project\n", "pyproject.toml"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_edit_that_fails_leaves_everything_as_it_was(kind: str, loaded: bh.PluginManager, root: Path) -> None:
    """S-04, H-05: the same object serves on with the same state, the error says where, and the next good save is taken."""
    file, text, message = BROKEN[kind]
    good = (root / "p" / file).read_text()
    served_by = loaded.get_plugin("p")
    generation = loaded.plugin("p").generation
    write_version(root, 2)  # all other files of the change set are fine
    (root / "p" / file).write_text(text)
    with pytest.raises((SwapFailed, LoadFailed)) as caught:
        loaded.reload("p")
    assert message in str(caught.value)
    assert loaded.get_plugin("p") is served_by
    assert loaded.plugin("p").generation == generation
    assert (loaded.hook.versions(), loaded.hook.count()) == ([[1, 1, 1, 1, 1]], [3])
    (root / "p" / file).write_text(good)
    write_version(root, 3)
    loaded.reload("p")
    assert (loaded.hook.versions(), loaded.hook.count()) == ([[3, 3, 3, 3, 3]], [4])


def test_the_traceback_of_a_failed_reload_is_the_plugins(loaded: bh.PluginManager, root: Path) -> None:
    """H-05: what a developer is shown has the file, the line and its text."""
    (root / "p" / "z.py").write_text("V = 2\nboom = 1 / 0  # here\n")
    with pytest.raises(SwapFailed) as caught:
        loaded.reload("p")
    shown = _shown(caught.value)
    assert f'File "{root / "p" / "z.py"}", line 2' in shown
    assert "boom = 1 / 0  # here" in shown


def _shown(error: BaseException) -> str:
    """Return what a developer is shown of a failure: its innermost cause with the traceback, and what all of them say."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    return "".join(traceback.format_exception(causes[-1])) + "".join(map(str, causes))


@pytest.mark.parametrize("order", ["az", "za"])
def test_callers_never_see_two_files_mixed(order: str, loaded: bh.PluginManager, root: Path) -> None:
    """Two files saved together, in either order, under four calling threads: every answer is of one version, none is lost."""
    answers: set[tuple[int, ...]] = set()
    wrong: list[object] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                found = loaded.hook.versions()
            except Exception as error:
                wrong.append(error)
                return
            if len(found) != 1 or len(set(found[0])) != 1:
                wrong.append(found)
            answers.add(tuple(found[0]))
            stop.wait(Callers.PAUSE)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        for v in range(2, 22):
            write_version(root, v, order)
            loaded.reload("p")
            assert set(loaded.hook.versions()[0]) == {v}
    finally:
        stop.set()
        for caller in callers:
            caller.join(LONG)
    assert wrong == []
    assert len(answers) > 1


def test_half_of_a_change_set_is_refused_until_the_other_half_is_there(loaded: bh.PluginManager, root: Path) -> None:
    """A reload between the two saves fails and changes nothing, whichever file came first; with both it is taken."""
    for name in ("a", "z"):
        (root / "p" / f"{name}.py").write_text({"a": A, "z": Z}[name].format(v=2))
        if name == "a":
            with pytest.raises(SwapFailed, match="cannot import name 'a_only_1' from 'p.a'"):
                loaded.reload("p")
            assert loaded.hook.versions() == [[1, 1, 1, 1, 1]]
    loaded.reload("p")
    assert loaded.hook.versions() == [[2, 2, 2, 2, 2]]


def test_a_call_under_way_ends_in_its_own_version(loaded: bh.PluginManager, manager: bh.PluginManager, root: Path, tmp_path: Path) -> None:
    """A call that began before the reload imports, after it, what nobody had imported before: its own version, though the file was replaced."""
    (root / "p" / "__init__.py").write_text(STATELESS)
    manager.reload("p")
    results: list[list[int]] = []
    started, go = tmp_path / "started", tmp_path / "go"
    caller = threading.Thread(target=lambda: results.append(manager.hook.wait(started=str(started), go=str(go))))
    caller.start()
    until = time.monotonic() + LONG
    while not started.exists() and time.monotonic() < until:
        time.sleep(0.002)
    try:
        write_version(root, 2)
        manager.reload("p")
        assert manager.hook.versions() == [[2, 2, 2, 2, 2]]
    finally:
        go.touch()
        caller.join(LONG)
    assert results == [[1, 1, 1]]


LATE = PLUGIN.replace("from p.a import V as lazily", "from p.late import V as lazily")


@pytest.fixture
def late(root: Path) -> Path:
    """The plugin's directory; it imports one module in a call, and has one that nobody imports and that cannot be."""
    (root / "p" / "never.py").write_text("raise RuntimeError('nobody asked for this')\n")
    (root / "p" / "__init__.py").write_text(LATE)
    return root


def test_an_error_in_a_module_that_is_imported_late_shows_at_the_reload(loaded: bh.PluginManager, late: Path) -> None:
    """What the old version had imported, however late, the new one imports before it serves; what nobody imported is left alone."""
    loaded.reload("p")
    assert loaded.hook.versions() == [[1, 1, 1, 1, 1]]
    write_version(late, 2)
    (late / "p" / "late.py").write_text("V = 2\nraise RuntimeError('late')\n")
    with pytest.raises(SwapFailed, match="RuntimeError: late") as caught:
        loaded.reload("p")
    assert f'File "{late / "p" / "late.py"}", line 2' in _shown(caught.value)
    assert loaded.hook.versions() == [[1, 1, 1, 1, 1]]
    (late / "p" / "late.py").write_text("V = 2\n")
    loaded.reload("p")
    assert loaded.hook.versions() == [[2, 2, 2, 2, 2]]


@pytest.mark.parametrize(("before", "after"), [("none", "process"), ("process", "thread")])
def test_late_imports_are_known_across_levels(before: str, after: str, manager: bh.PluginManager, late: Path) -> None:
    """A swap to another level imports what the old version had imported at its own."""
    manager.load("p", source=late, isolation=before)
    manager.hook.versions()
    (late / "p" / "late.py").write_text("raise RuntimeError('late')\n")
    with pytest.raises(SwapFailed, match="RuntimeError: late"):
        manager.swap("p", isolation=after)
    assert manager.plugin("p").isolation == before


def test_a_late_module_that_is_deleted_is_not_missed(loaded: bh.PluginManager, late: Path) -> None:
    """Only what still exists is imported again."""
    loaded.reload("p")
    loaded.hook.versions()
    write_version(late, 2)
    (late / "p" / "late.py").unlink()
    (late / "p" / "__init__.py").write_text(PLUGIN)
    loaded.reload("p")
    assert loaded.hook.versions() == [[2, 2, 2, 2, 2]]


def test_a_dead_worker_does_not_keep_a_reload_from_happening(root: Path, late: Path) -> None:
    """What a dead worker had imported is unknown: that is told, and the new version serves. A restart imports only what it needs."""
    told: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def next_of(name: str) -> Event:
        while (event := told.get(timeout=LONG)).name != name:
            pass
        return event

    with bh.PluginManager("atomic", config={"restart": {"intensity": 1}}) as pm:
        pm.add_hookspecs(Specs)
        pm.on_event(told.put)
        pm.load("p", source=late, isolation="process")
        pm.hook.versions()
        pm.reload("p")  # the same code: nothing happens
        (late / "p" / "a.py").write_text(A.format(v=1) + "\n")
        assert pm.reload("p")
        pm.hook.versions()
        (late / "p" / "late.py").write_text("raise RuntimeError('late')\n")
        os.kill(_pid(pm), signal.SIGKILL)
        next_of("worker.restarted")  # a late module that is broken now keeps nobody from serving
        assert pm.hook.count() == [1]
        os.kill(_pid(pm), signal.SIGKILL)
        next_of("plugin.broken")
        assert pm.reload("p")
        assert next_of("swap.imports_unknown").plugin == "p"
        assert pm.hook.count() == [1]


def test_what_serves_on_is_started_again_as_what_it_was(root: Path, late: Path) -> None:
    """An edit that could not be loaded is none of its business: it comes back from the text it was loaded from, modules that it had not imported yet included."""
    log = Log()
    with bh.PluginManager("atomic", config={"restart": {"delay": 0.0}}) as pm:
        pm.add_hookspecs(Specs)
        pm.on_event(log)
        pm.load("p", source=late, isolation="process")
        write_version(late, 2)
        (late / "p" / "a.py").write_text("V = (\n")
        with pytest.raises(SwapFailed):
            pm.reload("p")
        for deaths in (1, 2):
            os.kill(_pid(pm), signal.SIGKILL)
            log.wait("worker.restarted", deaths)
            assert pm.hook.versions() == [[1, 1, 1, 1, 1]]
            for file in (late / "p").glob("*.py"):
                file.unlink()


def _pid(pm: bh.PluginManager) -> int:
    pid = pm.plugin("p").pid
    assert pid is not None
    return pid
