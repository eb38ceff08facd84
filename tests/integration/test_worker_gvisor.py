"""Containers on gVisor's kernel, by ``runsc``: the tests of workers that make sense there, the walls, and that nothing outlives its host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackhole_core.errors import IsolationUnavailable, WorkerDied
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.launch.oci.choosing import container_missing
from blackhole_core.manifest.model import Container, Resources
from tests.integration.managed import PATIENCE, manager
from tests.integration.test_container_ends import _HOST, _NOTHING, _left, containers
from tests.integration.test_container_walls import _PLUGIN
from tests.integration.test_worker_death import Deaths, test_an_idle_worker_s_death_is_seen_by_itself
from tests.leaks import children_of
from tests.levels import require_program
from tests.plugins.build import NOTES_API, plugin_dir
from tests.stage import Stage, eventually

__all__ = [
    "containers",
    "test_an_idle_worker_s_death_is_seen_by_itself",
]

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _works() -> None:
    require_program("runsc", "BLACKHOLE_REQUIRE_RUNSC")
    reason = container_missing("runsc")
    if reason and not os.environ.get("BLACKHOLE_REQUIRE_RUNSC"):
        pytest.skip(reason)
    assert not reason


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage(level="container").closing() as stage:
        stage.container = Container(runtime="runsc")
        yield stage


def test_what_it_tries(stage: Stage, tmp_path: Path) -> None:
    """On a kernel that is not the host's; its own files it can read, and its directory it can write."""
    stage.confinement = Confinement(data=tmp_path / "data")
    plugin = stage.start("adhoc", **stage.write(tmp_path / "code", _PLUGIN))
    answers = {
        "os.uname().release == {release!r}": "did it: False",
        "open('{data}/own', 'w').write('x')": "did it: 1",
        "open('/tmp/own', 'w').write('x')": "did it: 1",
        "open('/etc/shadow')": "ENOENT",
        "os.listdir('/home')": "ENOENT",
        "open('/proc/{host}/environ')": "ENOENT",
        "open('/usr/owned', 'w')": "EROFS",
        "open('{code}', 'a')": "EROFS",
        "os.unlink('{code}')": "EROFS",
        "socket.socket(socket.AF_INET)": "EACCES",
        "socket.socket(socket.AF_UNIX)": "EACCES",
        "os.execv('/usr/lib', ['sh'])": "EACCES",
        "os.kill({host}, 0)": "ESRCH",
        "call('unshare', 0x10000000)": "EPERM",
        "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)": "EPERM",
        "os.chroot('/tmp')": "EPERM",
        "os.setuid(12345)": "EPERM",
        "call('ptrace', 16, 1, 0, 0)": "EPERM",
        "[line.split()[1] for line in open('/proc/self/status') if line[:3] == 'Cap']": f"did it: {['0' * 16] * 4}",
    }
    words = {"host": os.getpid(), "data": tmp_path / "data", "code": tmp_path / "code" / "adhoc.py", "release": os.uname().release}
    assert {attempt: plugin("raw", attempt.format(**words)) for attempt in answers} == answers
    assert plugin.remote.facts.walls_report.open == {}
    assert plugin.remote.facts.transport == "pipes"
    assert (tmp_path / "data" / "own").read_text() == "x"


def test_how_a_worker_ended_is_told(stage: Stage) -> None:
    """By its status or its signal, with its last words; and the next one comes up."""
    faulty = stage.start("faulty")
    deaths = Deaths(faulty)
    for number, (kind, status) in enumerate((("os_exit_3", 3), ("sigterm_self", -15), ("segfault", -11)), 1):
        with pytest.raises(WorkerDied) as caught:
            faulty("fail", kind)
        assert (caught.value.exit, deaths.wait(number).exit) == (status, status)
        deaths.bring_back()
    assert any("in segfault" in line for line in caught.value.tail)


@pytest.mark.parametrize(
    ("confinement", "named"),
    [
        (Confinement(requested=("network:connect:127.0.0.1:1",), granted=("network:connect:127.0.0.1:1",)), "network:connect:127.0.0.1:1"),
        (Confinement(requested=("process:exec:/bin/ls",), granted=("process:exec:/bin/ls",)), "process:exec:/bin/ls"),
        (Confinement(requested=("device:kvm",), granted=("device:kvm",)), "device:kvm"),
        (Confinement(resources=Resources(pids=5)), "the limit resources.pids"),
    ],
)
def test_what_cannot_be_given_there_is_refused(confinement: Confinement, named: str, stage: Stage) -> None:
    """With its name, and what to do; nothing is given half."""
    with pytest.raises(
        IsolationUnavailable, match=f"has {named}, for which there is no way into a container of runsc: set .*runtime: runc"
    ):
        stage.start("full", confinement=confinement)


def test_the_host_is_killed(tmp_path: Path, containers: Path) -> None:
    """F-16, F14: whatever the worker does, process 1 sees the end of the pipe to it, nothing runs on, and the next host removes what is left: the bundle, and the engine's notes where it was too slow for itself."""
    (tmp_path / "adhoc.py").write_text(f"from notes_api import hookimpl\n{_PLUGIN}\ndef escape(): pass\nimport time\n")
    program = _HOST.format(path=[str(_ROOT), str(NOTES_API)], code=str(tmp_path), busy="with its lock held")
    program = program.replace(
        "plugin = ", "from blackhole_core.manifest.model import Container\nstage.container = Container(runtime='runsc')\nplugin = "
    )
    program = program.replace("plugin.remote._traffic.worker.connection.child._inside.pid", "0")
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        engine = int(host.stdout.readline().split()[0])
        family = _family(engine)
        assert len(family) > 2  # the engine, the kernel, who opens files
        host.kill()
    assert eventually(lambda: not any(_runs(pid) for pid in family), PATIENCE)  # its kernel takes its time on a busy machine
    with Stage(level="container").closing() as stage:
        stage.start("counter")
    assert _left(containers, host.pid) == _NOTHING


def _family(pid: int) -> list[int]:
    """Return a process and all that come from it."""
    return [pid, *(one for child in children_of(pid) for one in _family(child))]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_is_swapped_with_its_state(tmp_path: Path, containers: Path) -> None:
    """From one to the next, and to level process; a limit on memory holds there, too; nothing is left."""
    settings = {"container": {"runtime": "runsc"}, "resources": {"memory": 512}, "isolation": "container"}
    with manager({"plugins": {"counter": settings}}) as pm:
        counter = pm.load("counter", source=plugin_dir("counter", "1.0.0", tmp_path / "1"))
        assert pm.hook.add(amount=1) == [1]
        assert counter.start == "container: runsc"
        assert counter.enforcement == {"resources.memory": "kernel"} or os.geteuid()
        pm.swap("counter", source=plugin_dir("counter", "2.0.0", tmp_path / "2"))
        assert pm.hook.add(amount=1) == [2]
        pm.swap("counter", source=plugin_dir("counter", "1.0.0", tmp_path / "3"), isolation="process")
        assert pm.hook.add(amount=1) == [3]
    assert _left(containers) == _NOTHING
