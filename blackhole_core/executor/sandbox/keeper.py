"""Three processes for a pid namespace: the one that the host launched stays outside as the *keeper*, its first child is process 1 inside, its second is the worker.

* The worker is the keeper's own child, so the keeper learns how it ended, and then ends the same way: the host sees the worker's exit status or signal as if there were no keeper.
* Process 1 does nothing but be there. The kernel gives it what the worker left behind, and kills everything inside the moment it ends; it ends with the keeper.
* Keeper and process 1 belong to the process group that the host signals. They have every signal blocked; none but SIGKILL concerns them, and the worker gets it itself.
* They run a dozen lines on memory they share with the worker, hold no descriptor, and leave by ``os._exit``.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import signal
from typing import Final

from blackhole_core.executor.sandbox.kernel import close_others, prctl

__all__ = ["die_with_parent", "split"]

# prctl(2)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15
#: Bytes of a process id as text, and more.
_NUMBER: Final = 16
#: How a keeper ends that cannot end like its worker.
_CANNOT: Final = 120


def split() -> int:
    """Become keeper, process 1 and worker of the pid namespace that this process has made for its children.

    Returns in the worker alone, with its process id as the host sees it.

    :raises OSError: no more processes or descriptors; nothing was forked.
    """
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        first = _fork_first()
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC)
            worker = os.fork()
        except OSError:
            os.kill(first, signal.SIGKILL)
            os.waitpid(first, 0)
            raise
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, usual)
        raise
    if worker:
        os.write(writing, str(worker).encode())
        _keep(worker, first)
    os.close(writing)
    number = os.read(reading, _NUMBER)
    os.close(reading)
    if not number:
        os._exit(_CANNOT)  # the keeper has ended
    signal.pthread_sigmask(signal.SIG_SETMASK, usual)
    return int(number)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends. A change of credentials undoes this, so it comes after them."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _fork_first() -> int:
    """Fork process 1, which is certain to end with this one: it goes on only when this one still lived after it had asked the kernel for that."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    heard, say = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        _be_first(say, told, (tell, heard))
    for descriptor in (told, say):
        os.close(descriptor)
    alive = os.read(heard, 1)
    if alive:
        os.write(tell, b"g")
    for descriptor in (heard, tell):
        os.close(descriptor)
    if not alive:
        os.waitpid(pid, 0)
        raise ChildProcessError(errno.ECHILD, "process 1 of the pid namespace ended at once")
    return pid


def _be_first(say: int, told: int, others: tuple[int, int]) -> None:
    """Be process 1, for ever. Its children are reaped by the kernel, because it ignores their end."""
    try:
        for descriptor in others:
            os.close(descriptor)
        die_with_parent()
        _withdraw(b"bh first")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.write(say, b"r")
        if not os.read(told, 1):
            os._exit(_CANNOT)
        close_others(())
        while True:
            signal.pause()  # every signal is blocked
    finally:
        os._exit(_CANNOT)


def _keep(worker: int, first: int) -> None:
    """Be the keeper: wait for the worker, end what else is inside, end like the worker."""
    try:
        _withdraw(b"bh keeper")
        close_others(())
        _, status = os.waitpid(worker, 0)
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)  # the kernel lets it go only after everything inside has ended
        _end_like(os.waitstatus_to_exitcode(status))
    finally:
        os._exit(_CANNOT)


def _withdraw(name: bytes) -> None:
    """Be of no interest: no memory to be looked at, no garbage to be collected, a name for ``ps``."""
    gc.disable()
    prctl(_PR_SET_DUMPABLE, 0)
    prctl(_PR_SET_NAME, _address(name))


def _address(text: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value or 0


def _end_like(code: int) -> None:
    """Exit with a status, or die of a signal when it is negative."""
    if code >= 0:
        os._exit(code)
    number = signal.Signals(-code) if -code in set(signal.Signals) else -code
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    os.kill(os.getpid(), number)
    os._exit(128 - code)
