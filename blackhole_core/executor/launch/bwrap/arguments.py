"""From the walls of a worker to the arguments of ``bwrap``. Pure.

The root is the one that :mod:`~blackhole_core.executor.sandbox.newroot` makes, by other means: nothing in it but the places, five devices, memory for temporary files, and a
``/proc`` of the pid namespace. Places come as descriptors that were opened without following a link (``--bind-fd``; bubblewrap 0.10, and what distributions have mended
since CVE-2024-42472): no name is looked up once more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from blackhole_core.executor.wire.policy import Layer, Place, Policy

__all__ = ["AROUND", "arguments", "is_inside", "mounted"]

#: What there is before the worker does anything. A set-user-id ``bwrap`` makes no user namespace where there can be none.
AROUND: Final = (Layer.USER, Layer.PID, Layer.MOUNT, Layer.NET, Layer.IPC, Layer.UTS, Layer.PROC)
#: Bytes of /dev/shm, where locks between a plugin's own processes lie; as in a root of our own.
_SHARED_SIZE: Final = 64 * 2**20

_NAMESPACES: Final = {Layer.USER: "user", Layer.PID: "pid", Layer.NET: "net", Layer.IPC: "ipc", Layer.UTS: "uts"}
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_DEVICE_LINKS: Final = (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"))


def is_inside(policy: Policy) -> bool:
    """Whether whoever brings the worker up makes a root for it."""
    return Layer.MOUNT in policy.around


def mounted(places: Sequence[Place]) -> list[Place]:
    """Return the places to mount, outer ones first. Not the other spelling of one that lies in a third: there it is a link, and leads to where the place is mounted itself."""
    needed = [
        place
        for place in places
        if place.target == place.source or not any(_is_below(place.target, outer.target) for outer in places if outer is not place)
    ]
    return sorted(needed, key=lambda place: (place.target.count(b"/"), place.target))


def arguments(policy: Policy, opened: Iterable[tuple[Place, int]], masked: Mapping[str, bool]) -> list[str]:
    """Return them. ``opened`` are the places as :func:`mounted` orders them, each with its descriptor (any number for a device, which goes by its name);
    where the policy has no memory for temporary files, there is none in /dev/shm either; ``masked`` are the files below /proc that tell of the machine and not of processes, each with whether it is a directory.
    """
    temporary = os.fsdecode(policy.temporary)
    options = [
        *[["--unshare-" + name] for layer, name in _NAMESPACES.items() if layer in policy.around],
        *[["--unshare-cgroup-try"], ["--hostname", "blackhole"], ["--die-with-parent"], ["--new-session"], ["--cap-drop", "ALL"]],
        *_devices(),
        *(_memory("/dev/shm", _SHARED_SIZE) + _memory(temporary, policy.temporary_size) if policy.temporary_size else []),  # noqa: S108 - its own
        *[_bind(place, descriptor) for place, descriptor in opened],
        ["--proc", "/proc"],
        *[part for path, directory in masked.items() for part in _mask(path, directory=directory)],
        *[["--remount-ro", path] for path in ("/proc", "/dev", "/")],
        ["--chdir", "/"],
    ]
    return [word for option in options for word in option]


def _bind(place: Place, descriptor: int) -> list[str]:
    target = os.fsdecode(place.target)
    if place.device:
        return ["--dev-bind", os.fsdecode(place.source), target]
    return ["--bind-fd" if place.write else "--ro-bind-fd", str(descriptor), target]


def _devices() -> list[list[str]]:
    return [
        ["--perms", "0755", "--tmpfs", "/dev"],
        *[["--dev-bind", f"/dev/{name}", f"/dev/{name}"] for name in _DEVICES],
        *[["--symlink", to, f"/dev/{name}"] for name, to in _DEVICE_LINKS],
    ]


def _memory(path: str, size: int) -> list[list[str]]:
    return [["--perms", "1777", "--size", str(size), "--tmpfs", path]]


def _mask(path: str, *, directory: bool) -> list[list[str]]:
    if directory:
        return [["--tmpfs", path], ["--remount-ro", path]]
    return [["--ro-bind", "/dev/null", path]]


def _is_below(path: bytes, directory: bytes) -> bool:
    return path.startswith(directory + b"/")
