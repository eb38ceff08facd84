"""The root directory of a worker in a container made from an image, for its policy: where the worker finds what of its host it needs beside the image.

The worker's own program, and what else its host can import, are below :data:`OWN`, so that no file of the image is hidden by them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.importpath import beyond_library
from blackhole_core.executor.launch.oci.image.inside import resolve
from blackhole_core.executor.wire.policy import Place

__all__ = ["OWN", "ImageRoot", "import_path_inside", "importable"]

#: Where it is in there; images have nothing of that name.
OWN: Final = "/.blackhole"
#: What is first on the worker's import path.
_FIRST: Final = f"{OWN}/own"
_PACKAGE: Final = Path(__file__).parents[2]


@attrs.frozen
class ImageRoot:
    """An image: its files on this machine, and one beside them that a worker in there cannot read."""

    directory: Path
    unreadable: Path

    def places(self, import_path: Iterable[str]) -> Iterator[Place]:
        """Return what the worker may read before anything is granted, with a host of this import path."""
        yield Place(os.fsencode(self.directory), b"/")
        yield Place(os.fsencode(os.path.realpath(_PACKAGE)), os.fsencode(f"{_FIRST}/{_PACKAGE.name}"))
        for source, target in importable(import_path):
            yield Place(os.fsencode(os.path.realpath(source)), os.fsencode(target))

    def program(self, path: str) -> Iterator[Place]:
        """Return the program, or the directory of programs, at ``path`` in there; nothing where there is nothing."""
        real = resolve(self.directory, path)
        if real.exists():
            yield Place(os.fsencode(real), os.fsencode(f"/{real.relative_to(self.directory)}"), execute=True)

    @property
    def unwritable(self) -> bytes:
        """A file of the worker's program in there."""
        return os.fsencode(f"{_FIRST}/{_PACKAGE.name}/__init__.py")


def importable(import_path: Iterable[str]) -> list[tuple[str, str]]:
    """Return what of the host's import path is of use in an image, and where it is in there."""
    return [(entry, f"{OWN}/path/{number}") for number, entry in enumerate(beyond_library(import_path))]


def import_path_inside(import_path: Iterable[str]) -> list[str]:
    """Return what comes before, and what comes after the import path of the image's interpreter: the first entry, and the others."""
    return [_FIRST, *(target for _, target in importable(import_path))]
