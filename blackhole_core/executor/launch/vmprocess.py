"""Start QEMU as a child that ends with its host."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from blackhole_core.executor.launch.vmcommand import Machine, qemu_command

__all__ = ["start_qemu"]

#: What becomes QEMU: it asks to be killed when the thread that started it ends, and goes at once if that has happened already.
_BECOME: Final = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0); os.getppid() == int(sys.argv[1]) or os._exit(1); os.execvp(sys.argv[2], sys.argv[2:])"


def start_qemu(machine: Machine) -> subprocess.Popen[bytes]:
    """Start the machine. It is killed when the thread that calls this ends.

    :raises OSError: the system refused.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *qemu_command(machine)],
        stdin=subprocess.DEVNULL,
        stdout=machine.console,
        stderr=machine.console,
        pass_fds=machine.descriptors,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        cwd="/",
        start_new_session=True,  # its own group to be killed as one, and no Ctrl-C of the host's terminal
    )
