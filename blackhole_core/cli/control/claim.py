"""One host per socket: the claim on a socket's path, and the listening socket at it.

The claim is an exclusive ``flock`` on ``<socket>.lock``. The kernel drops it with the process, however that ends, so a socket whose lock can be had
belongs to nobody alive and is replaced. Workers never hold the lock: its descriptor is closed on exec.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import Self

from blackhole_core.cli.control.server import listen
from blackhole_core.errors import BlackholeError

__all__ = ["HostRunning", "SocketClaim"]


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
        self._lock_path = path.with_name(f"{path.name}.lock")
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


def _lock(path: Path, lock_path: Path) -> int | None:
    while True:
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            raise HostRunning(path, pid if pid.isdecimal() else "") from None
        if _is_at(lock, lock_path):
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return lock
        os.close(lock)  # its holder removed it between open and flock: try the next one


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        at_path = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), at_path)
