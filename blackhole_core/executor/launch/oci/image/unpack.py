"""Lay the files of an image's layers out in a directory.

An archive is a stranger's: every name is resolved inside the directory, links included; what is no file, directory or link is left out; set-user-id bits are
dropped, and everything belongs to the user of this process. The directory is this process's alone meanwhile.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from blackhole_core.executor.launch.oci.image.errors import BadImage
from blackhole_core.executor.launch.oci.image.inside import resolve
from blackhole_core.executor.launch.oci.image.layout import Hashed, Image, Source, open_layer

__all__ = ["MOST_BYTES", "MOST_ENTRIES", "unpack"]

#: Bytes of all layers, uncompressed: the largest public images of Python with its libraries for machine learning have 20 GB.
MOST_BYTES: Final = 32 * 2**30
#: Files, directories and links of all layers: a whole Debian with several thousand packages has a third of it.
MOST_ENTRIES: Final = 2_000_000
#: Bytes between two reports of progress.
_STEP: Final = 64 * 2**20
#: Names in a layer that say what of the layers below is gone.
_GONE: Final = ".wh."
_ALL_GONE: Final = ".wh..wh..opq"
#: Bytes of one member's name and other properties, which are read into memory at once, and of what is read ahead.
_MOST_PROPERTIES: Final = 2**20
#: Bytes read at once of what follows the end of a layer's archive.
_REST: Final = 2**16


def unpack(
    source: Source,
    image: Image,
    root: Path,
    *,
    progress: Callable[[str], object] = lambda said: None,
    most_bytes: int = MOST_BYTES,
    most_entries: int = MOST_ENTRIES,
) -> None:
    """Lay the files of ``image`` out in ``root``, an empty directory. When it fails, what is there is of no use.

    :raises BadImage: a layer is damaged, names a place outside, or is too large.
    :raises OSError: there is no room for it.
    """
    budget = _Budget(most_bytes, most_entries, progress)
    for number, layer in enumerate(image.layers, 1):
        with open_layer(source, layer) as stream:
            progress(f"unpacking layer {number} of {len(image.layers)}")
            budget.begin(stream)
            try:
                _Applied(root, budget).apply(stream)
                while stream.read(_REST):
                    budget.spend_bytes()
            except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise BadImage(f"layer {number} of it is damaged ({error})") from None
            if stream.digest != layer.digest:
                raise BadImage(f"layer {number} of it is damaged: it has the digest {stream.digest}, and should have {layer.digest}")


class _Budget:
    """What may still be laid out."""

    def __init__(self, most_bytes: int, most_entries: int, progress: Callable[[str], object]) -> None:
        self._most_bytes = most_bytes
        self._most_entries = most_entries
        self._progress = progress
        self._entries = self._files = self._before = self._told = 0
        self._stream: Hashed | None = None

    def begin(self, stream: Hashed) -> None:
        self._before += self._stream.count if self._stream is not None else 0
        self._stream = stream

    def spend_entry(self, size: int) -> None:
        """Count an entry, which has ``size`` bytes."""
        self._entries += 1
        if self._entries > self._most_entries:
            raise BadImage(f"it has more than {self._most_entries} files")
        self._files += size  # a sparse one takes little of the archive, and all of it here
        self.spend_bytes()

    def spend_bytes(self) -> None:
        """Count what has been read of the layer."""
        assert self._stream is not None
        spent = max(self._files, self._before + self._stream.count)
        if spent > self._most_bytes:
            raise BadImage(f"it has more than {self._most_bytes // 2**20} MB unpacked")
        if spent - self._told >= _STEP:
            self._told = spent
            self._progress(f"{spent // 2**20} MB")


class _Applied:
    """One layer, being put over those below it."""

    def __init__(self, root: Path, budget: _Budget) -> None:
        self._root = root
        self._budget = budget
        self._own: set[Path] = set()  # what this layer itself has put there, and the directories on the way to it

    def apply(self, stream: Hashed) -> None:
        stream.most = _MOST_PROPERTIES
        with tarfile.open(fileobj=stream, mode="r|", errorlevel=2) as archive:  # type: ignore[call-overload]  # the stubs know no variable mode of a reader
            for member in archive:
                stream.most = archive.offset + _MOST_PROPERTIES  # its content is before that
                self._budget.spend_entry(member.size)
                self._put(archive, member)
                archive.members.clear()  # or it would remember all of them
        stream.most = None

    def _put(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parent, name = self._locate(member.name)
        if name == "":
            return  # the root directory itself
        if name == _ALL_GONE:
            self._clear(parent)
        elif name.startswith(_GONE):
            _remove(parent / name.removeprefix(_GONE))
        else:
            self._add(archive, member, parent, name)

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: Path, name: str) -> None:
        self._make_directory(parent)
        path = parent / name
        if member.isdir():
            self._make_directory(path)
        elif member.issym():
            _remove(path)
            path.symlink_to(member.linkname)
        elif member.islnk():
            self._link(path, member)
        elif member.isfile():
            _remove(path)
            self._write(archive, member, path)
        self._own.add(path)

    def _locate(self, name: str) -> tuple[Path, str]:
        """Return the directory that ``name`` is in, its links followed, and its last part, which may be a link itself."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in name:
            raise BadImage(f"it names {name!r}, which leads out of it")
        if not parts:
            return self._root, ""
        if parts[-1] in (_GONE, f"{_GONE}.", f"{_GONE}.."):
            raise BadImage(f"it names {name!r}, which removes what it is in")
        return resolve(self._root, "/".join(parts[:-1])), parts[-1]

    def _make_directory(self, path: Path) -> None:
        """Have a directory at ``path``, whose parents may be missing."""
        for directory in reversed((path, *path.parents)):
            if directory.is_relative_to(self._root):
                if not directory.is_dir() or (directory.is_symlink() and directory == path):
                    _remove(directory)
                    directory.mkdir(0o755)
                self._own.add(directory)

    def _link(self, path: Path, member: tarfile.TarInfo) -> None:
        parent, name = self._locate(member.linkname)
        existing = parent / name
        if existing.is_symlink() or not existing.is_file():
            raise BadImage(f"it links {member.name!r} to {member.linkname!r}, which is no file in it")
        if existing != path:
            _remove(path)
            os.link(existing, path, follow_symlinks=False)

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        content = archive.extractfile(member)
        assert content is not None  # of a file
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with content, os.fdopen(opened, "wb") as file:
            shutil.copyfileobj(content, file, 2**20)
            os.fchmod(file.fileno(), (member.mode & 0o755) | 0o400)

    def _clear(self, directory: Path) -> None:
        """Remove from ``directory`` what the layers below have put there."""
        if directory.is_dir():
            for entry in list(directory.iterdir()):
                if entry not in self._own:
                    _remove(entry)
                elif entry.is_dir() and not entry.is_symlink():
                    self._clear(entry)


def _remove(path: Path) -> None:
    """Remove whatever is at ``path``; a link itself, not where it leads."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
