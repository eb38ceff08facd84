"""Read a ``plugin.yaml``: from bytes, or from a file that is a regular one and not too big."""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path
from typing import Final

from blackhole_core.errors import ManifestError, Problem, SourceError
from blackhole_core.manifest.check import check_manifest
from blackhole_core.manifest.model import Manifest
from blackhole_core.manifest.yaml import MAX_BYTES, Document, load_strict

__all__ = ["parse_manifest", "read_manifest", "read_regular_file"]

#: Documents remembered, the last ones read: of a host with more watched plugins than this the rest is read again at a save.
_MOST_REMEMBERED: Final = 64


def parse_manifest(data: bytes, *, file: str) -> Manifest:
    """Return the manifest in ``data``; ``file`` is its name for messages.

    Raises :class:`~blackhole_core.errors.ManifestError` with every problem.
    """
    return check_manifest(_document(data, file))


@functools.lru_cache(maxsize=_MOST_REMEMBERED)
def _document(data: bytes, file: str) -> Document:
    """Read the YAML of a manifest. Reading takes 0.7 ms, and most reloads of a plugin find the bytes they found before.

    A document is shared; what it is checked and turned into is made anew each time.
    """
    return load_strict(data, file=file)


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in the file ``path``; a link, a device or a file over the cap is refused before it is read.

    Raises :class:`~blackhole_core.errors.ManifestError`, also for a file that cannot be read.
    """
    try:
        data = read_regular_file(path, max_bytes=MAX_BYTES)
    except SourceError as error:
        problem = Problem(file=str(path), line=None, path="", wanted=f"a regular file of at most {MAX_BYTES} bytes", got=str(error))
        raise ManifestError([problem]) from error
    return parse_manifest(data, file=str(path))


def read_regular_file(path: Path, *, max_bytes: int) -> bytes:
    """Return the bytes of a regular file that is not a symbolic link and has at most ``max_bytes``.

    Raises :class:`~blackhole_core.errors.SourceError` with what it is instead. The file is opened once and judged by its descriptor, so nothing
    can be put in its place between the look and the reading; a FIFO or device is opened without waiting.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        kind = "a symbolic link" if path.is_symlink() else error.strerror or type(error).__name__
        raise SourceError(kind) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SourceError("a directory" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket")
        if status.st_size > max_bytes:
            raise SourceError(f"{status.st_size} bytes")
        return _read(descriptor, max_bytes)
    finally:
        os.close(descriptor)


def _read(descriptor: int, max_bytes: int) -> bytes:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # it grew after the look
        raise SourceError(f"more than {max_bytes} bytes")
    return data
