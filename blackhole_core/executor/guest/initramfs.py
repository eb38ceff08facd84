"""What the kernel starts from: an archive in memory with the first program, the modules it loads, and a plan of what to run.

The plan is another archive behind the first (the kernel unpacks both). It holds what is the same for all guests of one shape: which disks there are, and
the interpreter's command line. What one plugin gets comes later, as :mod:`orders <blackhole_core.executor.guest.orders>` over the channel.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

__all__ = ["CHANNEL", "OUTPUT", "PROOF", "RELAY", "STATUS", "UP", "Plan", "base_archive", "disk_name", "plan_archive"]

#: Numbers of the guest's serial ports: the protocol, the worker's output, its exit status in words (and the other way the names of signals to send it),
#: and the streams to the network.
CHANNEL, OUTPUT, STATUS, RELAY = 1, 2, 3, 4

#: What the first program says when a boot is all that is wanted.
UP: Final = "up"

#: The first program. Every step speaks to the console, so that an error says how far a guest came.
_INIT: Final = f"""#!/bin/busybox sh
b=/bin/busybox
say() {{ echo "guest: $*" >/dev/console; }}
off() {{ echo 0 >"$1/proc/sys/kernel/printk"; $b poweroff -f; }}  # without a last word of the kernel's to the console
fail() {{ say "$*"; off; }}
$b mount -t devtmpfs dev /dev && $b mount -t proc proc /proc && $b mount -t sysfs sys /sys || off
echo 4 >/proc/sys/kernel/printk  # errors, among them that memory is used up
# When memory is used up, end the program that uses it, and do not read its code from the disk again and again: what was used in the last second stays.
if cd /sys/kernel/mm/lru_gen; then echo y >enabled; echo 1000 >min_ttl_ms; cd /; fi
. /plan
[ -z "$prove" ] || fail "{UP}"
while read -r module; do $b insmod "/modules/$module.ko" || fail "module $module cannot be loaded"; done </modules/order
port() {{ set -- /dev/vport*p"$1"; port=$1; [ -e "$port" ]; }}
until port {STATUS} && [ -e "/dev/$last_disk" ]; do $b usleep 2000; done
layers=
for disk in $disks; do
    $b mkdir -p "/layers/$disk"
    $b mount -t squashfs -o ro "/dev/$disk" "/layers/$disk" || fail "disk $disk cannot be mounted"
    layers="/layers/$disk${{layers:+:$layers}}"
done
$b mount -t overlay -o "ro,lowerdir=$layers" root /sysroot || fail "the disks cannot be put together"
$b mkdir -p /dev/shm
$b ifconfig lo up
port {CHANNEL}; channel=$port
port {OUTPUT}; output=$port
port {STATUS}; status=$port
for kind in dev proc sys; do $b mount --bind /$kind /sysroot/$kind; done
say() {{ echo "guest: $*" >/sysroot/dev/console; }}
exec 6<>"/sysroot$status"
run 3<>"/sysroot$channel" 4>&3 5</ >"/sysroot$output" 2>&1 &
worker=$!
while read -r signal; do $b kill -"$signal" $worker; done <&6 &
wait $worker
ended=$?
while read -r name value; do [ "$name" != oom_kill ] || killed=$value; done </sysroot/proc/vmstat
$b kill -9 -1  # what the worker started, and the reader of signals
echo "$ended ${{killed:-0}}" >&6
$b mount -o remount,ro /data 2>/dev/null || $b sync  # the plugin's own disk is left clean
off /sysroot
"""


@attrs.frozen
class Plan:
    """What guests of one shape do: mount so many read-only disks, wait for the last of all ``disks``, then run ``command`` as the only program.

    The command inherits 3 and 4 (the channel), 5 (the directory that everything is mounted in) and 6 (the port for its status).
    """

    command: Sequence[str]
    layers: int
    disks: int

    def text(self) -> str:
        """Return it as lines for the shell that :data:`_INIT` is."""
        return (
            f"disks={shlex.quote(' '.join(map(disk_name, range(self.layers))))}\n"
            f"last_disk={disk_name(self.disks - 1)}\n"
            f"run() {{ exec $b setsid $b env -i LC_CTYPE=C.UTF-8 $b chroot /sysroot {shlex.join(self.command)}; }}\n"
        )


#: A plan to say that it is up and to end: for a boot that only shows that a guest boots.
PROOF: Final = "prove=yes\n"


def disk_name(number: int) -> str:
    """Return what the guest's kernel calls its disk ``number``."""
    return f"vd{chr(ord('a') + number)}"


def base_archive(busybox: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the part that is the same for all guests; the same input gives the same bytes."""
    order = "".join(f"{name}\n" for name, _data in modules).encode()
    directories = ("bin", "data", "dev", "final", "layers", "modules", "proc", "scratch", "sys", "sysroot")
    files = {
        "bin/busybox": (busybox, 0o755),
        "init": (_INIT.encode(), 0o755),
        "modules/order": (order, 0o644),
        **{f"modules/{name}.ko": (data, 0o644) for name, data in modules},
    }
    return _archive(
        [*((name, b"", 0o040755) for name in directories), *((name, data, 0o100000 | mode) for name, (data, mode) in files.items())]
    )


def plan_archive(text: str) -> bytes:
    """Return the part for one guest."""
    return _archive([("plan", text.encode("utf-8", "surrogateescape"), 0o100600)])


def _archive(entries: Iterable[tuple[str, bytes, int]]) -> bytes:
    """Write a cpio archive (format newc: Linux, Documentation/driver-api/early-userspace/buffer-format.rst), padded so that another may follow."""
    parts = [_entry(name, data, mode) for name, data, mode in entries]
    return b"".join([*parts, _entry("TRAILER!!!", b"", 0)])


def _entry(name: str, data: bytes, mode: int) -> bytes:
    path = name.encode() + b"\0"
    # magic, then inode, mode, uid, gid, links, mtime, size, four numbers of devices, length of the name, checksum
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _padded(head + path) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
