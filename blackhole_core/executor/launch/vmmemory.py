"""Guests that wait in a file: booted once, up to where they want their orders, and kept. Every start goes on from there.

Emulated, a boot and the imports of a worker take six seconds, and going on from a file a tenth of one. The file is the guest's memory, with the state of its devices behind
it. A guest that goes on has a private copy, page by page as it writes: what it does not write is in this machine's memory once for all.

All guests of one file have the same past: layout of addresses, seed of hashes. What may not be the same, the clock and random numbers,
each gets with its orders.
"""

from __future__ import annotations

import hashlib
import os
import select
import subprocess
import time
from collections import deque
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.guest.images import CannotBuild, Images
from blackhole_core.executor.guest.initramfs import Plan
from blackhole_core.executor.guest.orders import READY
from blackhole_core.executor.launch.vmarchive import archive_for
from blackhole_core.executor.launch.vmchild import Sockets
from blackhole_core.executor.launch.vmcommand import Machine
from blackhole_core.executor.launch.vmmonitor import Monitor, open_state
from blackhole_core.executor.launch.vmprocess import start_qemu

__all__ = ["Shape", "keep_memory", "slot_for"]

#: Seconds in which a guest has booted and imported what a worker needs, on a busy machine; it takes six.
_BOOT_SECONDS: Final = 120.0
#: Milliseconds between two looks whether QEMU has ended; what the guest says wakes at once.
_LOOK: Final = 200
#: Lines of the console that are told when a boot fails.
_TAIL: Final = 10
#: Bytes that the disk for a plugin's code has at least, as far as a guest knows: a file that takes no room on the disk.
_SLOT: Final = 2 * 2**30


@attrs.frozen
class Shape:
    """All that the memory of a waiting guest depends on.

    ``machine`` has no descriptors, and the disks that are the same for all plugins; ``slot`` and ``data_slot`` are the bytes of those that are a plugin's
    own (``data_slot`` 0: there is none). ``host`` is this start of this machine, with the versions of what runs on it.
    """

    machine: Machine
    initramfs: Path
    plan: Plan
    slot: int
    data_slot: int
    host: tuple[str, ...]

    def digest(self) -> bytes:
        """Return a digest of it. The pace of the counter is measured anew by each host, and so never quite the same: it belongs to this start of the machine."""
        return hashlib.sha256(repr(attrs.evolve(self, machine=attrs.evolve(self.machine, tsc_khz=0))).encode()).digest()


def slot_for(image: Path) -> int:
    """Return the bytes of a disk that this image fits on: of few sizes, for each makes a memory of its own."""
    size = _SLOT
    while size < image.stat().st_size:
        size *= 2
    return size


def keep_memory(images: Images, shape: Shape) -> Path:
    """Return the file with the memory of a guest of this shape; boots one where there is none yet.

    :raises CannotBuild: the guest does not boot, or QEMU cannot keep it.
    """

    def build(to: Path) -> None:
        images.progress("booting a virtual machine, from which others will go on")
        try:
            _build(shape, to)
        except OSError as error:  # MonitorFailed among them
            raise CannotBuild(f"the memory of a virtual machine cannot be kept: {error.strerror or error}") from None

    return images.memory(shape.digest(), build)


def _build(shape: Shape, to: Path) -> None:
    slots = [_empty(to.with_name("slot"), shape.slot)]
    data = _empty(to.with_name("data"), shape.data_slot) if shape.data_slot else None
    _empty(to, shape.machine.memory * 2**20)
    with archive_for(shape.initramfs, shape.plan.text()) as archive, Sockets() as sockets:
        machine = attrs.evolve(
            sockets.connected(shape.machine),
            archive=archive.fileno(),
            disks=(*shape.machine.disks, *slots),
            data=data,
            monitor=sockets.guest_monitor,
            held=to,
        )
        process = start_qemu(machine)
        try:
            _await_ready(process, sockets)
            state = open_state(to, machine.memory)
            try:
                with Monitor(sockets.monitor) as monitor:
                    monitor.keep(state)
            finally:
                os.close(state)
        finally:
            process.kill()
            process.wait()


def _empty(path: Path, size: int) -> Path:
    """Make a file of ``size`` bytes that are all zero and take no room."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(descriptor, size)
    finally:
        os.close(descriptor)
    return path


def _await_ready(process: subprocess.Popen[bytes], sockets: Sockets) -> None:
    """Wait until the guest wants its orders.

    :raises CannotBuild: it ended, or did not get there in time.
    """
    poller = select.poll()
    for descriptor in (sockets.status, sockets.output):
        poller.register(descriptor, select.POLLIN)
    said: deque[str] = deque(maxlen=_TAIL)
    deadline = time.monotonic() + _BOOT_SECONDS
    while time.monotonic() < deadline:
        ready = {descriptor for descriptor, _event in poller.poll(_LOOK)}
        if sockets.output in ready:
            said.extend(os.read(sockets.output, 65536).decode(errors="replace").splitlines())
        if sockets.status in ready:
            if os.read(sockets.status, len(READY)) == READY:
                return
            raise CannotBuild("\n  ".join(["a virtual machine that was booted ended before it was ready; its last lines:", *said]))
        if process.poll() is not None and not ready:
            raise CannotBuild("\n  ".join([f"QEMU ended with status {process.returncode}; its last lines:", *said]))
    raise CannotBuild("\n  ".join([f"a virtual machine was not up within {_BOOT_SECONDS:g} s; its last lines:", *said]))
