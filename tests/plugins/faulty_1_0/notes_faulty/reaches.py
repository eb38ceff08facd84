"""Faults that reach for what is not the plugin's. Each takes an argument (``read_file:/path``), makes the real system call and returns ``allowed`` or ``refused``."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path


def refused(error: OSError) -> str:
    """Say that it was refused; the reason is for whoever reads the log."""
    print(f"refused: {error}", flush=True)
    return "refused"


def _tried(action: Callable[[str], object]) -> Callable[[str], str]:
    def tried(argument: str) -> str:
        try:
            action(argument)
        except OSError as error:
            return refused(error)
        return "allowed"

    return tried


def _connect(port: str) -> None:
    socket.create_connection(("127.0.0.1", int(port)), 5).close()


def _signal(pid: str) -> None:
    """Kill the host."""
    os.kill(int(pid), signal.SIGKILL)


def _program(path: str) -> None:
    subprocess.run([path], check=True)


def setsid_grandchild(name: str) -> str:
    """Leave behind a process with a session of its own and no parent, called ``name`` (at most 15 bytes)."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
            signal.pause()
        os._exit(0)
    os.wait()
    return "left"


KINDS = {
    "read_file": _tried(lambda path: Path(path).read_bytes()),
    "write_file": _tried(lambda path: Path(path).write_bytes(b"overwritten")),
    "read_environ": _tried(lambda pid: Path("/proc", pid, "environ").read_bytes()),
    "connect": _tried(_connect),
    "run_program": _tried(_program),
    "signal_host": _tried(_signal),
    "setsid_grandchild": setsid_grandchild,
}
