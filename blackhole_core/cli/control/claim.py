"""One host per socket: the claim on a socket's path, and the listening socket at it.

The claim is an exclusive ``flock`` on ``<socket>.lock``. The kernel drops it with the process, however that ends, so a socket whose lock can be had
belongs to nobody alive and is replaced, and :func:`sweep` removes it. Workers never hold the lock: its descriptor is closed on exec.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import Final, Self

from blackhole_core.cli.control.server import listen
from blackhole_core.errors import BlackholeError

__all__ = ["HostRunning", "SocketClaim", "sweep"]

logger: Final = logging.getLogger("blackhole.control")

_LOCK: Final = ".lock"
#: Seconds for which a lock that somebody else has is tried again: a sweep has it for some 50 µs. A host that really runs is so found half a second later.
_TRIES_FOR: Final = 0.5
#: Seconds between two of these tries: a lock cannot be waited for with a deadline.
_PAUSE: Final = 0.01


class HostRunning(BlackholeError):
    """Another host holds the socket."""

    def __init__(self, path: Path, pid: str) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"a host is running at {path} already ({who}); stop it with 'blackhole stop --socket {path}', or give this one another --socket"
        )


class SocketClaim:
    """The right to listen at ``path``, held until :meth:`release`.

    :raises HostRunning: another host has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_name(path.name + _LOCK)
        self._lock = _lock(path, self._lock_path)
        self._listening = False

    def listen(self) -> socket.socket:
        """Return the listening socket; what a dead host left at the path is replaced."""
        self._remove_stale()
        sock = listen(self.path)
        self._listening = True
        return sock

    def release(self) -> None:
        """Remove the socket and give the claim up. Idempotent."""
        if self._lock is None:
            return
        if self._listening:
            self.path.unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)  # still locked: who opens it now finds that it is no longer the file at that path
        os.close(self._lock)
        self._lock = None

    def _remove_stale(self) -> None:
        if os.path.lexists(self.path):
            if not self.path.is_socket():
                raise BlackholeError(f"{self.path} is no socket and was not made by a host; remove it, or give another --socket")
            self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def sweep(directory: Path) -> tuple[Path, ...]:
    """Remove the sockets in ``directory``, which is known to be this user's alone, whose hosts were killed; return them.

    Only what has a lock that nobody holds is touched: a socket without one was made by somebody else.
    """
    gone = []
    for lock_path in sorted(directory.glob(f"*.sock{_LOCK}")):
        path = lock_path.with_name(lock_path.name.removesuffix(_LOCK))
        try:
            if _remove_if_free(path, lock_path):
                gone.append(path)
        except OSError as error:  # it went meanwhile, or is no file of ours: it is in nobody's way
            logger.debug("%s, perhaps left by a host that was killed, is not removed: %s", lock_path, error)
    if gone:
        logger.info("removed the control sockets of hosts that were killed: %s", ", ".join(map(str, gone)))
    return tuple(gone)


def _remove_if_free(path: Path, lock_path: Path) -> bool:
    lock = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(lock, lock_path):
            return False
        if path.is_socket():
            path.unlink()
        lock_path.unlink()  # still locked, as in release()
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _lock(path: Path, lock_path: Path) -> int | None:
    end = time.monotonic() + _TRIES_FOR
    while True:
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            if time.monotonic() < end:
                time.sleep(_PAUSE)
                continue
            raise HostRunning(path, pid if pid.isdecimal() else "") from None
        if _is_at(lock, lock_path):
            _sign(lock, lock_path)
            return lock
        os.close(lock)  # its holder removed it between open and flock: try the next one


def _sign(lock: int, lock_path: Path) -> None:
    """Write into the lock which process holds it; where that cannot be, the claim is given up."""
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except OSError as error:
        lock_path.unlink()  # still locked, as in release()
        os.close(lock)
        raise BlackholeError(f"{lock_path} cannot be written: {error.strerror}; make room there, or give another --socket") from error


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        at_path = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), at_path)
