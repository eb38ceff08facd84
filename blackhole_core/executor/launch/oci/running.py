"""A container that runs, as the host holds it: the engine's process beside it, process 1 in it, and the worker.

The engine (``runc run``) waits beside its container and removes what belongs to that when it has ended. It must not be killed to end the container, which would
go on; what is killed is process 1. Its pidfd came from itself, so it cannot be another process's.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.container import END, EXIT_CODE, UP
from blackhole_core.executor.launch.child import Child, Start, wait_readable
from blackhole_core.executor.launch.oci.engines import COMMAND_SECONDS, Engine, last_complaint
from blackhole_core.executor.launch.plumbing import Plumbing
from blackhole_core.executor.printable import printable

__all__ = ["ContainerChild", "Engaged", "NotUp"]

#: Seconds that an engine may take to remove what is left of its container before it is killed: twenty milliseconds, unless the machine is busy.
_END_SECONDS: Final = 10.0
#: Seconds for process 1 to tell how the worker ended, when that has: it was woken by the same event.
_TELL_SECONDS: Final = 2.0
#: Bytes of the engine's own words that are looked at.
_MOST_WORDS: Final = 16_384
#: Bytes of a packet of process 1.
_PACKET: Final = 64


class NotUp(Exception):
    """The container did not come up; what is left of it has been removed."""


@attrs.define(eq=False)
class Engaged:
    """An engine at work on one container. Owned by who has it, who ends it with :meth:`finish`, once; ``life`` leads to process 1."""

    engine: Engine
    root: Path
    bundle: Path
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
        wait_readable(self.pidfd, int(_END_SECONDS * 1000))
        raise NotUp(self._complaint())

    def _hear(self) -> tuple[bytes, list[int]]:
        try:
            word, received, _, _ = socket.recv_fds(self.life, _PACKET, 2, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:  # nobody took what it was sent
            return b"", []
        return word, received

    def _complaint(self) -> str:
        with (self.bundle / "log").open("rb") as file:
            words = last_complaint(file.read(_MOST_WORDS).decode("utf-8", "replace"))
        return printable(words, 2000) or f"{self.engine.name} ended without a word"

    def kill(self) -> None:
        """End everything in the container, now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.first, signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the worker's process group."""
        with contextlib.suppress(OSError):  # the container has ended
            self.life.send(bytes((number,)), socket.MSG_DONTWAIT)

    def exit_code(self) -> int:
        """Return how the worker ended, which it has; who was killed with its container had no time to tell."""
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
        """End what still runs and remove everything that belongs to the container."""
        if self.first >= 0:
            self.kill()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.life.close()  # process 1 that has come this far ends of it
        if not wait_readable(self.pidfd, int(_END_SECONDS * 1000)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            wait_readable(self.pidfd, None)
        with contextlib.suppress(ChildProcessError):  # user code took its status first
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        remove_container(self.engine, self.root, self.bundle.name)
        shutil.rmtree(self.bundle, ignore_errors=True)
        for descriptor in (self.pidfd, self.first, self.worker):
            if descriptor >= 0:
                os.close(descriptor)


def remove_container(engine: Engine, root: Path, container: str) -> None:
    """Have ``engine`` end and remove a container whose own engine process was killed; nothing where that has done it itself."""
    if (root / container).exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                engine.delete(root, container), stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False
            )


class ContainerChild(Child):
    """A worker in a container; its ``pid`` is the one it has on the host."""

    def __init__(self, engaged: Engaged, pipes: Plumbing) -> None:
        pid = _pid_of(engaged.worker) or engaged.pid
        way = Start("container", engaged.engine.name)
        super().__init__(pid, engaged.worker, pipes.receive, pipes.send, pipes.output, start=way)
        self._engaged = engaged

    def _signal(self, number: int) -> None:
        if number == signal.SIGKILL:
            self._engaged.kill()
        else:
            self._engaged.signal(number)

    def reap(self) -> int | None:
        """Collect how the worker ended, whose ``pidfd`` is readable, and remove the container."""
        with self._lock:
            self._reaped = True
        code = self._engaged.exit_code()
        self._engaged.finish()
        return code

    def close(self) -> None:
        """Close the descriptors; the worker has been reaped, and its pidfd closed with the container."""
        for descriptor in (self.receive, self.send, self.output):
            os.close(descriptor)


def _pid_of(pidfd: int) -> int:
    """Return the number here of the process that ``pidfd`` stands for; 0 when it has ended."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text("ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            return max(0, int(value))
    return 0
