"""The command line of QEMU for one guest, as a pure function of what the guest gets.

The machine is "microvm": no firmware to speak of, no PCI, devices only where they are asked for. There is no network card and no device of the host's.
Descriptors stand for files where the host has something open: the archive that the kernel starts from, and the sockets behind the serial ports.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.guest.initramfs import CHANNEL, OUTPUT, RELAY, STATUS
from blackhole_core.executor.guest.tools import QEMU
from blackhole_core.manifest.model import Resources

__all__ = ["Accelerator", "Machine", "kernel_arguments", "memory_of", "processors_of", "qemu_command"]

#: MB of memory for a plugin that has no limit, and for the guest's own kernel, programs and page tables beside the plugin's.
_DEFAULT_MEMORY: Final = 256
_OWN_MEMORY: Final = 112
#: Virtual processors at most: more than a plugin in a guest of this kind makes use of.
_MAX_PROCESSORS: Final = 16


@attrs.frozen
class Accelerator:
    """What runs the guest's instructions: the processor (``kvm``), or QEMU itself (``tcg``), and why so where the processor does not."""

    name: str
    reason: str = ""

    def __str__(self) -> str:
        return self.name if not self.reason else f"{self.name} ({self.reason})"


@attrs.frozen
class Machine:
    """One guest: kernel and archive, read-only disks in the order of their names, the disk for data, memory (MB), processors, serial ports.

    ``console`` and ``channel`` to ``monitor`` are descriptors of connected sockets, ``archive`` and ``state`` of files; -1: none. ``tsc_khz`` is the pace of this
    machine's time stamp counter, 0 where it is not known. With ``held`` the guest's memory is that file: shared with it, to be kept there, or with
    ``resumed`` a copy of it, made where it is written to; then the guest goes on where it was, once QEMU is told to by the monitor.
    """

    kernel: Path
    accelerator: Accelerator
    archive: int = -1
    console: int = -1
    disks: tuple[Path, ...] = ()
    data: Path | None = None
    memory: int = _DEFAULT_MEMORY
    processors: int = 1
    channel: int = -1
    output: int = -1
    status: int = -1
    relay: int = -1
    monitor: int = -1
    state: int = -1
    held: Path | None = None
    resumed: bool = False
    tsc_khz: int = 0

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What QEMU inherits."""
        ports = (self.console, self.channel, self.output, self.status, self.relay, self.monitor)
        return tuple(number for number in (self.archive, self.state, *ports) if number >= 0)


def memory_of(resources: Resources) -> int:
    """Return the guest's memory, MB: the plugin's limit and what the guest needs for itself."""
    return math.ceil(resources.memory or _DEFAULT_MEMORY) + _OWN_MEMORY


def processors_of(resources: Resources) -> int:
    """Return the number of processors: as many as the limit (percent of one) begins."""
    return min(_MAX_PROCESSORS, max(1, math.ceil((resources.cpu or 100) / 100)))


def kernel_arguments(tsc_khz: int) -> str:
    """Return the kernel's command line.

    Only what is critical goes to the console while it boots, each character of which costs an exit to QEMU. A kernel that panics restarts at once, which ends QEMU.
    The machine has neither HPET nor PM timer, so the kernel measures its time stamp counter against an emulated PIT. When this machine is busy that
    fails, and the kernel waits for ever for a timer that nobody started. So it is told the pace.
    """
    arguments = ["console=ttyS0", "loglevel=3", "edd=off", "pci=off", "panic=-1", "reboot=t"]
    if tsc_khz:
        arguments.append(f"tsc_early_khz={tsc_khz}")
    return " ".join(arguments)


def qemu_command(machine: Machine) -> list[str]:
    """Return program and arguments."""
    kvm = machine.accelerator.name == "kvm"
    command = [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *(
            "-machine",
            "microvm,rtc=on" + ("" if machine.held is None else ",memory-backend=ram"),
            "-accel",
            machine.accelerator.name,
            "-cpu",
            "host" if kvm else "max",
        ),
        *("-m", str(machine.memory), "-smp", str(machine.processors)),
        # QEMU itself may start no program, change no privileges and no limits.
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-kernel", _quoted(machine.kernel), "-append", kernel_arguments(0 if kvm else machine.tsc_khz)),
        *("-chardev", f"socket,id=console,fd={machine.console}", "-serial", "chardev:console"),
    ]
    if machine.archive >= 0:
        command += ["-initrd", f"/dev/fd/{machine.archive}"]
    if machine.held is not None:
        share = "off" if machine.resumed else "on"
        command += ["-object", f"memory-backend-file,id=ram,size={machine.memory}M,mem-path={_quoted(machine.held)},share={share}"]
    if machine.resumed:
        command += ["-incoming", "defer"]
    if machine.monitor >= 0:
        command += ["-chardev", f"socket,id=monitor,fd={machine.monitor}", "-mon", "chardev=monitor,mode=control"]
    for number, disk in enumerate(machine.disks):
        command += _disk(f"disk{number}", disk, "readonly=on")
    if machine.data is not None:
        command += _disk("data", machine.data, "discard=unmap")
    if machine.channel < 0:
        return command  # a boot is all that is wanted
    command += ["-device", "virtio-serial-device"]
    for number, name, descriptor in (
        (CHANNEL, "channel", machine.channel),
        (OUTPUT, "output", machine.output),
        (STATUS, "status", machine.status),
        (RELAY, "relay", machine.relay),
    ):
        behind = f"socket,id={name},fd={descriptor}" if descriptor >= 0 else f"null,id={name}"  # each is there: a memory holds its devices
        command += ["-chardev", behind, "-device", f"virtserialport,chardev={name},nr={number}"]
    return command


def _disk(name: str, path: Path, how: str) -> list[str]:
    return ["-drive", f"id={name},file={_quoted(path)},format=raw,if=none,{how}", "-device", f"virtio-blk-device,drive={name}"]


def _quoted(path: Path) -> str:
    """Return a path as QEMU's options take it: a comma is doubled."""
    return str(path).replace(",", ",,")
