"""Temporary files of one host, and what hosts that were killed left of theirs.

All of a host's temporary directories lie in one, ``<temporary directory>/blackhole-host-<pid>-<start time>-<random>``, which its end removes. A host
that is killed cannot; so the first directory that any later host makes sweeps what such hosts left. Nobody else's is ever touched:

* the name has the form above, and it is a directory of this user, no link;
* the process it names does not exist any more: none has that number *and* that start time;
* nobody holds its lock. The kernel drops a lock with the process that has it, wherever that runs: a host in a container that shares the temporary
  directory has other process numbers, and holds its lock all the same.

Removing follows no link, needs no recursion however deep the directories are, and ends after a while: plugins choose what lies there.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
import threading
import time
from pathlib import Path
from typing import Final, Self

__all__ = ["Scratch", "remove", "sweep"]

logger: Final = logging.getLogger("blackhole.scratch")

_NAME: Final = re.compile(r"blackhole-host-([1-9]\d{0,9})-(\d{1,20})-[a-z0-9_]{8}")
#: Seconds that removing one directory, and all that a sweep does, may take. What is left then is for the next sweep.
REMOVE_SECONDS: Final = 5.0
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Scratch:
    """The temporary directory of one host, made when it is first needed. Any thread; closed once, by the process that made it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards what follows; held while the directory is made
        self._directory: Path | None = None
        self._claim = -1
        self._closed = False

    def new(self, name: str) -> Path:
        """Return a new, empty directory for this user alone; its name begins with ``name``. Remove it with :func:`remove`, or leave it to :meth:`close`.

        :raises OSError: it cannot be made.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the host's temporary directory is closed")
            if self._directory is None or os.getpid() != self._pid:
                self._make()
            return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._directory))

    def _make(self) -> None:
        self._pid = os.getpid()  # in a fork of the host: the directory above stays that one's
        base = Path(tempfile.gettempdir())
        sweep(base)
        while True:
            directory = Path(tempfile.mkdtemp(prefix=f"blackhole-host-{self._pid}-{_start_time(self._pid)}-", dir=base))
            claim = os.open(directory, _DIRECTORY)
            # A host that cannot see this process may have taken the directory for a dead one's until the lock was ours.
            if _lock(claim) is not False and _stands_at(claim, directory):
                self._directory, self._claim = directory, claim
                return
            os.close(claim)

    def close(self) -> None:
        """Remove it with all it holds. Idempotent; nothing in a fork of the host."""
        with self._lock:
            self._closed = True
            directory, self._directory = self._directory, None
            if directory is None or os.getpid() != self._pid:
                return
            remove(directory)
            os.close(self._claim)  # last: what could not be removed is swept when it is free

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweep(base: Path) -> tuple[Path, ...]:
    """Remove what killed hosts left in ``base``, as far as that takes a moment, and return what is gone."""
    end = time.monotonic() + REMOVE_SECONDS
    gone = []
    for name in _names_in(base):
        try:
            if _is_dead(base / name) and _remove_claimed(base / name, end):
                gone.append(base / name)
        except OSError as error:  # another user's, or its disk fails: it is in nobody's way
            logger.debug("%s, perhaps left by a host that was killed, is not removed: %s", base / name, error)
    if gone:
        logger.info("removed what hosts that were killed had left: %s", ", ".join(map(str, gone)))
    return tuple(gone)


def remove(directory: Path) -> bool:
    """Remove a directory with all it holds, and return whether nothing is left of it after :data:`REMOVE_SECONDS`; what is left is swept later."""
    try:
        _remove(directory, time.monotonic() + REMOVE_SECONDS)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("the temporary directory %s is left: %s", directory, error)
        return False
    return True


def _names_in(base: Path) -> list[str]:
    try:
        with os.scandir(base) as entries:
            return sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))
    except OSError:  # not there, or not ours to read: then there is nothing of ours in it
        return []


def _is_dead(directory: Path) -> bool:
    """Whether it is a directory of this user's whose process has ended."""
    found = os.lstat(directory)
    named = _NAME.fullmatch(directory.name)
    assert named is not None, "only such names are listed"
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and _start_time(int(named[1])) not in (int(named[2]), None)


def _start_time(pid: int) -> int | None:
    """Return when a process started, in ticks since the machine did; -1 when there is none, None when that cannot be known here."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])  # proc(5): field 22
    except (FileNotFoundError, ProcessLookupError):
        return -1 if os.path.exists("/proc/self/stat") else None  # noqa: PTH110 - no Path is at hand
    except OSError:  # hidden from this user: then it is another one's
        return None


def _remove_claimed(directory: Path, end: float) -> bool:
    """Remove it if nobody holds its lock."""
    claim = os.open(directory, _DIRECTORY)
    try:
        locked = _lock(claim)
        if locked:
            _remove(directory, end)
        return bool(locked)
    finally:
        os.close(claim)


def _lock(claim: int) -> bool | None:
    """Take the lock of a directory and return whether it could be had; None where there are no locks, and nothing is ever swept."""
    import fcntl

    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _stands_at(claim: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(claim), os.lstat(directory))
    except FileNotFoundError:
        return False


# --- without links, without recursion ----------------------------------------------------------------------------------------------------


def _remove(directory: Path, end: float) -> None:
    """Remove it. One directory is open at a time, so that neither paths nor stack nor descriptors grow with the depth.

    :raises TimeoutError: ``end`` came first.
    """
    here = _opened(str(directory), None)
    above: list[tuple[str, tuple[int, int]]] = []  # the name of each directory on the way down, and which one it lies in
    try:
        while True:
            below = _clear(here, end)
            if below is not None:
                above.append((below, _identity(here)))
                here = _changed(here, _opened(below, here))
            elif above:
                name, identity = above.pop()
                here = _changed(here, os.open("..", _DIRECTORY, dir_fd=here))
                if _identity(here) != identity:
                    raise OSError(f"{name} in it was moved while it was removed")
                os.rmdir(name, dir_fd=here)
            else:
                break
    finally:
        os.close(here)
    directory.rmdir()


def _clear(directory: int, end: float) -> str | None:
    """Remove files until there is a directory among what is left; return its name, None when nothing is left."""
    while True:
        with os.scandir(directory) as entries:
            some = 0
            for some, entry in enumerate(entries, 1):  # noqa: B007 - how many there were
                if time.monotonic() > end:
                    raise TimeoutError(f"removing it takes longer than {REMOVE_SECONDS:g} s")
                if entry.is_dir(follow_symlinks=False):
                    return entry.name
                os.unlink(entry.name, dir_fd=directory)
        if not some:
            return None


def _changed(old: int, new: int) -> int:
    os.close(old)
    return new


def _identity(directory: int) -> tuple[int, int]:
    found = os.fstat(directory)
    return found.st_dev, found.st_ino


def _opened(name: str, parent: int | None) -> int:
    """Open a directory to be emptied; its mode is no obstacle to whom it belongs."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if os.fstat(path).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{path}", stat.S_IRWXU)  # noqa: PTH101 - the descriptor itself, whatever the name has become
        return os.open(name, _DIRECTORY, dir_fd=parent)
    finally:
        os.close(path)
