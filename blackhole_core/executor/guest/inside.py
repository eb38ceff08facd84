"""What the worker's process does in a guest before it is a worker: it waits for its orders, furnishes the machine, and gives up being root.

A guest may have slept in a file between its boot and its orders, and the file may wake as many guests. So nothing before the orders may be one
guest's own: no plugin code, no variables, no random number that is used later.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import struct
import sys
import time
from pathlib import Path

from blackhole_core.executor import working as _working  # noqa: F401 - what a worker needs is there before its orders, which costs a guest nothing
from blackhole_core.executor.guest.initramfs import RELAY
from blackhole_core.executor.guest.orders import ORDERS_HEAD, READY, Orders, decode_orders
from blackhole_core.executor.rehearsal import REHEARSALS, rehearse
from blackhole_core.executor.relay import stage as _stage  # noqa: F401 - likewise
from blackhole_core.executor.relay.port import begin
from blackhole_core.executor.worker import read_exactly, serve

__all__ = ["main"]

_RECEIVE, _SEND, _ROOT, _STATUS = 3, 4, 5, 6  # what it inherits
#: Flags of mount(2).
_RDONLY, _NOSUID, _NODEV, _NOATIME, _BIND = 1, 2, 4, 1024, 4096
#: ioctl(2): forget what was read of a disk; put bytes into the kernel's random numbers and count them; use them from now on.
_BLKFLSBUF, _RNDADDENTROPY, _RNDRESEEDCRNG = 0x1261, 0x40085203, 0x5207


def main(tell: bool) -> None:
    """Be the guest's worker. ``tell``: say when there is nothing more to do before the orders."""
    if tell:
        rehearse(REHEARSALS)  # where the processor runs the guest, which does not tell, it takes as long as it saves
        os.write(_STATUS, READY)
    os.close(_STATUS)
    orders = decode_orders(read_exactly(_RECEIVE, int.from_bytes(read_exactly(_RECEIVE, ORDERS_HEAD), "big")))
    _wake(orders)
    _furnish(orders)
    further = (_relay(),) if orders.network else ()
    _become(orders)
    serve(_RECEIVE, _SEND, further)


def _wake(orders: Orders) -> None:
    """Set the clock, and make random numbers that no other guest has."""
    if orders.now:
        time.clock_settime_ns(time.CLOCK_REALTIME, orders.now)
    if orders.entropy:
        with Path("/dev/urandom").open("wb", 0) as pool:
            fcntl.ioctl(pool, _RNDADDENTROPY, struct.pack("ii", len(orders.entropy) * 8, len(orders.entropy)) + orders.entropy)
            fcntl.ioctl(pool, _RNDRESEEDCRNG)
        random.seed()


def _furnish(orders: Orders) -> None:
    """Put the disks together and make them this process's root."""
    os.fchdir(_ROOT)
    os.chroot(".")
    os.close(_ROOT)
    for disk in (orders.layers[-1], orders.data_disk):
        if disk:
            _forget(f"/sysroot/dev/{disk}")
    plugin = f"/layers/{orders.layers[-1]}"
    Path(plugin).mkdir()
    _mount(f"/sysroot/dev/{orders.layers[-1]}", plugin, "squashfs", _RDONLY)
    layers = [f"/layers/{disk}" for disk in reversed(orders.layers)]
    _mount("root", "/final", "overlay", _RDONLY, f"lowerdir={':'.join(layers)}")
    for kind in ("dev", "proc", "sys"):
        _mount(f"/sysroot/{kind}", f"/final/{kind}", "", _BIND)
    # what the disks have below /tmp stays in sight, and what is written goes to memory
    temporaries = [place for layer in layers if (place := f"{layer}/tmp") and Path(place).is_dir()]  # noqa: S108 - of the guest
    _mount("tmp", "/scratch", "tmpfs", _NOSUID | _NODEV, orders.temporary)
    upper, work = Path("/scratch/upper"), Path("/scratch/work")
    work.mkdir()
    upper.mkdir()
    upper.chmod(0o1777)
    options = f"lowerdir={':'.join(temporaries)},upperdir={upper},workdir={work}"
    _mount("tmp", "/final/tmp", "overlay", _NOSUID | _NODEV, options)
    _mount("shm", "/final/dev/shm", "tmpfs", _NOSUID | _NODEV, f"mode=1777,{orders.temporary}")
    if orders.data:
        _mount(f"/sysroot/dev/{orders.data_disk}", "/data", "ext4", _NOSUID | _NODEV | _NOATIME)
        _mount("/data", f"/final{orders.data}", "", _BIND)
    os.chroot("/final")
    os.chdir("/")
    sys.path_importer_cache.clear()  # what they know of directories is older than the plugin's disk


def _forget(disk: str) -> None:
    """Forget what was read of a disk when the machine booted: another may be in its place now."""
    with Path(disk).open("rb") as opened:
        fcntl.ioctl(opened, _BLKFLSBUF)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{source} cannot be mounted at {target}: {os.strerror(number)}")


def _relay() -> int:
    """Return the worker's end of the way to the network."""
    [port] = Path("/dev").glob(f"vport*p{RELAY}")
    return begin(os.open(port, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))


def _become(orders: Orders) -> None:
    """Have the worker's variables, and no right any more."""
    os.environ.clear()
    os.environ.update(orders.environment)
    time.tzset()
    if orders.tasks:
        from resource import RLIMIT_NPROC, setrlimit

        setrlimit(RLIMIT_NPROC, (orders.tasks, orders.tasks))
    os.setgroups([])
    os.setresgid(orders.user, orders.user, orders.user)
    os.setresuid(orders.user, orders.user, orders.user)
