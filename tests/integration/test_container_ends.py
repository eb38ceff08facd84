"""However a container ends, or its host, or its engine: nothing of it is left."""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.errors import IsolationUnavailable
from blackhole_core.executor.launch.child import LaunchSpec
from blackhole_core.executor.launch.oci import launcher as launcher_module
from blackhole_core.executor.launch.oci.engines import Engine
from blackhole_core.executor.launch.oci.launcher import ContainerLauncher
from blackhole_core.executor.launch.oci.place import containers_directory
from tests.integration.managed import manager, wheel
from tests.leaks import children_of
from tests.levels import require_level
from tests.plugins.build import NOTES_API
from tests.stage import Stage, eventually

_ROOT = Path(__file__).parents[2]
_CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(autouse=True)
def containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of this test's containers."""
    require_level("container")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return containers_directory(os.environ, os.geteuid())


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage(level="container")
    yield stage
    stage.close()


def _inside(pid: int) -> list[int]:
    """Return every process in the pid namespace of ``pid``, by its number here."""
    space = _space_of(Path(f"/proc/{pid}"))
    assert space not in ("", _space_of(Path("/proc/self")))
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and _space_of(path) == space]


def _space_of(process: Path) -> str:
    try:
        return str((process / "ns" / "pid").readlink())
    except OSError:
        return ""


def _all_gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def _left(containers: Path, host: int | None = None) -> dict[str, list[str]]:
    """Return what can be seen of the containers of ``host`` (this process): bundles, the engine's notes, control groups, mounts."""
    prefix = f"blackhole-{host or os.getpid()}-"
    groups = [
        f"{where}/{name}" for where, inside, _ in os.walk(_CGROUPS) for name in inside if re.fullmatch(f"{prefix}[a-z0-9_]{{8}}", name)
    ]
    names = [path.name for path in containers.glob("*/blackhole-*")]
    return {
        "bundles": names,
        "notes": [path.name for path in containers.glob("*/engine/*")],
        "groups": groups,
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines() if str(containers) in line],
    }


_NOTHING: dict[str, list[str]] = {"bundles": [], "notes": [], "groups": [], "mounts": []}

_HOST = """
import os, sys, threading
sys.path[:0] = {path!r}
from pathlib import Path
from tests.stage import Stage
stage = Stage(level="container")
plugin = stage.start("adhoc", path=Path({code!r}), entry="adhoc:Plugin")
plugin("raw", "escape()")
busy = {{"in a call": "time.sleep(100)", "with its lock held": "ctypes.PyDLL(None).sleep(100)"}}.get({busy!r})
if busy:
    threading.Thread(target=plugin, args=("raw", busy), daemon=True).start()
    while plugin.runner.drained(0):
        pass
print(plugin.pid, plugin.remote._traffic.worker.connection.child._inside.pid, flush=True)
threading.Event().wait(100)
"""

_PLUGIN = """
import ctypes, os, time

def escape():
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)

def leave_behind():
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            time.sleep(0.01)
        os._exit(0)
    os.waitpid(child, 0)

class Plugin:
    @hookimpl
    def raw(self, value):
        return eval(value, globals())
"""


@pytest.mark.parametrize("busy", ["idle", "in a call", "with its lock held"])
def test_the_host_is_killed(busy: str, tmp_path: Path, containers: Path) -> None:
    """F-16, F14: everything in the container ends, also what has left the worker's session; the engine removes the rest."""
    (tmp_path / "adhoc.py").write_text(f"from notes_api import hookimpl\n{_PLUGIN}")
    program = _HOST.format(path=[str(_ROOT), str(NOTES_API)], code=str(tmp_path), busy=busy)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        worker, engine = map(int, host.stdout.readline().split())
        inside = _inside(worker)
        assert len(inside) == 3  # process 1, the worker, and its child
        host.kill()
    assert eventually(lambda: _all_gone(inside))
    assert eventually(lambda: _all_gone([engine]), 20)
    left = _left(containers, host.pid)
    assert len(left.pop("bundles")) == 1
    assert not any(left.values())
    with Stage(level="container").closing() as stage:  # the next host finds the bundle
        stage.start("counter")
    assert _left(containers, host.pid) == _NOTHING


def test_host_and_engine_are_killed_at_once(tmp_path: Path, containers: Path) -> None:
    """Nobody is there to remove anything; what runs ends all the same, and the next host removes what is left."""
    (tmp_path / "adhoc.py").write_text(f"from notes_api import hookimpl\n{_PLUGIN}")
    program = _HOST.format(path=[str(_ROOT), str(NOTES_API)], code=str(tmp_path), busy="idle")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        worker, engine = map(int, host.stdout.readline().split())
        inside = _inside(worker)
        os.kill(engine, signal.SIGKILL)
        host.kill()
    assert eventually(lambda: _all_gone(inside))
    left = _left(containers, host.pid)
    assert left["notes"]
    assert left["groups"] or os.geteuid() != 0
    with Stage(level="container").closing() as stage:
        stage.start("counter")
    assert _left(containers, host.pid) == _NOTHING


def test_the_engine_is_killed(stage: Stage, containers: Path) -> None:
    """The plugin serves on, and when it stops everything is removed."""
    counter = stage.start("counter")
    engaged: Any = counter.remote._traffic.worker.connection.child._inside  # type: ignore[union-attr]  # there is one
    os.kill(engaged.pid, signal.SIGKILL)
    assert counter("add", 2) == 2
    counter.runner.stop()
    assert _left(containers) == _NOTHING


