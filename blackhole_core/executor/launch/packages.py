"""What to type on this distribution to install a system program: an error that names it saves a search."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Final

__all__ = ["install_command"]

#: By the words of ``ID`` and ``ID_LIKE`` in ``/etc/os-release``.
_COMMANDS: Final = {
    "debian": "apt-get install",
    "ubuntu": "apt-get install",
    "fedora": "dnf install",
    "rhel": "dnf install",
    "suse": "zypper install",
    "arch": "pacman -S",
    "alpine": "apk add",
}

#: What a package is called elsewhere, by the command; where nothing stands it has Debian's name.
_ELSEWHERE: Final[Mapping[str, Mapping[str, str]]] = {
    "apt-get install": {"docker": "docker.io"},
    "dnf install": {
        "qemu-system-x86": "qemu-system-x86-core",
        "busybox-static": "busybox",
        "linux-image-cloud-amd64": "kernel-core",
        "docker": "moby-engine",
    },
    "zypper install": {"qemu-system-x86": "qemu-x86", "squashfs-tools": "squashfs", "linux-image-cloud-amd64": "kernel-default"},
    "pacman -S": {"busybox-static": "busybox", "linux-image-cloud-amd64": "linux"},
    "apk add": {"qemu-system-x86": "qemu-system-x86_64", "linux-image-cloud-amd64": "linux-virt"},
}

#: What not every distribution has, with those commands that install it.
_ONLY: Final[Mapping[str, frozenset[str]]] = {"runsc": frozenset({"apt-get install"})}


def install_command(*packages: str, release: Mapping[str, str] | None = None) -> str:
    """Return the command that installs ``packages``, as they are called on Debian; ``release`` is what ``/etc/os-release`` says if not this system's."""
    if release is None:
        try:
            release = platform.freedesktop_os_release()
        except OSError:
            release = {}
    words = (release.get("ID", ""), *release.get("ID_LIKE", "").split())
    command = next((_COMMANDS[word] for word in words if word in _COMMANDS), None)
    if command is not None and any(command not in _ONLY.get(package, {command}) for package in packages):
        command = None
    names = " ".join(_ELSEWHERE.get(command or "", {}).get(package, package) for package in packages)
    return f"{command} {names}" if command else f"install {names}"
