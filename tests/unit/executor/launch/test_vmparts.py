"""The parts of level vm that need no guest."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

import pytest

from blackhole_core.errors import IsolationUnavailable, LoadFailed
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.guest.images import Images
from blackhole_core.executor.guest.tools import BUSYBOX, QEMU, how_to_install, missing_programs
from blackhole_core.executor.launch import vmproof
from blackhole_core.executor.launch.clock import tsc_khz
from blackhole_core.executor.launch.vm import refuse_spare, refuse_ungivable
from blackhole_core.executor.launch.vmchild import GuestEnd, Sockets
from blackhole_core.executor.launch.vmcommand import Accelerator, Machine, kernel_arguments, memory_of, processors_of, qemu_command
from blackhole_core.executor.launch.vmmonitor import Monitor, MonitorFailed
from blackhole_core.executor.launch.vmproof import remembered_accelerator
from blackhole_core.executor.limits.enforcing import held_from_outside, limit_enforcement
from blackhole_core.executor.limits.tree import Abilities
from blackhole_core.executor.runner import Limits, RunnerSpec
from blackhole_core.ids import Isolation, PluginId
from blackhole_core.manifest.model import Resources, VirtualMachine

TCG = Accelerator("tcg", "there is no /dev/kvm")


def test_a_guest_gets_no_network_and_no_file_of_the_host() -> None:
    """All devices that there are were asked for: disks, of which only the data one can be written, and serial ports."""
    command = qemu_command(Machine(Path("/k"), TCG, 5, 6, (Path("/a,b"), Path("/c")), Path("/d"), channel=7, output=8, status=9))
    assert "-nodefaults" in command
    assert not [word for word in command if "net" in word or "virtfs" in word or "usb" in word]
    drives = [command[place + 1] for place, word in enumerate(command) if word == "-drive"]
    assert [("readonly=on" in drive) for drive in drives] == [True, True, False]
    assert "file=/a,,b," in drives[0]
    assert [word for word in command if word.startswith("virtserialport")] == [
        "virtserialport,chardev=channel,nr=1", "virtserialport,chardev=output,nr=2", "virtserialport,chardev=status,nr=3",
        "virtserialport,chardev=relay,nr=4",
    ]  # fmt: skip


def test_qemu_itself_is_confined() -> None:
    """It may start no program and change no privileges."""
    assert "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny" in qemu_command(Machine(Path("/k"), TCG, 5, 6))


def test_an_emulated_guest_is_told_the_pace_of_the_counter() -> None:
    """Without it a boot on a busy machine hangs: the kernel cannot measure it, and waits for a timer that nobody started."""
    assert "tsc_early_khz=2500000" in kernel_arguments(2_500_000).split()
    assert "tsc_early_khz" not in kernel_arguments(0)
    kvm = qemu_command(Machine(Path("/k"), Accelerator("kvm"), 5, 6, tsc_khz=2_500_000))
    assert not [word for word in kvm if "tsc_early" in word]


def test_the_pace_is_measured() -> None:
    """Two measurements agree to a thousandth; counters of processors of this century count with at least 100 MHz."""
    first, second = tsc_khz(), tsc_khz()
    assert first == pytest.approx(second, rel=1e-3)
    assert first > 100_000


@pytest.mark.parametrize(("memory", "wanted"), [(None, 368), (100, 212), (0.5, 113)])
def test_memory_is_the_plugin_s_and_the_guest_s_own(memory: float | None, wanted: int) -> None:
    """MB; a limit is what the plugin has for itself."""
    assert memory_of(Resources(memory=memory)) == wanted


@pytest.mark.parametrize(("cpu", "wanted"), [(None, 1), (50, 1), (100, 1), (101, 2), (400, 4), (100_000, 16)])
def test_a_guest_has_the_processors_that_its_limit_begins(cpu: float | None, wanted: int) -> None:
    """Percent of one core."""
    assert processors_of(Resources(cpu=cpu)) == wanted


def test_a_machine_s_size_holds_all_but_the_share_of_the_processor() -> None:
    """What is counted from outside is that share alone: QEMU's own memory is no plugin's."""
    confinement = Confinement(resources=Resources(cpu=50, memory=100, disk=10, pids=5, network=1))
    assert held_from_outside(Isolation.VM, confinement).resources == Resources(cpu=50)
    assert held_from_outside(Isolation.PROCESS, confinement) is confinement
    how = limit_enforcement(Isolation.VM, confinement, Abilities)
    assert how.pop("resources.cpu") == "broker"
    assert set(how.values()) == {"kernel"}


@pytest.mark.parametrize("granted", ["device:gpu", "filesystem:read:/srv", "process:exec:/bin/ls"])
def test_what_a_guest_cannot_be_given_is_refused(granted: str) -> None:
    """A plugin that was granted something outside does not start without it, in silence; what a guest can have is no obstacle."""

    def plugin(*permissions: str) -> RunnerSpec:
        confinement = Confinement(requested=permissions, granted=permissions)
        return RunnerSpec(PluginId("p", "1"), 1, "p:P", Path("/p"), ("p",), "notes", Limits(), {}, confinement=confinement)

    with pytest.raises(IsolationUnavailable, match=f"plugin p@1 was granted {granted}.*level container, or revoke"):
        refuse_ungivable(plugin(granted))
    refuse_ungivable(plugin("env:HOME_PAGE", "network:connect:example.org:443"))


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (b"0 0\n", GuestEnd(0)),
        (b"7 0\n", GuestEnd(7)),
        (b"137 1\n", GuestEnd(-9, out_of_memory=True)),
        (b"139 0\n", GuestEnd(-11)),
        (b"", GuestEnd()),
        (b"256 0\n", GuestEnd()),
        (b"-1 0\n", GuestEnd()),
        (b"\xff\xfe", GuestEnd()),
        (b"1 2 3\n", GuestEnd()),
        ("²\n".encode(), GuestEnd()),
    ],
)
def test_what_a_guest_says_last_is_read_or_nothing(said: bytes, wanted: GuestEnd) -> None:
    """A guest may say anything; only a status is one."""
    assert GuestEnd.parse(said) == wanted


def test_sockets_that_nobody_took_over_are_closed() -> None:
    """All ends of them; those handed over stay open."""
    with Sockets() as sockets:
        pass
    for descriptor in (sockets.channel, sockets.guest_status, sockets.guest_console):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    with Sockets() as sockets:
        ours = sockets.hand_over()
    for descriptor in ours:
        os.close(descriptor)


def _remember(images: Images, **changes: object) -> None:
    images.directory.mkdir(exist_ok=True)
    (images.directory / "kvm.json").write_text(json.dumps({"machine": vmproof.machine_marks(), "reason": "", **changes}))


def test_the_verdict_about_kvm_holds_for_this_machine_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another start, kernel or QEMU asks for a new proof, and so does a damaged file."""
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(vmproof, "_DEVICE", device)
    images = Images(tmp_path / "cache")
    assert remembered_accelerator(images) is None
    _remember(images)
    assert remembered_accelerator(images) == Accelerator("kvm")
    _remember(images, reason="a guest did not boot")
    assert remembered_accelerator(images) == Accelerator("tcg", "a guest did not boot")
    for change in ({"machine": ["other"]}, {"reason": 5}):
        _remember(images, **change)
        assert remembered_accelerator(images) is None
    (images.directory / "kvm.json").write_text("[")
    assert remembered_accelerator(images) is None


