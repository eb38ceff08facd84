"""A worker that was forked and waits for its assignment: make it what it is to be, or end it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from blackhole_core.executor.launch.child import wait_readable
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.wire import spawn

if TYPE_CHECKING:
    from blackhole_core.executor.limits.group import Group

__all__ = ["Newborn", "Role", "SpawnFailed", "end_unassigned", "ready_role"]

_logger: Final = logging.getLogger("blackhole.launch")

#: Seconds for each step of the handshake, and for an end: less than a millisecond of work, on a machine under heavy load some hundred.
_STEP_SECONDS: Final = 5.0
#: Seconds between two looks for a child that is dying.
_LOOK_AGAIN: Final = 0.001


class SpawnFailed(Exception):
    """A forked worker could not be used."""


@attrs.frozen
class Role:
    """What a worker is to be, ready to be sent: the packet, and the working directory, open."""

    packet: bytes
    directory: int

    def send(self, own: socket.socket, descriptors: Sequence[int]) -> None:
        """Send it to a worker, with the host's numbers of the descriptors it names.

        :raises SpawnFailed: the worker has ended.
        """
        try:
            socket.send_fds(own, [self.packet], [self.directory, *descriptors])
        except (TimeoutError, ConnectionError):
            raise SpawnFailed("a forked worker ended before it got its role") from None


@contextlib.contextmanager
def ready_role(assignment: spawn.Assignment) -> Iterator[Role]:
    """Make it ready before a worker is taken for it: what cannot be sent costs none.

    :raises SpawnFailed: it is more than can be sent, or the working directory is closed to the host itself.
    :raises OSError: no more descriptors.
    """
    if len(assignment.numbers) > spawn.MAX_DESCRIPTORS:
        raise SpawnFailed(f"it is given {len(assignment.numbers)} descriptors, {spawn.MAX_DESCRIPTORS} can be sent")
    packet = spawn.encode(assignment)
    if len(packet) > spawn.MAX_MESSAGE:
        raise SpawnFailed(f"its environment and import path take {len(packet)} bytes, {spawn.MAX_MESSAGE} can be sent")
    try:
        directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise SpawnFailed(f"the working directory cannot be handed on: {error}") from None
    try:
        yield Role(packet, directory)
    finally:
        os.close(directory)


class Newborn:
    """One forked worker that has no role. It runs no plugin code; :meth:`assign` or :meth:`discard` it.

    ``pidfd`` is readable when it has died; ``own`` is the host's end of its socket, ``guard`` knows its process id. ``ready`` says whether it was told what
    to do while it waits, ``namespaces`` are those that it is to make, and ``group`` the control groups it is in.
    """

    def __init__(self, pid: int, pidfd: int, own: socket.socket, guard: Guard) -> None:
        self.pid: Final = pid
        self.pidfd: Final = pidfd
        self._own: Final = own
        self.guard: Final = guard
        self.ready = False
        self.namespaces: tuple[str, ...] = ()
        self.group: Group | None = None
        own.settimeout(_STEP_SECONDS)

    def let_go(self) -> None:
        """Let it leave the zygote's process group, and wait until it has.

        :raises SpawnFailed: it did not; discard it.
        """
        try:
            self._own.send(spawn.GO)
            answer = self._own.recv(1)
        except TimeoutError:
            raise SpawnFailed(f"a forked worker did nothing for {_STEP_SECONDS:g} s") from None
        except ConnectionError:
            answer = b""
        if answer != spawn.FREE:
            raise SpawnFailed("a forked worker ended at once")

    def prepare(self, namespaces: tuple[str, ...], group: Group | None) -> None:
        """Have it make ready what it can without a role, these namespaces among it; does not wait. ``group`` is this worker's from now on.

        :raises SpawnFailed: it has ended; discard it.
        """
        self.group = group
        try:
            self._own.send(spawn.encode(spawn.Ahead(namespaces)))
        except (TimeoutError, ConnectionError):
            raise SpawnFailed("a forked worker ended before it had a role") from None
        self.ready, self.namespaces = True, namespaces

    def assign(self, role: Role, descriptors: Sequence[int]) -> None:
        """Give it its role, with the host's numbers of its descriptors. What goes wrong in it from now on, it writes to its output, and ends.

        :raises SpawnFailed: it did not take it; discard it.
        """
        role.send(self._own, descriptors)
        self._own.close()

    def discard(self) -> None:
        """End and reap it, and what it has started."""
        self._own.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # its own group, if it leads one yet: it has not been reaped
        self.guard.forget(self.pid)
        end_unassigned(self.pid, self.pidfd)
        if self.group is not None:
            self.group.end()


def end_unassigned(pid: int, pidfd: int | None) -> None:
    """End and reap a child that has no role yet, by its pidfd where there is one, which is closed; user code may have reaped it.

    Its socket is closed: it ends by that where it must not be killed, because the host has given up its privileges since.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if pidfd is None:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    if pidfd is not None:
        wait_readable(pidfd, int(_STEP_SECONDS * 1000))
        os.close(pidfd)
    if not _reap(pid):
        _logger.warning("a forked worker that was not needed (pid %d) did not end within %g s; it is left alone", pid, _STEP_SECONDS)


def _reap(pid: int) -> bool:
    """Wait for a child; False when it does not end in time."""
    deadline = time.monotonic() + _STEP_SECONDS
    try:
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_AGAIN)
    except ChildProcessError:
        pass  # user code took it (``os.waitpid(-1)``)
    return True
