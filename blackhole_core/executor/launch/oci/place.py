"""Where a host keeps the bundles of its containers and the engine's notes about them, and how the next host finds what a killed one left.

``<runtime directory>/blackhole-<uid>/containers`` holds one directory per host, in which a locked file says that the host lives: the kernel gives
the lock back whatever ends the host. Making such a directory and looking for those of dead hosts happen under one lock of all, so that none is taken
for dead before it has its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

__all__ = ["Place", "containers_directory"]

_MODE: Final = 0o700
_LOCK: Final = "alive"
#: The file whose lock orders all hosts of one user.
_ALL: Final = "all"


def containers_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Return the directory of this user's containers; it need not exist.

    It lies where the next start of the machine removes it, if there is such a place.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):  # the specification: anything else is to be ignored
        return Path(runtime, "blackhole", "containers")
    if uid == 0 and os.access("/run", os.W_OK):
        return Path("/run/blackhole/containers")
    return Path(tempfile.gettempdir(), f"blackhole-{uid}", "containers")


class Place:
    """The directory of one host. ``clean(directory)`` ends what a dead host left running in its own, before that is removed."""

    def __init__(self, base: Path, clean: Callable[[Path], object]) -> None:
        """Make it, and remove those of dead hosts.

        :raises OSError: it cannot be made, or somebody else could have put something there.
        """
        _make_private(base.parent)
        _make_private(base)
        with _locked(base / _ALL):
            _sweep(base, clean)
            self.directory: Final = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=base))
            self._lock = _open_lock(self.directory / _LOCK)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.engine: Final = self.directory / "engine"  #: for the engine's notes

    def bundle(self) -> Path:
        """Return a new, empty directory; its name is the container's, and says whose that is."""
        return Path(tempfile.mkdtemp(prefix=f"blackhole-{os.getpid()}-", dir=self.directory))

    def close(self) -> None:
        """Remove the directory; there is no container any more."""
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock)


def _sweep(base: Path, clean: Callable[[Path], object]) -> None:
    for directory in base.iterdir():
        if not directory.is_dir() or directory.is_symlink():
            continue
        try:
            lock = _open_lock(directory / _LOCK)
        except FileNotFoundError:
            continue  # its host has just removed it
        with contextlib.closing(os.fdopen(lock)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            clean(directory)
            shutil.rmtree(directory, ignore_errors=True)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make_private(directory: Path) -> None:
    """Make ``directory``, or refuse one in which somebody else could have put something."""
    directory.mkdir(_MODE, parents=True, exist_ok=True)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{directory} is no directory that only user {os.geteuid()} can write to; remove it")