def test_without_the_device_nothing_has_to_be_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so where the level is shown."""
    monkeypatch.setattr(vmproof, "_DEVICE", tmp_path / "kvm")
    assert remembered_accelerator(Images(tmp_path)) == TCG
    assert str(TCG) == "tcg (there is no /dev/kvm)"


def test_what_is_missing_is_named_with_the_command_that_installs_it() -> None:
    """A busybox and QEMU, on a distribution that calls them so."""
    assert missing_programs(lambda name: None if name in (QEMU, BUSYBOX) else name) == [QEMU, BUSYBOX]
    assert "qemu" in how_to_install([QEMU, BUSYBOX])


def test_a_proof_is_a_guest_that_says_it_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU that ends well without a word of the guest's, one that ends badly and one that hangs are no proof; the time is bounded."""
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(vmproof, "_DEVICE", device)
    monkeypatch.setattr(vmproof, "_PROOF_SECONDS", 0.5)
    program = tmp_path / QEMU
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    initramfs = tmp_path / "initramfs"
    initramfs.touch()

    class Known(Images):
        def initramfs(self, kernel: object) -> Path:
            return initramfs

    class Kernel:
        image = Path("/k")

    outcomes = []
    for number, script in enumerate(("exit 0", "echo bad thing >&2; exit 3", "exec sleep 60")):
        program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{script}\n')
        program.chmod(0o755)
        images = Known(tmp_path / f"cache{number}")
        images.directory.mkdir()
        outcomes.append(vmproof.prove_accelerator(images, Kernel()))  # type: ignore[arg-type]  # what stands for a kernel
        assert remembered_accelerator(images) == outcomes[-1]
    assert [accelerator.name for accelerator in outcomes] == ["tcg"] * 3
    assert "ended with status 0" in outcomes[0].reason
    assert "status 3: bad thing" in outcomes[1].reason
    assert "did not boot within 0.5 s" in outcomes[2].reason


