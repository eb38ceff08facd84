"""What QEMU is told about a machine as a whole (QMP): to keep its state in a file, and to go on from there.

The guest has no way to this socket. Answers are QEMU's own, which is trusted as the program that it is.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from pathlib import Path
from typing import Any, Final, Self

__all__ = ["Monitor", "MonitorFailed"]

#: Seconds for one answer of QEMU's on a busy machine; it takes a millisecond.
_ANSWER_SECONDS: Final = 30.0
#: How a machine's state is written and read: its memory is a file already, and no part of it; and QEMU tells how far it is.
_HOW: Final = [{"capability": "x-ignore-shared", "state": True}, {"capability": "events", "state": True}]


class MonitorFailed(OSError):
    """QEMU did not do it; the text is what it said, or that it has ended."""


class Monitor:
    """The host's end of one machine's monitor. Closed at the end of the block."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._socket.settimeout(_ANSWER_SECONDS)
        self._lines = self._socket.makefile("rb")
        self._events: deque[dict[str, Any]] = deque()  # told while an answer was waited for

    def __enter__(self) -> Self:
        self._read()  # the greeting
        self._execute("qmp_capabilities")
        return self

    def __exit__(self, *_error: object) -> None:
        self._lines.close()
        self._socket.close()

    def keep(self, state: int) -> None:
        """Stop the machine, and write its state to the file ``state`` from where that stands.

        :raises MonitorFailed: it cannot be kept.
        """
        self._execute("stop")
        self._execute("migrate-set-capabilities", capabilities=_HOW)
        self._execute("getfd", state, fdname="state")
        self._execute("migrate", uri="fd:state")
        self._await_migrated("its state could not be written")

    def resume(self, state: int) -> None:
        """Read the machine's state from the descriptor ``state``, which QEMU has, and let it go on.

        :raises MonitorFailed: it does not.
        """
        self._execute("migrate-set-capabilities", capabilities=_HOW)
        self._execute("migrate-incoming", uri=f"fd:{state}")
        self._await_migrated("its state could not be read")
        self._execute("cont")  # it was kept while it stood still

    def _execute(self, command: str, descriptor: int = -1, /, **arguments: Any) -> dict[str, Any]:
        line = json.dumps({"execute": command, "arguments": arguments}).encode()
        try:
            socket.send_fds(self._socket, [line], [descriptor] if descriptor >= 0 else [])
        except OSError as error:
            raise MonitorFailed(f"QEMU has ended before {command}: {error.strerror}") from None
        while True:
            said = self._read()
            if "error" in said:
                raise MonitorFailed(f"{command}: {said['error'].get('desc', said['error'])}")
            if "return" in said:
                answer: dict[str, Any] = said["return"]
                return answer
            self._events.append(said)

    def _await_migrated(self, failed: str) -> None:
        status = ""
        while status != "completed":
            said = self._events.popleft() if self._events else self._read()
            if said.get("event") == "MIGRATION":
                status = said["data"]["status"]
            if status in ("failed", "cancelled"):
                raise MonitorFailed(f"{failed}: {status}")

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise MonitorFailed(f"QEMU gave no answer within {_ANSWER_SECONDS:g} s") from None
        except OSError as error:
            raise MonitorFailed(f"QEMU has ended: {error.strerror}") from None
        if not line:
            raise MonitorFailed("QEMU has ended")
        said: dict[str, Any] = json.loads(line)
        return said


def open_state(memory: Path, megabytes: int) -> int:
    """Open the state that lies behind the memory in its file; the caller closes it.

    :raises OSError: it is gone.
    """
    descriptor = os.open(memory, os.O_RDWR | os.O_CLOEXEC)
    os.lseek(descriptor, megabytes * 2**20, os.SEEK_SET)
    return descriptor
