"""Whether the processor itself runs guests here, proved by a guest.

``/dev/kvm`` may open, make a machine, and the guest still hangs: so it is for a host that is a guest itself and is refused what its own
processor promises. Only a guest that boots and powers off in time is a proof. The verdict holds until this machine is started anew, or has
another kernel or another QEMU, and is remembered that long.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

from blackhole_core.executor.guest.images import Images, replace_file
from blackhole_core.executor.guest.initramfs import PROOF, UP
from blackhole_core.executor.guest.kernel import Kernel
from blackhole_core.executor.guest.tools import QEMU
from blackhole_core.executor.launch.vmarchive import archive_for
from blackhole_core.executor.launch.vmcommand import Accelerator, Machine, qemu_command

__all__ = ["machine_marks", "prove_accelerator", "remembered_accelerator"]

#: Seconds in which a guest with a working KVM is done on a busy machine; it takes half a second.
_PROOF_SECONDS: Final = 20.0
_DEVICE: Final = Path("/dev/kvm")


def remembered_accelerator(images: Images) -> Accelerator | None:
    """Return the verdict; None as long as there is none for this machine as it is now."""
    if (reason := _no_device()) is not None:
        return Accelerator("tcg", reason)
    try:
        known = json.loads((images.directory / "kvm.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or known.get("machine") != machine_marks() or not isinstance(known.get("reason"), str):
        return None
    return _verdict(known["reason"])


def prove_accelerator(images: Images, kernel: Kernel) -> Accelerator:
    """Return what runs guests here; boots one where that is not known yet, which takes half a second, or :data:`_PROOF_SECONDS` where it hangs."""
    known = remembered_accelerator(images)
    if known is not None:
        return known
    images.progress("trying whether KVM runs a guest")
    reason = _try(images, kernel)
    replace_file(images.directory / "kvm.json", json.dumps({"machine": machine_marks(), "reason": reason}).encode())
    return _verdict(reason)


def _verdict(reason: str) -> Accelerator:
    return Accelerator("tcg", reason) if reason else Accelerator("kvm")


def _no_device() -> str | None:
    if not _DEVICE.exists():
        return "there is no /dev/kvm"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return "/dev/kvm is not for this user"
    return None


def machine_marks() -> list[str]:
    """Return what a verdict, and the memory of a guest, depend on: this start of this kernel, and the program."""
    program = shutil.which(QEMU)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout if program else ""
    return [Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip(), platform.release(), version.partition("\n")[0]]


def _try(images: Images, kernel: Kernel) -> str:
    """Boot a guest on the processor that powers off at once. Return what went wrong, empty when nothing did."""
    ours, theirs = socket.socketpair()
    with ours, theirs, archive_for(images.initramfs(kernel), PROOF) as archive:
        machine = Machine(kernel.image, Accelerator("kvm"), archive.fileno(), theirs.fileno())
        try:
            done = subprocess.run(
                qemu_command(machine),
                pass_fds=machine.descriptors,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PROOF_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"KVM is there, but a guest did not boot within {_PROOF_SECONDS:g} s"
        theirs.close()
        said = ours.makefile("rb").read()
    if done.returncode != 0 or UP.encode() not in said:
        last = "".join(done.stderr.strip().splitlines()[-1:])
        return f"KVM is there, but a guest ended with status {done.returncode}" + (f": {last}" if last else "")
    return ""