def _spec(spare: bool | None, confinement: Confinement) -> RunnerSpec:
    vm = VirtualMachine(spare)
    return RunnerSpec(PluginId("p", "1"), 1, "p", Path("/p"), ("p",), "notes", Limits(), {}, confinement=confinement, vm=vm)


def test_a_spare_machine_beside_a_disk_is_refused() -> None:
    """Two machines would write to it; the error says which of the two to leave out."""
    with pytest.raises(LoadFailed, match=r"vm: \{spare: true\}.*resources.disk.*Leave out one of the two"):
        refuse_spare(_spec(True, Confinement(resources=Resources(disk=5), data=Path("/data"))))


@pytest.mark.parametrize(
    ("spare", "disk", "data"), [(True, None, Path("/data")), (True, 5, None), (False, 5, Path("/data")), (None, 5, Path("/data"))]
)
def test_one_without_the_other_is_not(spare: bool | None, disk: float | None, data: Path | None) -> None:
    """There is a disk only where a size was named and the host has a place for it."""
    refuse_spare(_spec(spare, Confinement(resources=Resources(disk=disk), data=data)))


def _qemu(stack: contextlib.ExitStack, *said: str) -> Monitor:
    """Return the monitor of a QEMU that has said this already."""
    ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
    theirs.sendall("".join(f"{line}\n" for line in ('{"QMP": {}}', '{"return": {}}', *said)).encode())
    return stack.enter_context(Monitor(ours.fileno()))


def _migration(status: str) -> str:
    return f'{{"event": "MIGRATION", "data": {{"status": "{status}"}}}}'


_DONE = '{"return": {}}'


def test_an_end_that_qemu_tells_before_its_answer_is_heard() -> None:
    """Events come between a command and its answer; none is lost, and nothing waits for a second one."""
    with contextlib.ExitStack() as stack:
        _qemu(stack, _DONE, _migration("active"), '{"event": "RESUME"}', _migration("completed"), _DONE, _DONE).resume(9)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_machine_that_cannot_go_on_says_so(status: str) -> None:
    """The start falls back on a boot, and tells why."""
    with contextlib.ExitStack() as stack, pytest.raises(MonitorFailed, match=f"its state could not be read: {status}"):
        _qemu(stack, _DONE, _DONE, _migration(status)).resume(9)
