"""A worker behind walls is several processes: the host sees one, which ends as it ends, and with which everything inside ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import notes_api
import pytest

from blackhole_core.errors import WorkerDied
from blackhole_core.executor.confinement import Confinement, Sandbox
from tests.bubbles import require_bubblewrap
from tests.plugins.build import NOTES_API
from tests.stage import Running, Stage, eventually

_ROOT = Path(__file__).parents[2]


class _Walled(Stage):
    """A stage whose plugins have walls, begun by ``sandbox``."""

    def __init__(self, sandbox: Sandbox, *, zygote: bool) -> None:
        super().__init__(zygote=zygote)
        self.sandbox = sandbox
        self.confinement = Confinement(sandbox=sandbox)


_WAYS = {"zygote": (Sandbox.NATIVE, True), "exec": (Sandbox.NATIVE, False), "bubblewrap": (Sandbox.BUBBLEWRAP, True)}
_native = pytest.mark.parametrize("stage", ["zygote", "exec"], indirect=True)


@pytest.fixture(params=_WAYS)
def stage(request: pytest.FixtureRequest) -> Iterator[_Walled]:
    sandbox, zygote = _WAYS[request.param]
    if sandbox is Sandbox.BUBBLEWRAP:
        require_bubblewrap()
    stage = _Walled(sandbox, zygote=zygote)
    yield stage
    notes_api.release.set()
    stage.close()
    notes_api.release.clear()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or while it was read
        return False


def _inside(plugin: Running) -> list[int]:
    """Return the process ids, as the host has them, of all that are in the worker's pid namespace."""
    space = _space(plugin.pid)
    return [pid for pid in _all_processes() if _space(pid) == space]


def _all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _space(pid: int) -> str:
    """Return the name of the pid namespace of a process, empty when it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115 - the target is text
    except OSError:
        return ""


def _keeper(plugin: Running) -> int:
    """Return the process that started process 1 of the worker's pid namespace, and ends with it: the worker's own, or ``bwrap``."""
    return int(Path(f"/proc/{min(_inside(plugin))}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("os_exit_0", 0),
        ("os_exit_3", 3),
        ("segfault", -signal.SIGSEGV),
        ("abort", -signal.SIGABRT),
        ("sigkill_self", -9),
        ("sigterm_self", -15),
    ],
)
def test_it_ends_as_its_worker_ends(kind: str, status: int, stage: Stage) -> None:
    """F-30: the exit status, or the signal, is the worker's own; nothing of it is left."""
    plugin = stage.start("faulty")
    processes = [_keeper(plugin), *_inside(plugin)]
    assert len(processes) == 3
    with pytest.raises(WorkerDied) as caught:
        plugin("fail", kind)
    assert caught.value.exit == status
    assert eventually(lambda: not any(map(_is_alive, processes)))
    if kind == "segfault":
        assert any("Segmentation fault" in line for line in caught.value.stack)


def test_a_grandchild_in_a_session_of_its_own(stage: Stage) -> None:
    """F-22: what left the process group, and blocks every signal, ends with the worker all the same."""
    plugin = stage.start("prober")
    assert plugin("pick", "setsid") == "alive"
    inside = _inside(plugin)
    assert len(inside) == 3  # the first process, the worker, and it
    plugin.runner.stop()
    assert not any(map(_is_alive, inside))


@pytest.mark.parametrize("victim", ["keeper", "first", "worker"])
def test_whichever_is_killed(victim: str, stage: Stage) -> None:
    """All of them end when one is killed, and the host is told."""
    plugin = stage.start("prober")
    assert plugin("pick", "setsid") == "alive"
    inside = _inside(plugin)
    keeper, first = _keeper(plugin), min(inside)
    ends: list[int | None] = []
    plugin.remote.watch(lambda ended: ends.append(ended.exit))
    os.kill({"keeper": keeper, "first": first, "worker": plugin.pid}[victim], signal.SIGKILL)
    assert eventually(lambda: not any(map(_is_alive, [keeper, *inside])))
    assert eventually(lambda: ends == [-signal.SIGKILL])


def test_signals_of_the_host_reach_the_worker(stage: Stage) -> None:
    """SIGTERM ends a worker that does not end by itself: no keeper is in the way."""
    plugin = stage.start("faulty", stop_grace=1.0)
    ends: list[int | None] = []
    plugin.remote.watch(lambda ended: ends.append(ended.exit))
    worker = plugin.remote._traffic.worker
    assert worker is not None
    worker.connection.child.signal(signal.SIGTERM)
    assert eventually(lambda: ends == [-signal.SIGTERM])


@_native
def test_what_keeper_and_first_process_hold(stage: Stage) -> None:
    """They hold no descriptor, so no pipe stays open for them, and little memory of their own."""
    plugin = stage.start("full")
    for pid in (_keeper(plugin), min(_inside(plugin))):
        assert os.listdir(f"/proc/{pid}/fd") == []
        own = [line.split()[1] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Private_Dirty")]
        assert int(own[0]) < 8 * 1024  # KiB


_HOST = """
import sys, os, time
sys.path[:0] = {paths!r}
from tests.stage import Stage
from blackhole_core.executor.confinement import Confinement, Sandbox
stage = Stage(zygote={zygote})
plugin = stage.start("prober", confinement=Confinement(sandbox=Sandbox("{sandbox}")))
assert plugin("pick", "setsid") == "alive"
print(os.readlink(f"/proc/{{plugin.pid}}/ns/pid"), flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("way", _WAYS)
def test_a_killed_host_leaves_nothing(way: str) -> None:
    """H-30: SIGKILL of the host ends keeper, first process, worker and grandchild."""
    sandbox, zygote = _WAYS[way]
    if sandbox is Sandbox.BUBBLEWRAP:
        require_bubblewrap()
    program = _HOST.format(paths=[str(_ROOT), str(NOTES_API)], zygote=zygote, sandbox=sandbox)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        space = host.stdout.readline().strip()
        inside = [pid for pid in _all_processes() if _space(pid) == space]
        assert len(inside) == 3
        keeper = int(Path(f"/proc/{min(inside)}/stat").read_text().rpartition(")")[2].split()[1])
        host.kill()
    assert eventually(lambda: not any(map(_is_alive, [keeper, *inside])))


@_native
def test_a_grandchild_without_namespaces(tmp_path: Path, each_layer_missing: Callable[[str], None], stage: Stage) -> None:
    """Where there is no pid namespace nobody can leave the process group, which ends as a whole."""
    each_layer_missing("namespace")
    plugin = stage.start("prober")
    worker = plugin.remote._traffic.worker
    assert worker is not None
    assert plugin.remote.pid == worker.connection.child.pid
    said = plugin("pick", "setsid")
    assert said == "EPERM alive"
    group = os.getpgid(plugin.pid)
    members = [pid for pid in _all_processes() if _group(pid) == group]
    assert len(members) == 2
    plugin.runner.stop()
    assert eventually(lambda: not any(map(_is_alive, members)))


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


@pytest.fixture
def each_layer_missing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that has the host ask for no layer with that word in its name."""

    def leave_out(word: str) -> None:
        from blackhole_core.executor.sandbox import probe, walls

        report = probe.what_holds(tuple(sys.path))
        kept = {name: reason for name, reason in report.layers.items() if word not in name}
        monkeypatch.setattr(walls, "what_holds", lambda import_path: probe.WallReport(kept, {}))

    return leave_out
