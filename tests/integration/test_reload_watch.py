"""pm.watch on a real file system: a save is served, a bad one is shown and harmless, a deleted plugin is unloaded."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.events import Event

#: Seconds to wait for what must happen.
LONG = 30.0

hookspec = bh.HookspecMarker("watched")


class Specs:
    @hookspec
    def answer(self) -> object: ...


PLUGIN = """
import blackhole_core as bh
from p.a import V
hookimpl = bh.HookimplMarker("watched")
class Plugin:
    @hookimpl
    def answer(self): return V
"""


class Told:
    """The events of a manager, waited for by name."""

    def __init__(self, pm: bh.PluginManager) -> None:
        self._events: queue.Queue[Event] = queue.Queue()
        self.seen: list[str] = []
        pm.on_event(self._events.put)

    def next(self, *names: str) -> Event:
        """Return the next event of one of ``names``; those before it are noted in ``seen``."""
        while True:
            event = self._events.get(timeout=LONG)
            self.seen.append(event.name)
            if event.name in names:
                return event


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "plugin"
    (root / "p").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "p"\nversion = "1"\n[project.entry-points.watched]\np = "p:Plugin"\n')
    (root / "p" / "__init__.py").write_text(PLUGIN)
    (root / "p" / "a.py").write_text("V = 1\n")
    return root


@pytest.fixture
def manager() -> Iterator[bh.PluginManager]:
    with bh.PluginManager("watched") as pm:
        pm.add_hookspecs(Specs)
        yield pm


@pytest.fixture(params=["none", "thread", "process"])
def watched(
    request: pytest.FixtureRequest, manager: bh.PluginManager, root: Path, require_level: Callable[[str], object]
) -> tuple[bh.PluginManager, Told]:
    """A manager that watches the plugin at a level, and what it tells."""
    require_level(request.param)
    told = Told(manager)
    manager.load("p", source=root, isolation=request.param)
    assert manager.hook.answer() == [1]
    manager.watch("p")
    return manager, told


def test_a_save_is_served_and_a_bad_one_is_shown(watched: tuple[bh.PluginManager, Told], root: Path) -> None:
    """W-01, H-05: save, break, mend: each is one event with the files; the broken one has the file and line, and changes nothing."""
    pm, told = watched
    (root / "p" / "a.py").write_text("V = 2\n")
    assert told.next("reload.done", "reload.failed").data["files"] == ["a.py"]
    assert pm.hook.answer() == [2]
    (root / "p" / "a.py").write_text("V = (\n")
    failed = told.next("reload.done", "reload.failed")
    assert failed.name == "reload.failed"
    assert str(root / "p" / "a.py") in failed.data["error"]
    assert pm.hook.answer() == [2]
    (root / "p" / "a.py").write_text("V = 3\n")
    assert told.next("reload.done", "reload.failed").name == "reload.done"
    assert pm.hook.answer() == [3]


def test_deleting_the_directory_unloads_and_its_return_loads(watched: tuple[bh.PluginManager, Told], root: Path, tmp_path: Path) -> None:
    """The plugin is taken out when its directory is gone, without an error; put back, it runs again."""
    pm, told = watched
    shutil.copytree(root, tmp_path / "kept")
    shutil.rmtree(root)
    assert told.next("plugin.unloaded").plugin == "p"
    assert pm.hook.answer() == []
    assert pm.plugin("p").phase.value in ("stopped", "STOPPED")
    (tmp_path / "kept").rename(root)
    told.next("plugin.loaded")
    assert pm.hook.answer() == [1]
    assert "reload.failed" not in told.seen


def test_a_checkout_is_one_reload(manager: bh.PluginManager, root: Path) -> None:
    """W-01: git changes several modules that need each other, forth and back: each checkout is one reload, none fails."""

    def git(*arguments: str) -> None:
        options = ("-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "core.fsync=none", "-c", "gc.auto=0")
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        subprocess.run(["git", *options, *arguments], cwd=root, check=True, capture_output=True, env=environment)

    def write(v: int) -> None:
        for number in range(200):
            (root / "p" / f"m{number}.py").write_text(f"only_{v} = {v}\n")
        (root / "p" / "a.py").write_text("".join(f"from p.m{number} import only_{v}\n" for number in range(200)) + f"V = {v}\n")

    write(1)
    git("init", "-q", "-b", "one")
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    git("checkout", "-q", "-b", "two")
    write(2)
    git("commit", "-q", "-a", "-m", "two")
    told = Told(manager)
    manager.load("p", source=root)
    manager.watch("p")
    for branch, v in (("one", 1), ("two", 2), ("one", 1)):
        git("checkout", "-q", branch)
        report = told.next("reload.done", "reload.failed")
        assert (report.name, len(report.data["files"])) == ("reload.done", 201)
        assert manager.hook.answer() == [v]
    (root / "p" / "a.py").write_text("V = 9\n")
    assert told.next("reload.done", "reload.failed").data["files"] == ["a.py"]
    assert told.seen.count("reload.done") == 4


def test_noise_reloads_nothing(manager: bh.PluginManager, root: Path) -> None:
    """Bytecode, backups, swap files, a touch and a chmod are no reload; the next save is."""
    told = Told(manager)
    manager.load("p", source=root)
    manager.watch("p")
    (root / "p" / "__pycache__").mkdir(exist_ok=True)
    for name in ("__pycache__/a.cpython-311.pyc", "a.py~", ".a.py.swp", "#a.py#", "4913", "a.py.orig", "a.pyc", ".#a.py"):
        (root / "p" / name).write_text("noise")
    (root / "p" / "a.py").touch()
    (root / "p" / "a.py").chmod(0o600)
    (root / "p" / "a.py").write_text("V = 2\n")
    assert told.next("reload.done", "reload.failed").data["files"] == ["a.py"]
    assert told.seen.count("swap.done") == 1


STALE = """
import importlib, os, sys
from pathlib import Path
import blackhole_core as bh
hookspec = bh.HookspecMarker("watched")
class Specs:
    @hookspec
    def answer(self): ...
