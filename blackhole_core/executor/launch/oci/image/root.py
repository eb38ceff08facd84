"""How the root directory of a container is made from an image that must not be changed: which parts of it are mounted as they are, and which are taken apart
because something else is to be mounted inside them.

The engine makes what is missing of a place to mount on. It must not do so in the image, which other containers have as well. So a directory of the image in which a place is
missing is not mounted: it is made anew, and what is in it is mounted each for itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import attrs

from blackhole_core.executor.launch.oci.bundle import Bind
from blackhole_core.executor.launch.oci.image.inside import is_there, resolve

__all__ = ["Laid", "lay_out"]

#: What a container has of its own, whatever its image has there.
_OWN: Final = frozenset({"dev", "proc", "sys"})


@attrs.frozen
class Laid:
    """What of an image goes where: what is mounted, the links to make, and the directories."""

    binds: tuple[Bind, ...]
    links: tuple[tuple[str, str], ...]
    directories: tuple[str, ...]


def lay_out(image: Path, mounted: Iterable[Bind], temporary: str) -> Laid:
    """Return the parts of the image at ``image``, in whose container ``mounted`` is to be as well, and a file system of its own at ``temporary``."""
    missing = {
        PurePosixPath("/", resolve(image, bind.target).relative_to(image))
        for bind in mounted
        if not is_there(image, bind.target, file=bind.file)
    }
    hidden = {PurePosixPath("/", name) for name in _OWN} | {PurePosixPath(temporary)}
    parts = list(_parts(image, PurePosixPath("/"), missing, hidden))
    return Laid(
        tuple(part for part in parts if isinstance(part, Bind)),
        tuple(part for part in parts if isinstance(part, tuple)),
        tuple(part for part in parts if isinstance(part, str)),
    )


def _parts(
    directory: Path, inside: PurePosixPath, missing: set[PurePosixPath], hidden: set[PurePosixPath]
) -> Iterator[Bind | tuple[str, str] | str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            path = inside / entry.name
            if path in hidden or path in missing:
                continue
            if entry.is_symlink():
                yield str(path), os.readlink(entry.path)  # noqa: PTH115 - as it is written
            elif entry.is_dir() and any(place.is_relative_to(path) for place in (*missing, *hidden)):
                yield str(path)
                yield from _parts(Path(entry.path), path, missing, hidden)
            else:
                yield Bind(entry.path, str(path), file=not entry.is_dir())
