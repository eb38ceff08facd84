"""What an image holds, as a value: directories, files and symbolic links by the path they have in the guest, which is the one they have here.

A file keeps its path so that nothing has to be translated: the interpreter finds its library, a library its neighbours, a traceback names the file
that the author has. Where the path leads through symbolic links here, the same links are in the image.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import attrs

__all__ = ["Link", "Made", "Read", "Tree"]

#: Modification time of all that this program makes, seconds: 1980, the first that every archive format can say.
MADE_AT: Final = 315532800


@attrs.frozen
class Read:
    """A file of this machine; ``size`` is what it was when it was found."""

    source: str
    size: int
    executable: bool


@attrs.frozen
class Made:
    """A file with this content."""

    content: bytes = attrs.field(repr=False)
    executable: bool = False


@attrs.frozen
class Link:
    """A symbolic link."""

    target: str


class Tree:
    """Absolute paths and what is there. Parents come by themselves; what was added first stays."""

    def __init__(self) -> None:
        self._nodes: dict[str, Read | Made | Link | None] = {}  # None is a directory
        self._real: dict[str, str] = {"/": "/"}  # directories of this machine, with all links followed

    def __contains__(self, path: object) -> bool:
        return str(path) in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def directory(self, path: str) -> None:
        """Have a directory at ``path``, if nothing else is there."""
        while path != "/" and path not in self._nodes:
            self._nodes[path] = None
            path = posixpath.dirname(path)

    def make(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """Have a file with this content."""
        self._put(path, Made(content, executable))

    def link(self, path: str, target: str) -> None:
        """Have a symbolic link."""
        self._put(path, Link(target))

    def add(self, path: str | Path) -> None:
        """Have what ``path`` leads to on this machine, and the symbolic links on the way; a directory comes without what it holds.

        :raises OSError: it is not there.
        """
        path = str(path)
        os.stat(path)  # noqa: PTH116 - strings throughout: a site-packages has 25,000 files
        while True:
            name = posixpath.basename(path)
            parent = self._real_directory(posixpath.dirname(path))
            if name in ("", ".", ".."):
                return self.directory(self._real_directory(path))
            real = posixpath.join(parent, name)
            status = os.lstat(real)
            if not stat.S_ISLNK(status.st_mode):
                return self._take(real, status)
            path = self._follow(real)

    def entries(self) -> Iterator[tuple[str, Read | Made | Link | None]]:
        """Yield everything, sorted by path: a directory before what it holds."""
        return iter(sorted(self._nodes.items()))

    def digest(self) -> bytes:
        """Return a digest of everything that :meth:`write` would write; reads every file.

        :raises OSError: a file cannot be read.
        """
        whole = hashlib.sha256()
        for path, node in self.entries():
            for part in (path.encode(errors="surrogateescape"), _said_of(node)):
                whole.update(len(part).to_bytes(8, "big") + part)
        return whole.digest()

    def write(self, to: IO[bytes], *, progress: Callable[[int, int], object] = lambda done, total: None) -> None:
        """Write a tar archive in which all belongs to root and is of one time; ``progress`` hears how many entries of how many are done.

        :raises OSError: a file cannot be read, or nobody reads what is written.
        """
        with tarfile.open(fileobj=to, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            for done, (path, node) in enumerate(self.entries()):
                _write_node(archive, path.lstrip("/"), node)
                progress(done + 1, len(self))

    # ------------------------------------------------------------------------------------------------------------------

    def _real_directory(self, path: str) -> str:
        """Return where directory ``path`` really is, having added the links that lead there. ``..`` is taken as the kernel takes it."""
        known = self._real.get(path)
        if known is None:
            parent, name = posixpath.split(path)
            above = self._real_directory(parent)
            if name in ("", "."):
                known = above
            elif name == "..":
                known = posixpath.dirname(above)
            else:
                here = posixpath.join(above, name)
                known = self._real_directory(self._follow(here)) if posixpath.islink(here) else here
            self._real[path] = known
        return known

    def _follow(self, real: str) -> str:
        """Have the link at ``real``, and return where it leads."""
        target = os.readlink(real)  # noqa: PTH115 - as it is written
        self._put(real, Link(target))
        return posixpath.join(posixpath.dirname(real), target)

    def _take(self, real: str, status: os.stat_result) -> None:
        if stat.S_ISDIR(status.st_mode):
            self.directory(real)
        elif stat.S_ISREG(status.st_mode):
            self._put(real, Read(real, status.st_size, bool(status.st_mode & 0o111)))
        # Sockets, pipes and devices have no place in an image.

    def _put(self, path: str, node: Read | Made | Link) -> None:
        self.directory(posixpath.dirname(path))
        self._nodes.setdefault(path, node)


def _said_of(node: Read | Made | Link | None) -> bytes:
    match node:
        case None:
            return b"directory"
        case Link():
            return b"link " + node.target.encode(errors="surrogateescape")
        case Made():
            return b"file %d " % node.executable + hashlib.sha256(node.content).digest()
        case Read():
            return b"file %d " % node.executable + _digest_file(node.source)


def _digest_file(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - thousands of them
        return hashlib.file_digest(file, "sha256").digest()


def _write_node(archive: tarfile.TarFile, name: str, node: Read | Made | Link | None) -> None:
    info = tarfile.TarInfo(name)
    info.mtime, info.mode = MADE_AT, 0o755
    match node:
        case None:
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        case Link():
            info.type, info.linkname = tarfile.SYMTYPE, node.target
            archive.addfile(info)
        case Made():
            info.size, info.mode = len(node.content), 0o755 if node.executable else 0o644
            archive.addfile(info, io.BytesIO(node.content))
        case Read():
            info.size, info.mode = node.size, 0o755 if node.executable else 0o644
            with open(node.source, "rb") as file:  # noqa: PTH123 - thousands of them
                archive.addfile(info, file)
