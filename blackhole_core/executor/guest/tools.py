"""The programs of the system that level vm needs, and the command that installs them on this distribution."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from blackhole_core.executor.launch.packages import install_command

__all__ = ["BUSYBOX", "KERNEL", "MKSQUASHFS", "QEMU", "how_to_install", "machine_reason", "missing_programs", "static_busybox"]

QEMU: Final = "qemu-system-x86_64"
MKSQUASHFS: Final = "mksquashfs"
BUSYBOX: Final = "busybox"
#: Not a program, but missing like one: a Linux kernel for the guest.
KERNEL: Final = "a kernel for the guest"


#: What the packages with them are called on Debian.
_PACKAGES: Final = {QEMU: "qemu-system-x86", MKSQUASHFS: "squashfs-tools", BUSYBOX: "busybox-static", KERNEL: "linux-image-cloud-amd64"}


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


def how_to_install(missing: Iterable[str]) -> str:
    """Return the command that installs ``missing`` on this distribution."""
    return install_command(*dict.fromkeys(_PACKAGES[name] for name in missing))
