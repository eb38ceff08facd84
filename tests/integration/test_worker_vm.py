"""Workers in virtual machines: what a guest can see, how it ends, and what stays the same.

A boot takes five seconds where QEMU emulates the processor, so one guest answers as many questions as it can.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.errors import CallTimeout, LoadFailed, WorkerDied
from blackhole_core.executor.confinement import Confinement
from blackhole_core.manifest.model import Resources
from tests.integration.managed import manager
from tests.levels import require_level
from tests.plugins.build import HERE
from tests.stage import Running, Stage, eventually

#: Seconds for a boot on a machine that does other things meanwhile.
PATIENCE = 110.0

#: Seconds for one test, which may boot two guests.
pytestmark = pytest.mark.timeout(300)

_CURIOUS = """
import os, signal, socket, subprocess, sys, time
class Plugin:
    kept = []
    @hookimpl
    def raw(self, value):
        kind, *rest = value
        return getattr(self, "do_" + kind)(*rest)
    def do_user(self): return os.getresuid() + os.getresgid() + tuple(os.getgroups())
    def do_write(self, path):
        try:
            open(path, "w").close()
        except OSError as error:
            return error.strerror
        return "written"
    def do_exists(self, path): return os.path.exists(path)
    def do_interfaces(self): return [name for _, name in socket.if_nameindex()]
    def do_connect(self, host, port):
        try:
            socket.create_connection((host, port), 5).close()
        except OSError as error:
            return error.strerror
        return "connected"
    def do_file(self): return __file__
    def do_variables(self): return dict(os.environ)
    def do_shell(self, line): return subprocess.run(line, shell=True, capture_output=True, text=True).stdout
    def do_processes(self):
        children = []
        try:
            for _ in range(200):
                children.append(subprocess.Popen(["/bin/sleep", "60"]) if os.path.exists("/bin/sleep") else subprocess.Popen(["/bin/sh", "-c", "read x"], stdin=subprocess.PIPE))
        except OSError as error:
            return error.strerror
        finally:
            for child in children:
                child.kill()
                child.wait()
        return "200"
    def do_print(self, count):
        for number in range(count):
            print(f"line {number}")
        return count
    def do_hang(self): time.sleep(600)
    def do_exit(self, status): os._exit(status)
    def do_signal(self, number): os.kill(os.getpid(), number)
    def do_eat(self):
        while True:
            self.kept.append(bytearray(os.urandom(4096)) * 256)
    def do_garbage(self):
        os.write(4, b"\\xff" * 4096)
        time.sleep(60)
    def do_claim(self): return (os.path.exists("/dev/vda"), os.access("/dev/vda", os.R_OK))
"""


@pytest.fixture
def guests(stage: Stage) -> Stage:
    require_level("vm")
    return stage


def _start(stage: Stage, directory: Path, **options: Any) -> Running:
    return stage.start("adhoc", "vm", **{"start_timeout": PATIENCE, "stop_grace": 5.0, **stage.write(directory, _CURIOUS), **options})


def _ask(plugin: Running, *value: Any) -> Any:
    return plugin("raw", value)


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_guest_sees_nothing_of_its_host(guests: Stage, tmp_path: Path, listener: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no variable, no process, no network of the host, no right to what it has, and yet its own code at its own path; what it prints is logged."""
    monkeypatch.setenv("HOST_SECRET", "x")
    (tmp_path / "host.txt").write_text("secret")
    plugin = _start(guests, tmp_path)
    assert plugin.remote.facts.transport == "virtio-serial"
    assert str(plugin.remote.facts.start_way).startswith("vm: ")
    assert _ask(plugin, "file") == str(tmp_path / "adhoc.py")
    assert set(_ask(plugin, "user")) == {65534}
    for path in (tmp_path / "host.txt", "/etc/shadow", "/root/.ssh", "/var/lib"):
        assert not _ask(plugin, "exists", str(path))
    assert _ask(plugin, "write", str(tmp_path / "adhoc.py")) == "Permission denied"
    assert _ask(plugin, "write", "/new") == "Read-only file system"
    assert _ask(plugin, "write", "/tmp/new") == "written"
    assert _ask(plugin, "claim") == (True, False)
    assert _ask(plugin, "interfaces") == ["lo"]
    assert _ask(plugin, "connect", "127.0.0.1", listener) == "Connection refused"
    assert _ask(plugin, "connect", "192.0.2.1", 80) == "Network is unreachable"
    assert "HOST_SECRET" not in _ask(plugin, "variables")
    assert _ask(plugin, "shell", "echo $((6*7))") == "42\n"
    assert _ask(plugin, "print", 5000) == 5000
    # a stop is orderly: the worker ends, then the guest powers off, then QEMU ends
    pid = plugin.pid
    plugin.runner.stop()
    assert not Path(f"/proc/{pid}").exists()


