"""From the places that a worker may reach to what is mounted into its container, and the devices it has."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from blackhole_core.executor.launch.oci.bundle import Bind, Device
from blackhole_core.executor.wire.policy import Place

__all__ = ["binds_of", "devices_of", "interpreter"]

#: What no container has, whatever it may read: it tells of the machine and its control groups.
_SYS: Final = "/sys"


def interpreter() -> str:
    """Return the interpreter itself, past the links of a virtual environment: what that adds is on the import path."""
    return os.path.realpath(sys.executable)


def devices_of(places: Iterable[Place]) -> Iterator[Device]:
    """Return the devices among the places, and in those that are directories."""
    found: dict[str, Device] = {}
    for place in places:
        if place.device:
            source, target = os.fsdecode(place.source), os.fsdecode(place.target)
            inside = [os.path.join(where, name) for where, _, names in os.walk(source) for name in names]  # noqa: PTH118 - as walked
            for path in inside or [source]:
                status = os.stat(path)  # noqa: PTH116 - its path is text
                if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                    there = target + path.removeprefix(source)
                    found[there] = Device(
                        there,
                        "c" if stat.S_ISCHR(status.st_mode) else "b",
                        os.major(status.st_rdev),
                        os.minor(status.st_rdev),
                        stat.S_IMODE(status.st_mode),
                    )
    return iter(found.values())


def binds_of(places: Iterable[Place]) -> Iterator[Bind]:
    """Return what to mount: neither devices, which the engine makes, nor what has a place of its own there."""
    for place in places:
        source, target = os.fsdecode(place.source), os.fsdecode(place.target)
        if not place.device and target not in (_SYS, "/"):
            yield Bind(source, target, place.write, file=not Path(source).is_dir())
