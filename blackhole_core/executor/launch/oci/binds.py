"""From the places that a worker may reach to what is mounted into its container."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from blackhole_core.executor.launch.oci.bundle import Bind
from blackhole_core.executor.wire.policy import Place

__all__ = ["binds_of", "interpreter"]

#: What no container has, whatever it may read: it tells of the machine and its control groups.
_SYS: Final = "/sys"


def interpreter() -> str:
    """Return the interpreter itself, past the links of a virtual environment: what that adds is on the import path."""
    return os.path.realpath(sys.executable)


def binds_of(places: Iterable[Place]) -> Iterator[Bind]:
    """Return what to mount. Devices are left out: the engine keeps every device but a few from a container."""
    for place in places:
        source, target = os.fsdecode(place.source), os.fsdecode(place.target)
        if not place.device and target != _SYS:
            yield Bind(source, target, place.write, file=not Path(source).is_dir())