def test_process_1_is_killed(stage: Stage, containers: Path) -> None:
    """By somebody outside: the worker dies of it, and that is told."""
    counter = stage.start("counter")
    ends: list[Any] = []
    counter.remote.watch(ends.append)
    [first] = [pid for pid in _inside(counter.pid) if pid != counter.pid]
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: ends)
    assert ends[0].exit == -signal.SIGKILL
    assert _left(containers) == _NOTHING


def test_what_a_worker_leaves_behind_is_collected(stage: Stage, tmp_path: Path) -> None:
    """Processes whose parent has ended become children of process 1, and no zombies."""
    plugin = stage.start("adhoc", **stage.write(tmp_path / "code", _PLUGIN))
    for _ in range(3):
        plugin("raw", "leave_behind()")
    assert eventually(lambda: len(_inside(plugin.pid)) == 2)


def _held(tmp_path: Path) -> dict[str, int]:
    """Count what this process holds and has begun: descriptors by kind, sockets among them, children, and temporary files."""
    kinds = collections.Counter(re.sub(r"[\d()\[\]]+", "", os.path.basename(os.readlink(entry))) for entry in _descriptors())  # noqa: PTH115, PTH119 - as many as there are descriptors
    return {**kinds, "children": len(children_of()), "temporary": len(list((tmp_path / "temporary").rglob("*")))}


def _descriptors() -> list[str]:
    return [entry for number in os.listdir("/proc/self/fd") if os.path.lexists(entry := f"/proc/self/fd/{number}")]


def test_twenty_swaps_leave_nothing(tmp_path: Path, containers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers, processes, mounts, control groups, sockets and files are as many as before; the state is handed on each time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    wheels = [wheel("counter", version, tmp_path) for version in ("2.0.0", "1.0.0")]
    with manager() as pm:
        pm.load("counter", source=wheels[1], isolation="container")
        pm.hook.add(amount=1)
        for number in range(22):
            if number == 2:  # both versions lie unpacked in the store from here on
                before = _held(tmp_path)
            pm.swap("counter", source=wheels[number % 2])
            assert pm.hook.add(amount=1) == [number + 2]
        assert [len(left) for left in _left(containers).values()][:2] == [1, 1]
        assert eventually(lambda: _held(tmp_path) == before), (before, _held(tmp_path))
    assert _left(containers) == _NOTHING


def test_state_goes_from_a_process_into_a_container_and_back(tmp_path: Path) -> None:
    """Swaps across levels keep the state, and each says what it runs at."""
    one, two = (wheel("counter", version, tmp_path) for version in ("1.0.0", "2.0.0"))
    with manager() as pm:
        pm.load("counter", source=one, isolation="process")
        assert pm.hook.add(amount=3) == [3]
        assert pm.swap("counter", source=two, isolation="container").ok
        assert pm.plugin("counter").isolation is bh.Isolation.CONTAINER
        assert pm.hook.add(amount=4) == [7]
        assert pm.swap("counter", source=one, isolation="process").ok
        assert pm.hook.add(amount=5) == [12]


# --- engines that fail ---------------------------------------------------------------------------------------------------


def _engine(tmp_path: Path, script: str) -> Engine:
    program = tmp_path / "engine"
    program.write_text(f"#!/bin/sh\n{textwrap.dedent(script)}")
    program.chmod(0o700)
    return Engine("engine", str(program))


def _import_path() -> list[str]:
    return [str(Path(entry).absolute()) for entry in sys.path]


def test_what_an_engine_says_is_what_the_error_says(tmp_path: Path, containers: Path) -> None:
    """Without the time and the level; nothing is left."""
    engine = _engine(tmp_path, """echo 'time="2026-11-22T19:00:00Z" level=error msg="no room for a \\\\"container\\\\""' >&2; exit 1""")
    launcher = ContainerLauncher(engine)
    with contextlib.closing(launcher), pytest.raises(IsolationUnavailable, match='engine could not start one: no room for a "container"'):
        launcher.launch(LaunchSpec("x", _import_path()))
    assert _left(containers) == _NOTHING


def test_an_engine_that_hangs(tmp_path: Path, containers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended at the deadline, with what it started."""
    monkeypatch.setattr(launcher_module, "_UP_SECONDS", 0.2)
    launcher = ContainerLauncher(_engine(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid; wait"))
    with contextlib.closing(launcher), pytest.raises(IsolationUnavailable, match=r"did not come up within 0\.2 s"):
        launcher.launch(LaunchSpec("x", _import_path()))
    assert eventually(lambda: _all_gone([int((tmp_path / "pid").read_text())]))
    assert _left(containers) == _NOTHING


def test_a_program_that_is_no_engine(tmp_path: Path, containers: Path) -> None:
    """The system refuses to execute it."""
    launcher = ContainerLauncher(Engine("engine", str(tmp_path / "missing")))
    with contextlib.closing(launcher), pytest.raises(FileNotFoundError):
        launcher.launch(LaunchSpec("x", _import_path()))
    assert _left(containers) == _NOTHING


def test_a_closed_launcher_says_so() -> None:
    """It would keep what nobody would remove."""
    launcher = ContainerLauncher(Engine("runc", "runc"))
    launcher.close()
    with pytest.raises(RuntimeError, match="the launcher is closed"):
        launcher.launch(LaunchSpec("x", ()))
