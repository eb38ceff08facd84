"""The programs of the system that level vm needs, and the command that installs them on this distribution."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs

__all__ = ["BUSYBOX", "KERNEL", "MKSQUASHFS", "QEMU", "install_command", "machine_reason", "missing_programs", "static_busybox"]

QEMU: Final = "qemu-system-x86_64"
MKSQUASHFS: Final = "mksquashfs"
BUSYBOX: Final = "busybox"
#: Not a program, but missing like one: a Linux kernel for the guest.
KERNEL: Final = "a kernel for the guest"


@attrs.frozen
class _Manager:
    """A package manager: the command that installs, and what the packages with our programs are called there."""

    program: str
    install: str
    packages: Mapping[str, str]


_MANAGERS: Final = (
    _Manager(
        "apt-get",
        "apt-get install",
        {QEMU: "qemu-system-x86", MKSQUASHFS: "squashfs-tools", BUSYBOX: "busybox-static", KERNEL: "linux-image-cloud-amd64"},
    ),
    _Manager("dnf", "dnf install", {QEMU: "qemu-system-x86-core", MKSQUASHFS: "squashfs-tools", BUSYBOX: "busybox", KERNEL: "kernel-core"}),
    _Manager("zypper", "zypper install", {QEMU: "qemu-x86", MKSQUASHFS: "squashfs", BUSYBOX: "busybox-static", KERNEL: "kernel-default"}),
    _Manager("pacman", "pacman -S", {QEMU: "qemu-system-x86", MKSQUASHFS: "squashfs-tools", BUSYBOX: "busybox", KERNEL: "linux"}),
    _Manager("apk", "apk add", {QEMU: "qemu-system-x86_64", MKSQUASHFS: "squashfs-tools", BUSYBOX: "busybox-static", KERNEL: "linux-virt"}),
)


def machine_reason() -> str:
    """Return why no guest can have this machine's interpreter, empty when one can."""
    if sys.platform != "linux":
        return f"a virtual machine is made from a Linux interpreter, this is {sys.platform}"
    if platform.machine() != "x86_64":
        return f"this version makes virtual machines for x86_64, this is {platform.machine()}"
    return ""


def missing_programs(which: Callable[[str], object] = shutil.which) -> list[str]:
    """Return the programs that are not here; a busybox that needs shared libraries counts as none, for it starts before there are any."""
    return [name for name in (QEMU, MKSQUASHFS, BUSYBOX) if not which(name)]


def static_busybox() -> Path | None:
    """Return the busybox that goes into the guest, None where there is none that needs no libraries."""
    from blackhole_core.executor.guest.elf import NotElf, read_needs

    for name in ("busybox.static", "busybox-static", BUSYBOX):
        found = shutil.which(name)
        if found is None:
            continue
        try:
            needs = read_needs(Path(found).read_bytes())
        except (OSError, NotElf):
            continue
        if not needs.libraries and not needs.loader:
            return Path(found)
    return None


def install_command(missing: Iterable[str], which: Callable[[str], object] = shutil.which) -> str:
    """Return the command that installs ``missing`` here, empty where no package manager is known."""
    manager = next((known for known in _MANAGERS if which(known.program)), None)
    if manager is None:
        return ""
    return f"{manager.install} {' '.join(dict.fromkeys(manager.packages[name] for name in missing))}"
