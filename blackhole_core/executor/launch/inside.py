"""A worker whose process 1 is :mod:`blackhole_core.executor.container`, as the host holds it: the program beside it that made the place it is in, process 1, and the worker.

What is killed to end everything is process 1. Its pidfd came from itself, so it cannot be another process's.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.container import END, EXIT_CODE, UP
from blackhole_core.executor.launch.child import Child, Start, wait_readable

__all__ = ["END_SECONDS", "Inside", "InsideChild", "NotUp"]

#: Seconds that the program may take to remove what is left before it is killed: twenty milliseconds, unless the machine is busy.
END_SECONDS: Final = 10.0
#: Seconds for process 1 to tell how the worker ended, when that has: it was woken by the same event.
_TELL_SECONDS: Final = 2.0
#: Bytes of a packet of process 1.
_PACKET: Final = 64


class NotUp(Exception):
    """It did not come up, and why."""


@attrs.define(eq=False, kw_only=True)
class Inside:
    """One such place. Owned by who has it, who ends it with :meth:`finish`, once. ``pid`` and ``pidfd`` are those of the program beside it; ``life`` leads to process 1."""

    pid: int
    pidfd: int
    life: socket.socket
    first: int = -1  #: pidfd of process 1, once it is known
    worker: int = -1  #: pidfd of the worker, likewise

    def wait_up(self, seconds: float) -> None:
        """Wait until the worker has been started.

        :raises NotUp: it was not; :meth:`finish` follows.
        """
        poller = select.poll()
        poller.register(self.life, select.POLLIN)
        poller.register(self.pidfd, select.POLLIN)
        ready = dict(poller.poll(seconds * 1000))
        if not ready:
            raise NotUp(f"it did not come up within {seconds:g} s")
        if self.life.fileno() in ready:
            word, received = self._hear()
            if word == UP and len(received) == 2:
                self.worker, self.first = received
                return
            for descriptor in received:
                os.close(descriptor)
        wait_readable(self.pidfd, int(END_SECONDS * 1000))
        raise NotUp(self.complaint())

    def complaint(self) -> str:
        """Return what the program said last."""
        raise NotImplementedError  # each launcher of such a process keeps what it said in its own way

    def _hear(self) -> tuple[bytes, list[int]]:
        try:
            word, received, _, _ = socket.recv_fds(self.life, _PACKET, 2, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:  # nobody took what it was sent
            return b"", []
        return word, received

    @property
    def worker_pid(self) -> int:
        """The worker's process id here; that of the program when the worker has ended."""
        return _pid_of(self.worker) or self.pid

    def kill(self) -> None:
        """End everything inside, now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.first, signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the worker's process group."""
        with contextlib.suppress(OSError):  # everything inside has ended
            self.life.send(bytes((number,)), socket.MSG_DONTWAIT)

    def exit_code(self) -> int:
        """Return how the worker ended, which it has; who was killed with all that is inside had no time to tell."""
        deadline = time.monotonic() + _TELL_SECONDS
        while wait_readable(self.life.fileno(), max(0, int((deadline - time.monotonic()) * 1000))):
            try:
                packet = self.life.recv(_PACKET)
            except ConnectionError:
                break
            if packet[: len(END)] == END:
                return int(EXIT_CODE.unpack(packet[len(END) :])[0])
            if not packet:
                break
        return -signal.SIGKILL

    def finish(self) -> None:
        """End what still runs, the program last."""
        if self.first >= 0:
            self.kill()
        else:
            self._kill_program()
        self.life.close()  # process 1 that has come this far ends of it
        if not wait_readable(self.pidfd, int(END_SECONDS * 1000)):
            self._kill_program()
            wait_readable(self.pidfd, None)
        with contextlib.suppress(ChildProcessError):  # user code took its status first
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        for descriptor in (self.pidfd, self.first, self.worker):
            if descriptor >= 0:
                os.close(descriptor)

    def _kill_program(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class InsideChild(Child):
    """A worker in such a place; its ``pid`` is the one it has on the host."""

    def __init__(
        self,
        inside: Inside,
        channel: tuple[int, int, int],
        start: Start,
        *,
        on_reap: Callable[[], object] = lambda: None,
        on_host_death: Callable[[str], object] = lambda directory: None,
    ) -> None:
        """``channel`` is ``receive``, ``send`` and ``output``, which become this object's."""
        super().__init__(inside.worker_pid, inside.worker, *channel, start=start, on_reap=on_reap, on_host_death=on_host_death)
        self._inside = inside

    def _signal(self, number: int) -> None:
        if number == signal.SIGKILL:
            self._inside.kill()
        else:
            self._inside.signal(number)

    def reap(self) -> int | None:
        """Collect how the worker ended, whose ``pidfd`` is readable, and end all that is there beside it."""
        with self._lock:
            self._reaped = True
            for action in self._on_reap:
                action()
        code = self._inside.exit_code()
        self._inside.finish()
        return code

    def close(self) -> None:
        """Close the descriptors; the worker has been reaped, and its pidfd closed with what it was in."""
        for descriptor in (self.receive, self.send, self.output):
            os.close(descriptor)


def _pid_of(pidfd: int) -> int:
    """Return the number here of the process that ``pidfd`` stands for; 0 when it has ended."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            return max(0, int(value))
    return 0