def test_a_guest_that_speaks_another_protocol_is_cut_off(guests: Stage, tmp_path: Path) -> None:
    """A68: whatever comes over the serial port, the same frame rules hold as at level process."""
    plugin = _start(guests, tmp_path)
    with pytest.raises(WorkerDied) as caught:
        _ask(plugin, "garbage")
    assert any("broke the protocol" in note for note in caught.value.__notes__)


def test_a_hang_a_death_and_an_exit_are_told_as_at_level_process(guests: Stage, tmp_path: Path) -> None:
    """The status that the worker ended with reaches the caller, though it was QEMU that ended; the next guest comes up."""
    plugin = _start(guests, tmp_path)
    with pytest.raises(WorkerDied) as caught:
        _ask(plugin, "exit", 7)
    assert caught.value.exit == 7
    plugin.remote.restart(lambda call: None)
    with bh.deadline(0.5), pytest.raises(CallTimeout):
        _ask(plugin, "hang")
    os.killpg(plugin.pid, signal.SIGKILL)
    assert eventually(lambda: plugin.remote.pid is None)


def test_a_plugin_that_eats_memory_passes_its_limit(guests: Stage, tmp_path: Path) -> None:
    """The guest's kernel ends it, and the caller is told which limit it was; no more processes than allowed come up, and its own disk can be written."""
    data = tmp_path / "data"
    data.mkdir()
    runner = guests.make("adhoc", "vm", start_timeout=PATIENCE, **guests.write(tmp_path, _CURIOUS))
    runner._spec = _confined(runner._spec, Resources(memory=32, pids=20, disk=16), data)  # type: ignore[attr-defined]  # the module, or object, is the test's own
    plugin = guests.begin(runner, "adhoc")
    assert _ask(plugin, "processes") == "Resource temporarily unavailable"
    assert _ask(plugin, "write", str(data / "kept")) == "written"
    assert (data / "vm-disk.ext4").stat().st_size == 16 * 1024 * 1024
    with pytest.raises(bh.LimitExceeded) as caught:
        _ask(plugin, "eat")
    assert caught.value.limit == "memory"


def _confined(spec: Any, resources: Resources, data: Path) -> Any:
    import attrs

    return attrs.evolve(spec, confinement=Confinement(resources=resources, data=data))


def test_a_guest_that_does_not_come_up_in_time_is_given_up_with_what_it_said(guests: Stage, tmp_path: Path) -> None:
    """A68: the boot deadline holds, and nothing is left of the guest."""
    runner = guests.make("adhoc", "vm", start_timeout=0.2, config={"unread": "x" * 1_000_000}, **guests.write(tmp_path, _CURIOUS))
    with pytest.raises(LoadFailed, match=r"not ready within 0.2 s \(start_timeout\)"):
        runner.start()
    assert runner.pid is None  # type: ignore[attr-defined]  # the module, or object, is the test's own


_HOST = """
import sys
from pathlib import Path
from tests.stage import Stage
stage = Stage()
runner = stage.make("adhoc", "vm", start_timeout=100.0, **stage.write(Path(sys.argv[1]), "class Plugin: pass"))
launcher = stage.levels._vm_launcher
launch = launcher.launch
def tell(spec):
    child = launch(spec)
    print(child.pid, flush=True)
    return child
launcher.launch = tell
runner.start()
"""


def test_no_guest_outlives_its_host(guests: Stage, tmp_path: Path) -> None:
    """The host is killed while its guest boots: QEMU is gone with it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    host = subprocess.Popen([sys.executable, "-c", _HOST, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment)
    with host:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        host.kill()
    assert eventually(lambda: _gone(pid))


def _gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_swaps_take_state_through_all_that_isolates_and_back(require_level: Any) -> None:
    """process → container → vm → process → vm → container → process: the count goes on, and no call fails."""
    for level in ("container", "vm"):
        require_level(level)
    with manager({"plugins": {"counter": {"isolation": "process"}}}) as pm:
        pm.load("counter", source=HERE / "counter_1_0")
        assert pm.hook.add(amount=1) == [1]
        for count, level in enumerate(("container", "vm", "process", "vm", "container", "process"), start=2):
            assert pm.swap("counter", isolation=level, source=HERE / "counter_1_0").ok
            assert pm.plugin("counter").isolation == level
            assert pm.hook.add(amount=1) == [count]
