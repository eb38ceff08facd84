"""A virtual machine as the host holds it: the sockets behind its serial ports, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Final

import attrs

from blackhole_core.executor.launch.child import Child, Start
from blackhole_core.executor.launch.plumbing import Opened
from blackhole_core.executor.launch.vmcommand import Machine
from blackhole_core.executor.limits.verdict import Verdict
from blackhole_core.manifest.model import Resources

__all__ = ["GuestEnd", "Sockets", "VmChild"]

#: Bytes of the words in which a guest says how its worker ended.
_STATUS_SIZE: Final = 16
#: A shell says 128 and the number of the signal that ended a program.
_SIGNALLED: Final = 128
_LAST_STATUS: Final = 255


class Sockets(Opened):
    """The sockets between the host and one guest.

    :raises OSError: no more descriptors; nothing is left open.
    """

    def _open(self) -> None:
        self.channel, self.guest_channel = self._pair()
        self.output, self.guest_output = self._pair()
        self.status, self.guest_status = self._pair()
        self.monitor, self.guest_monitor = self._pair()
        self.guest_console = self._copy(self.guest_output)
        self.send = self._copy(self.channel)
        # One file under two numbers: neither reading nor writing waits. Whoever reads has asked first whether there is something.
        os.set_blocking(self.send, False)
        os.set_blocking(self.status, False)

    def connected(self, machine: Machine) -> Machine:
        """Return ``machine`` with these behind its serial ports."""
        return attrs.evolve(
            machine, console=self.guest_console, channel=self.guest_channel, output=self.guest_output, status=self.guest_status
        )

    def hand_over(self) -> tuple[int, int, int, int]:
        """Return the host's ends (receive, send, output, status); somebody else closes them."""
        ours = (self.channel, self.send, self.output, self.status)
        self._keep(*ours)
        return ours

    def _pair(self) -> tuple[int, int]:
        ours, theirs = socket.socketpair()
        self._opened += (ours.detach(), theirs.detach())
        return self._opened[-2], self._opened[-1]

    def _copy(self, descriptor: int) -> int:
        self._opened.append(os.dup(descriptor))
        return self._opened[-1]


class VmChild(Child):
    """A guest. Its process is QEMU's, its exit status the worker's, as the guest said it.

    A signal is QEMU's, which stops, goes on or ends the machine. SIGABRT is the worker's: it writes where its threads stand before it dies.
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        receive: int,
        send: int,
        output: int,
        status: int,
        *,
        disk: int | None,
        start: Start,
        on_reap: Callable[[], object],
    ) -> None:
        super().__init__(pid, pidfd, receive, send, output, start=start, transport="virtio-serial", on_reap=on_reap)
        self._status = status
        self._disk = disk  # the hold on its data
        self._said = GuestEnd()

    def _signal(self, number: int) -> None:
        if number != signal.SIGABRT:
            super()._signal(number)
            return
        with contextlib.suppress(OSError):  # the guest has ended, or does not listen
            os.write(self._status, b"ABRT\n")

    def reap(self) -> int | None:
        """Collect the exit status of the worker: QEMU's own where that is not 0, else what the guest said; None where it said nothing."""
        own = super().reap()
        try:
            self._said = GuestEnd.parse(os.read(self._status, _STATUS_SIZE))
        except BlockingIOError:
            pass  # the guest did not get there
        return own if own != 0 else self._said.exit

    def verdict(self, resources: Resources) -> Verdict | None:
        """Return the limit that the guest says its worker died of: its memory was used up."""
        if not self._said.out_of_memory or self._said.exit == 0 or resources.memory is None:
            return None
        return Verdict("memory", resources.memory, resources.memory, "MB", "all the memory of its virtual machine")

    def close(self) -> None:
        super().close()
        os.close(self._status)
        if self._disk is not None:
            os.close(self._disk)


@attrs.frozen
class GuestEnd:
    """What the guest's first program said last. It is a claim: whoever breaks out of the worker can say anything."""

    exit: int | None = None
    out_of_memory: bool = False

    @classmethod
    def parse(cls, said: bytes) -> GuestEnd:
        """Read the exit status as a shell has it, and how many programs the kernel ended for want of memory; nothing where it is not that."""
        match said.split():
            case [status, kills] if status.isdigit() and kills.isdigit() and int(status) <= _LAST_STATUS:
                number = int(status)
                return cls(_SIGNALLED - number if number > _SIGNALLED else number, int(kills) > 0)
        return cls()
