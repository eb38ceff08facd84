"""The ``config.json`` of a container, as the OCI runtime specification 1.0 has it. Pure: a value in, a dictionary out.

A container has nothing of the host but what :attr:`Box.binds` names, none of it writable unless that says so; no capability, no network interface but a
loopback of its own, no device but the six that hold no secret and those of :attr:`Box.devices`, and no way to get more: no new privileges, no namespaces, no mounts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import attrs

from blackhole_core.executor.launch.oci.seccomp import PROFILE

__all__ = ["MASKED", "SHARED_MEMORY", "Bind", "Box", "Device", "config"]

#: Bytes of the container's own /dev/shm; what docker gives.
SHARED_MEMORY: Final = 64 * 1024 * 1024
#: Bytes of /dev, which holds a few nodes and links.
_DEVICES: Final = 64 * 1024

#: Nothing in it acts with more rights or is a device. For a directory it holds for file systems mounted below as well; with that form crun 1.8 takes a file for a directory.
_DIRECTORY: Final = ("rbind", "rnosuid", "rnodev")
_FILE: Final = ("bind", "nosuid", "nodev")

_NAMESPACES: Final = ("pid", "ipc", "uts", "mount", "network", "cgroup")
_CAPABILITY_SETS: Final = ("bounding", "effective", "permitted", "inheritable", "ambient")
#: What ``/proc`` tells of the machine and its kernel and no plugin needs; the engines' usual list. There is no ``/sys``.
MASKED: Final = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"),
)
_READONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@attrs.frozen
class Bind:
    """A file or directory of the host, and where it is in the container."""

    source: str
    target: str
    write: bool = False
    file: bool = False  #: whether it is no directory


@attrs.frozen
class Device:
    """A device of the host that is in the container as well, by its numbers; ``kind`` is ``c`` or ``b``, ``mode`` who may use it."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int


@attrs.frozen
class Box:
    """What one container is to be. ``root`` is a directory, of which nothing can be changed from inside."""

    root: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    binds: Sequence[Bind]
    directory: str = "/"  #: where its process starts
    rootless: tuple[int, int] | None = None  #: user and group of a host without privileges, who is user 0 inside
    temporary: tuple[str, int] = ("/tmp", 64 * 1024 * 1024)  #: where a file system of its own is for temporary files, and its bytes  # noqa: S108 - inside the container
    limits: Sequence[tuple[str, int, int]] = ()  #: resource limits (``RLIMIT_…``), soft and hard
    umask: int = 0o022
    devices: Sequence[Device] = ()


def config(box: Box) -> dict[str, Any]:
    """Return the configuration."""
    return {
        "ociVersion": "1.0.2",
        "process": _process(box),
        "root": {"path": box.root, "readonly": True},
        "hostname": "blackhole",
        "mounts": [*_own_mounts(box), *map(_mount, _ordered(box.binds))],
        "linux": _linux(box),
    }


def _process(box: Box) -> dict[str, Any]:
    return {
        "terminal": False,
        "user": {"uid": 0, "gid": 0, "umask": box.umask},
        "args": list(box.arguments),
        "env": [f"{name}={value}" for name, value in box.environment.items()],
        "cwd": box.directory,
        "capabilities": {name: [] for name in _CAPABILITY_SETS},
        "rlimits": [{"type": name, "soft": soft, "hard": hard} for name, soft, hard in box.limits],
        "noNewPrivileges": True,
    }


def _own_mounts(box: Box) -> list[dict[str, Any]]:
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        _memory("/dev", _DEVICES, "755", "noexec"),
        _memory("/dev/shm", SHARED_MEMORY, "1777", "nodev", "noexec"),  # noqa: S108 - the container's own
        _memory(box.temporary[0], box.temporary[1], "1777", "nodev"),
    ]


def _memory(where: str, size: int, mode: str, *more: str) -> dict[str, Any]:
    return {"destination": where, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", *more, f"mode={mode}", f"size={size}"]}


def _ordered(binds: Sequence[Bind]) -> list[Bind]:
    """Return what is to be mounted, outer directories first, or they would hide the inner ones."""
    return sorted(binds, key=lambda bind: (len(PurePosixPath(bind.target).parts), bind.target, bind.write))


def _mount(bind: Bind) -> dict[str, Any]:
    access = "rw" if bind.write else "ro" if bind.file else "rro"
    return {"destination": bind.target, "type": "bind", "source": bind.source, "options": [*(_FILE if bind.file else _DIRECTORY), access]}


def _allow(device: Device) -> dict[str, Any]:
    """Return that a device may be used, and not made anew."""
    return {"allow": True, "type": device.kind, "major": device.major, "minor": device.minor, "access": "rw"}


def _linux(box: Box) -> dict[str, Any]:
    linux: dict[str, Any] = {
        "namespaces": [{"type": name} for name in _NAMESPACES],
        "devices": [
            {
                "path": device.path,
                "type": device.kind,
                "major": device.major,
                "minor": device.minor,
                "fileMode": device.mode,
                "uid": 0,
                "gid": 0,
            }
            for device in box.devices
        ],
        "resources": {"devices": [{"allow": False, "access": "rwm"}, *map(_allow, box.devices)]},
        "maskedPaths": list(MASKED),
        "readonlyPaths": list(_READONLY),
        "seccomp": PROFILE,
    }
    if box.rootless is not None:
        user, group = box.rootless
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": user, "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": group, "size": 1}]
    return linux