root = Path(sys.argv[1])
assert not sys.dont_write_bytecode
def save(v):
    (root / "p" / "a.py").write_text(f"V = {v}\\n")
    os.utime(root / "p" / "a.py", (1_700_000_000, 1_700_000_000))  # the same second, the same size
save(1)
sys.path.insert(0, str(root))
import p.a
save(2)
print("importlib.reload:", importlib.reload(p.a).V)
with bh.PluginManager("watched") as pm:
    pm.add_hookspecs(Specs)
    pm.load("p", source=root, isolation=sys.argv[2])
    for v in range(3, 9):
        save(v)
        pm.reload("p")
        assert pm.hook.answer() == [v], (v, pm.hook.answer())
print("all seen")
"""


@pytest.mark.parametrize("level", ["none", "process"])
def test_bytecode_never_serves_a_stale_edit(level: str, root: Path, tmp_path: Path, require_level: Callable[[str], object]) -> None:
    """With .pyc files being written, edits of one size in one second are all served, where importlib.reload serves none of them."""
    require_level(level)
    host = tmp_path / "host.py"
    host.write_text(textwrap.dedent(STALE))
    environment: dict[str, Any] = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, host, root, level], capture_output=True, text=True, env=environment, timeout=LONG, check=False
    )  # fmt: skip
    assert done.stdout == "importlib.reload: 1\nall seen\n", done.stderr


#: A plugin whose import takes its time: it tells that it has begun, and goes on when it is told to.
SLOW = """
import time
from pathlib import Path
import blackhole_core as bh
from p.a import V
with open(Path(__file__).parents[2] / "begun", "a") as begun:
    begun.write("x")
while not (Path(__file__).parents[2] / "go").exists():
    time.sleep(0.001)
from p.z import V as W
hookimpl = bh.HookimplMarker("watched")
class Plugin:
    @hookimpl
    def answer(self): return [V, W]
"""


@pytest.fixture
def slow(manager: bh.PluginManager, root: Path) -> Iterator[Told]:
    """What is told of a watched plugin of two modules; while it is imported, ``begun`` grows and the import waits for ``go``."""
    (root / "p" / "__init__.py").write_text(SLOW)
    (root / "p" / "z.py").write_text("V = 1\n")
    go = root.parent / "go"
    go.touch()
    told = Told(manager)
    manager.load("p", source=root, isolation="none")
    manager.watch("p")
    go.unlink()
    yield told
    go.touch()


def _wait_for_imports(root: Path, count: int) -> None:
    until = time.monotonic() + LONG
    while len((root.parent / "begun").read_text()) < count:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("second", ["V = 2\n", "V = 2\n1 / 0\n"])
def test_what_is_saved_while_it_is_loaded_is_served_with_the_rest(second: str, manager: bh.PluginManager, root: Path, slow: Told) -> None:
    """A file that is saved long after another, but before that one serves, is served with it: no call sees one without the other."""
    answers = []
    (root / "p" / "a.py").write_text("V = 2\n")
    _wait_for_imports(root, 2)
    answers.append(manager.hook.answer())
    (root / "p" / "z.py").write_text(second)
    (root.parent / "go").touch()
    if second != "V = 2\n":  # what fails is told when it stays as it is
        assert slow.next("reload.done", "reload.failed").name == "reload.failed"
        (root / "p" / "z.py").write_text("V = 2\n")
    told = slow.next("reload.done", "reload.failed")
    assert (told.name, told.data["files"]) == ("reload.done", ["a.py", "z.py"] if second == "V = 2\n" else ["z.py"])
    answers.append(manager.hook.answer())
    assert answers == [[[1, 1]], [[2, 2]]]
    assert slow.seen.count("swap.done") == 1
    if second == "V = 2\n":
        assert "swap.failed" not in slow.seen


def test_half_of_what_is_saved_may_fail_unsaid(manager: bh.PluginManager, root: Path, slow: Told) -> None:
    """A reload that fails because another file has just been saved is no news; the one that has both files serves."""
    (root / "p" / "z.py").write_text("from p.a import NEW\nV = NEW\n")
    _wait_for_imports(root, 2)
    (root / "p" / "a.py").write_text("NEW = 2\nV = 2\n")
    (root.parent / "go").touch()
    done = slow.next("reload.done", "reload.failed")
    assert (done.name, done.data.get("files"), manager.hook.answer()) == ("reload.done", ["a.py", "z.py"], [[2, 2]])


def test_a_plugin_that_writes_into_its_own_directory_is_served(manager: bh.PluginManager, root: Path) -> None:
    """Its files are never what they were when it was loaded; after some tries it is served all the same."""
    told = Told(manager)
    writes = "import time\nfrom pathlib import Path\nPath(__file__).with_name('words.txt').write_text(str(time.monotonic_ns()))\n"
    manager.load("p", source=root, isolation="none")
    manager.watch("p")
    (root / "p" / "a.py").write_text(writes + "V = 2\n")
    assert told.next("reload.done", "reload.failed").name == "reload.done"
    assert manager.hook.answer() == [2]
    (root / "p" / "a.py").write_text("V = 3\n")
    while manager.hook.answer() != [3]:
        assert told.next("reload.done", "reload.failed").name == "reload.done"
