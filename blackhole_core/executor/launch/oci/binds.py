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

#: Of the host's root directory, what a container has of its own.
_OWN: Final = ("dev", "proc", "sys", "tmp")


def interpreter() -> str:
    """Return the interpreter itself, past the links of a virtual environment: what that adds is on the import path."""
    return os.path.realpath(sys.executable)


def binds_of(places: Iterable[Place]) -> Iterator[Bind]:
    """Return what to mount. The root directory itself cannot be: what is in it is, without what the container has of its own.

    Devices are left out: the engine keeps every device but a few from a container.
    """
    for place in places:
        source, target = os.fsdecode(place.source), os.fsdecode(place.target)
        if target == "/":
            tops = (path for path in Path("/").iterdir() if path.name not in _OWN and path.exists())
            yield from (_bind(path.resolve(), str(path), place) for path in tops)
        elif not place.device:
            yield _bind(Path(source), target, place)


def _bind(source: Path, target: str, place: Place) -> Bind:
    return Bind(str(source), target, place.write, file=not source.is_dir())
