"""Fork such that the new process is a child of this one's parent: its sibling.

``os.fork`` would make the zygote the parent of every worker. Then the host could not wait for its workers, the kernel would tie
them to the life of the zygote instead of the host's, and one killed zygote would take all of them along. ``clone(2)`` with
``CLONE_PARENT`` has none of this, but no function of the C library does it and comes back like ``fork``, so the system call is
made directly, between the three steps CPython itself takes around ``fork``.

What the library's ``fork`` does beside the call is to run ``pthread_atfork`` handlers, to unlock its own locks, and to note the
new thread's number. Here nothing holds a lock, because the process has one thread, which is in this module (checked), and the
kernel writes the number, to the address that the library itself told it (checked too). Handlers are not run: nothing that a
zygote imports has any.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from typing import Final

__all__ = ["CannotClone", "Cloner"]

#: ``clone(2)`` flags.
_CLONE_PIDFD: Final = 0x0000_1000
_CLONE_PARENT: Final = 0x0000_8000
_CLONE_CHILD_CLEARTID: Final = 0x0020_0000
_CLONE_CHILD_SETTID: Final = 0x0100_0000
#: ``prctl(2)`` options: the signal that comes when the parent thread ends, and where the kernel clears the thread's number at its end.
_PR_SET_PDEATHSIG: Final = 1
_PR_GET_TID_ADDRESS: Final = 40
#: machine → number of the system call, and whether the child's address of the number comes before the thread's local storage.
#: ``clone3`` would be the same everywhere, but the usual container profiles refuse it.
_CALLS: Final = {"x86_64": (56, True), "aarch64": (220, False), "riscv64": (220, False)}


class CannotClone(Exception):
    """A process cannot be forked in this way here; says why."""


class Cloner:
    """Forks this process, which has one thread now and at every call of :meth:`clone`.

    :raises CannotClone: the machine, kernel or C library is one for which this is not known to be right.
    """

    def __init__(self) -> None:
        known = _CALLS.get(platform.machine())
        if known is None:
            raise CannotClone(f"forking beside the host is not known on machine {platform.machine()}")
        self._libc: Final = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock over a call, as os.fork does
        self._pidfd: Final = ctypes.c_int(-1)
        number, tid_first = known
        flags = _CLONE_PARENT | _CLONE_PIDFD | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | signal.SIGCHLD
        tid, storage = self._tid_address(), ctypes.c_void_p(None)
        last = (tid, storage) if tid_first else (storage, tid)
        self._arguments: Final = (ctypes.c_long(number), ctypes.c_ulong(flags), ctypes.c_void_p(None), ctypes.byref(self._pidfd), *last)

    def clone(self) -> tuple[int, int]:
        """Fork. Return process id and pidfd of the new process, which returns (0, -1).

        :raises OSError: the system refused.
        """
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            raise RuntimeError(f"a process with {threads} threads cannot be forked safely")
        python = ctypes.pythonapi
        python.PyOS_BeforeFork()
        pid = self._libc.syscall(*self._arguments)
        if pid == 0:
            python.PyOS_AfterFork_Child()
            return 0, -1
        error = ctypes.get_errno()
        python.PyOS_AfterFork_Parent()
        if pid < 0:
            raise OSError(error, os.strerror(error))
        return pid, self._pidfd.value

    def die_with(self, parent: int) -> None:
        """Do what :func:`blackhole_core.executor.worker.die_with` does, with the library that is open already."""
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    def _tid_address(self) -> ctypes.c_void_p:
        """Return where the C library keeps the number of the main thread; recursive locks compare it, so a new process needs its own there."""
        address = ctypes.c_void_p(None)
        if self._libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) != 0 or not address.value:
            raise CannotClone("the kernel does not tell where the thread's number is kept (CONFIG_CHECKPOINT_RESTORE)")
        if ctypes.c_int.from_address(address.value).value != os.getpid():
            raise CannotClone("this C library keeps the thread's number elsewhere (glibc is known to work)")
        return address
