"""Files that are either whole or not there, relative to an open directory.

Rules: nothing is opened through a link (``O_NOFOLLOW``), nothing but a regular file is read, every file is made with ``O_EXCL`` and mode 0600. A file
that is being written is locked (``flock``) by its writer from its first moment to its last; the kernel frees the lock when the writer
dies, however it dies, so a temporary file whose lock is free belongs to nobody. No age, no pid has to be guessed from.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blackhole_core.errors import SnapshotDamaged

__all__ = ["create_locked", "explain", "make_directory", "open_directory", "read_regular", "sweep", "write_all"]

_ADVICE: Final = {
    errno.ENOSPC: "free some space or move the state directory to a larger disk",
    errno.EDQUOT: "raise the quota or free some space",
    errno.EFBIG: "raise the file size limit (ulimit -f) of the host",
    errno.EROFS: "mount it writable or choose another state directory",
    errno.EACCES: "give the host's user access to it or choose another state directory",
    errno.EPERM: "the file system or an attribute forbids it (hard links are needed), choose another state directory",
    errno.EOPNOTSUPP: "the file system lacks hard links or locks, choose another state directory",
    errno.ENOLCK: "the file system lacks locks, choose another state directory",
    errno.ENOTDIR: "a file or link stands where a directory of the store belongs, remove it",
    errno.ELOOP: "a link stands where a file of the store belongs, remove it",
    errno.EIO: "the disk fails, look at the kernel's log",
    errno.EMFILE: "raise the limit of open files (ulimit -n) of the host",
    errno.ENFILE: "the machine has too many open files",
}


def explain(error: OSError) -> str:
    """Say what the system said and what to do about it: ``"No space left on device; free some space …"``."""
    said = error.strerror or type(error).__name__
    advice = _ADVICE.get(error.errno or 0)
    return f"{said}; {advice}" if advice else said


def make_directory(path: Path) -> None:
    """Make ``path`` with mode 0700, and what is missing above it, so that it survives a power failure. An existing one stays as it is."""
    try:
        path.mkdir(0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_directory(path.parent)
        with contextlib.suppress(FileExistsError):  # somebody else was quicker
            path.mkdir(0o700)
    with open_directory(path.parent, follow=True) as parent:
        os.fsync(parent)


@contextlib.contextmanager
def open_directory(path: Path, *, follow: bool = False) -> Iterator[int]:
    """Hold ``path`` open; its last part may be a link only with ``follow``. Raise ``OSError``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def create_locked(name: str, directory: int) -> int | None:
    """Make a new file and return its locked descriptor; None when a sweeper took it before the lock was ours.

    Raise ``FileExistsError`` when the name is taken, whatever stands there.
    """
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        if _lock(descriptor) and _stands_at(descriptor, name, directory):
            return descriptor
    except BaseException:  # no locks on this file system, Ctrl-C: nobody would ever use this file
        if _stands_at(descriptor, name, directory):
            os.unlink(name, dir_fd=directory)
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, in as many turns as the kernel wants."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def read_regular(name: str, directory: int | None, *, path: Path, limit: int, follow: bool = False) -> bytes:
    """Return the bytes of a regular file. ``path`` is only named in errors.

    Raise :class:`SnapshotDamaged` for a link (unless ``follow``), a directory, a pipe, more than ``limit`` bytes or a disk error; other ``OSError`` as is.
    """
    # O_NONBLOCK: opening a pipe must not wait for somebody to write to it.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
        try:
            return _read_checked(descriptor, path, limit)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SnapshotDamaged(path, "it is a symbolic link, wanted a regular file") from error
        if error.errno in {errno.EIO, errno.ENXIO}:
            raise SnapshotDamaged(path, f"it cannot be read: {explain(error)}") from error
        raise


def sweep(name: str, directory: int) -> bool:
    """Remove a temporary file if its writer is dead; return whether it did. Raise ``OSError`` when it cannot be removed."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return False
    try:
        # With the lock ours and the name still this file's, no writer can own it: a writer that has just made it will find the lock taken.
        if not (_lock(descriptor) and _stands_at(descriptor, name, directory)):
            return False
        os.unlink(name, dir_fd=directory)
        return True
    finally:
        os.close(descriptor)


def _read_checked(descriptor: int, path: Path, limit: int) -> bytes:
    """Return at most one byte more than the file had when it was opened: one too many shows a file that grew."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise SnapshotDamaged(path, f"it is {_kind(status.st_mode)}, wanted a regular file")
    if status.st_size > limit:
        raise SnapshotDamaged(path, f"it has {status.st_size} bytes, at most {limit} are allowed")
    parts: list[bytes] = []
    left = status.st_size + 1
    while left > 0 and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stands_at(descriptor: int, name: str, directory: int) -> bool:
    """Tell whether ``name`` is still the file that is open as ``descriptor``."""
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something special")
