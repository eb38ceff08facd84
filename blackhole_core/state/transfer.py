"""One snapshot in one file, to be carried to another host: the same bytes as in a store."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import Final

from blackhole_core.errors import StateError
from blackhole_core.state import disk
from blackhole_core.state.snapshot import OVERHEAD, STATE_CAP, Snapshot, decode, encode

__all__ = ["dump_file", "load_file"]

_SUFFIX: Final = ".blackhole-tmp"


def dump_file(snapshot: Snapshot, path: Path, *, limit: int = STATE_CAP) -> None:
    """Write ``snapshot`` to ``path`` with mode 0600. What was there is replaced in one step, or stays when this raises :class:`StateError`.

    A link at ``path`` is replaced, not followed. What an earlier, killed export to the same name left beside it is removed.
    """
    data = encode(snapshot, limit=limit)
    path = Path(path).absolute()
    try:
        with disk.open_directory(path.parent, follow=True) as directory:
            _sweep(path.name, directory)
            _replace(path.name, directory, data)
    except OSError as error:
        raise StateError(f"state of plugin {snapshot.plugin} could not be written to {path}: {disk.explain(error)}") from error


def load_file(path: Path, plugin: str, *, limit: int = STATE_CAP) -> Snapshot:
    """Return the snapshot in ``path``. Raise :class:`SnapshotDamaged` unless it is a whole one of ``plugin``, :class:`StateError` when it cannot be read.

    ``path`` is what an operator named, so it may be a link.
    """
    try:
        data = disk.read_regular(str(path), None, path=Path(path), limit=limit + OVERHEAD, follow=True)
    except OSError as error:
        raise StateError(f"state of plugin {plugin} could not be read from {path}: {disk.explain(error)}") from error
    return decode(data, path=Path(path), plugin=plugin, limit=limit)


def _replace(name: str, directory: int, data: bytes) -> None:
    temporary = f".{name}.{secrets.token_hex(8)}{_SUFFIX}"
    descriptor = disk.create_locked(temporary, directory)
    if descriptor is None:
        raise StateError(f"another export to {name!r} is running; try again when it has ended")
    try:
        disk.write_all(descriptor, data)
        os.fsync(descriptor)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        os.close(descriptor)


def _sweep(name: str, directory: int) -> None:
    leftover = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}{re.escape(_SUFFIX)}")
    for entry in os.listdir(directory):
        if leftover.fullmatch(entry):
            disk.sweep(entry, directory)
