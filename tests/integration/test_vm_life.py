"""Virtual machines over a plugin's life: how they begin, what they leave, and what a disk of a plugin's own is in the way of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from blackhole_core.errors import SwapFailed, WorkerDied
from blackhole_core.executor.spare import SpareFacts
from blackhole_core.lifecycle.handle import Plugin
from blackhole_core.scratch import sweep
from tests.integration.managed import manager, wheel
from tests.leaks import children_of
from tests.levels import MACHINES, require_level
from tests.plugins.build import HERE
from tests.stage import Stage, eventually

pytestmark = pytest.mark.timeout(300)

#: Seconds for a boot on a machine that does other things meanwhile.
PATIENCE = 110.0
#: Swaps from one machine to another, each of which takes a second on a machine that does nothing else. `nox -s machines` does twenty.
_SWAPS = 20 if MACHINES else 3

_PLUGIN = """
import ctypes, os, random, time
class Plugin:
    @hookimpl
    def raw(self, value):
        return os.urandom(16).hex(), random.getrandbits(64), time.time(), open("/proc/sys/kernel/random/boot_id").read()
    @hookimpl
    def slow(self, seconds: float) -> str:
        ctypes.PyDLL(None).sleep(int(seconds))  # keeps the interpreter: PyDLL does not let it go
        return "slept"
"""


@pytest.fixture(autouse=True)
def available() -> None:
    require_level("vm")


def test_guests_that_go_on_from_one_memory_are_not_the_same(stage: Stage, tmp_path: Path) -> None:
    """Their random numbers are their own, the kernel's and Python's, and their clocks are right, however old the memory is."""
    said = []
    plugin = stage.start("adhoc", "vm", start_timeout=PATIENCE, **stage.write(tmp_path, _PLUGIN))
    for _ in range(2):
        assert str(plugin.remote.facts.start_way).endswith(("resumed from memory", "kvm"))
        random, number, now, boot = plugin("raw", None)
        assert abs(now - time.time()) < 60
        said.append((random, number, boot))
        plugin.remote.restart(lambda call: None)
    assert not set(said[0]) & set(said[1])


def test_a_guest_that_hangs_says_where(stage: Stage, tmp_path: Path) -> None:
    """F08: code in it keeps the interpreter; the guest's first program has the worker write its stacks, and the caller gets them."""
    limits = {"start_timeout": PATIENCE, "heartbeat": 0.5, "hung_after": 3.0}
    plugin = stage.start("adhoc", "vm", **limits, **stage.write(tmp_path, _PLUGIN))
    with pytest.raises(WorkerDied) as caught:
        plugin("slow", 1000.0)
    assert caught.value.exit in (
        -signal.SIGABRT,
        -signal.SIGKILL,
    )  # an emulated machine may need more than its half second to tell the first
    assert caught.value.stack[0] == "Fatal Python error: Aborted"
    assert any(line.endswith("in slow") for line in caught.value.stack)


def _machines() -> set[int]:
    """Return the QEMU processes of this one."""
    return {pid for pid in children_of() if b"qemu" in _command(pid)}


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return b""


def _facts() -> tuple[int, int, int, set[Path]]:
    """Return how many descriptors, mounts and machines this process has, and its temporary files. Mounts of other places belong to others on this machine."""
    temporary = tempfile.gettempdir()
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if temporary in line]
    return len(os.listdir("/proc/self/fd")), len(mounts), len(_machines()), set(Path(temporary).iterdir())


def test_swaps_leave_nothing(tmp_path: Path) -> None:
    """No machine, descriptor, socket, mount or file stays of versions that were replaced, and the state goes on."""
    wheels = [wheel("counter", version, tmp_path) for version in ("1.0.0", "2.0.0")]
    with manager({"start_timeout": PATIENCE, "probation": 0}) as pm:
        pm.load("counter", source=wheels[0], isolation="vm")
        pm.swap("counter", source=wheels[1])
        assert eventually(lambda: len(_machines()) == 1)  # the one that was replaced may be just ending
        before = _facts()
        for number in range(_SWAPS):
            assert pm.hook.add(amount=1) == [number + 1]
            pm.swap("counter", source=wheels[number % 2])
        assert pm.hook.total() == [_SWAPS]
        assert eventually(lambda: _facts() == before), (_facts(), before)
    assert _machines() == set()


def test_a_machine_that_stands_by_takes_the_place_of_one_that_dies(tmp_path: Path) -> None:
    """It answers the next call, and another one stands by; both are counted, and none of them is left when the host closes."""
    with manager({"start_timeout": PATIENCE, "vm": {"spare": True}}, state_dir=tmp_path / "state") as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="vm")
        plugin = pm.plugin("counter")
        waiting = _standing_by(plugin)
        assert plugin.as_dict()["spare"]["usage"]["memory"] > 2**20
        os.kill(plugin.pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            pm.hook.add(amount=1)
        assert pm.hook.add(amount=3) == [3]
        assert plugin.pid == waiting
        another = _standing_by(plugin)
        assert _machines() == {waiting, another}
    assert _machines() == set()


def _standing_by(plugin: Plugin) -> int:
    seen: list[SpareFacts | None] = []

    def ready() -> bool:
        seen.append(plugin.spare)
        return seen[-1] is not None and seen[-1].phase == "ready"

    assert eventually(ready, PATIENCE), seen[-1]
    assert seen[-1] is not None
    return seen[-1].pid or 0


_HOST = """
import sys, time
sys.path[:] = sys.argv[2:]
from tests.integration.managed import manager
with manager({"start_timeout": 110.0, "vm": {"spare": True}}) as pm:
    pm.load("counter", source=sys.argv[1], isolation="vm")
    plugin = pm.plugin("counter")
    while plugin.spare.phase != "ready":
        time.sleep(0.01)
    print(plugin.pid, plugin.spare.pid, flush=True)
    time.sleep(600)
"""


def test_a_host_that_is_killed_leaves_no_machine_that_stands_by(tmp_path: Path) -> None:
    """The kernel ends both with their host, and what is left of its temporary files the next host removes, as after any that was killed."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-c", _HOST, str(wheel("counter", "1.0.0", tmp_path)), *sys.path]  # whose images are there
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(scratch)}, text=True) as host:
        assert host.stdout is not None
        machines = host.stdout.readline().split()
        host.kill()
    assert len(machines) == 2
    assert eventually(lambda: not [pid for pid in machines if Path(f"/proc/{pid}").exists()])
    sweep(scratch)
    assert list(scratch.iterdir()) == []


def test_a_plugin_with_a_disk_is_not_swapped_from_one_machine_to_another(tmp_path: Path) -> None:
    """Two guests would write to it. The swap says so and what to do, the old version serves on; after it has ended the disk is free."""
    config = {"start_timeout": PATIENCE, "plugins": {"counter": {"resources": {"disk": 8}}}}
    with manager(config, state_dir=tmp_path / "state") as pm:
        pm.load("counter", source=HERE / "counter_1_0", isolation="vm")
        assert pm.hook.add(amount=2) == [2]
        with pytest.raises(SwapFailed, match=r"is in use by another virtual machine.*unload it and load the new version"):
            pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        assert pm.hook.add(amount=3) == [5]
        os.kill(pm.plugin("counter").pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            pm.hook.add(amount=1)
        assert pm.hook.total()  # the machine that follows has the disk
