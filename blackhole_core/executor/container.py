"""Process 1 of a container: starts the worker as its child, collects what ends in there, and ends with the worker or the host, whichever is first.

With process 1 everything in its pid namespace ends. So it is also what makes sure that nothing outlives the host: it sees the host's end by a pidfd
and by the end of a socket, and plugin code cannot stop it, neither by a signal (the kernel keeps those of its own namespace away from process 1)
nor by its memory (it is not dumpable).

The worker could not be process 1 itself: a signal that it sends to itself, ``abort()`` among them, would do nothing.

Over the socket go, each as one packet: :data:`TAKE` with a pidfd of the host and the worker's descriptors: its output, the two of its channel, and further ones. (They
are not handed to the engine, which would hold them open.) Then :data:`UP` with two pidfds, the worker's and that of process 1, when the worker has been started; then from the
host single bytes, each a signal for the worker's process group; at last :data:`END` and the worker's exit code, negative for a signal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
from typing import Final, NoReturn

__all__ = ["END", "EXIT_CODE", "MOST_DESCRIPTORS", "TAKE", "UP", "main", "main_on_streams"]

TAKE: Final = b"take"
UP: Final = b"up"
END: Final = b"end"
#: What follows :data:`END`.
EXIT_CODE: Final = struct.Struct("=i")
#: What the kernel lets pass at once (SCM_MAX_FD), and what there is at the least.
MOST_DESCRIPTORS: Final = 253
_LEAST_DESCRIPTORS: Final = 4
#: ``prctl(2)``: whether others may look at this process's memory.
_PR_SET_DUMPABLE: Final = 4
#: Signals that a host sends to a worker, beside the one that nothing can pass on.
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGABRT, signal.SIGCONT, signal.SIGINT)
#: What an engine, as a shell, adds to the number of the signal that ended a program.
_SIGNALLED: Final = 128


def main() -> None:
    """Become process 1 and the worker; returns in the worker alone, with what that is told in ``sys.argv``, which named the socket."""
    life = socket.socket(fileno=int(sys.argv[1]))
    _, descriptors, flags, _ = socket.recv_fds(life, len(TAKE), MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if flags & socket.MSG_CTRUNC or len(descriptors) < _LEAST_DESCRIPTORS:
        sys.exit("the descriptors of the worker did not come whole")
    host, output, receive, send, *further = descriptors
    _use_streams(output)
    import ctypes  # once for both: the worker needs it as well

    worker = os.fork()
    if worker:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        _keep(worker, life, host)
    life.close()
    os.close(host)
    os.setsid()
    sys.argv[1:2] = [str(receive), str(send), str(os.getppid()), ",".join(map(str, further))]


def main_on_streams() -> None:
    """Do the same in a container into which nothing can be passed but its standard streams, which are the channel and the output of the worker.

    There are no pidfds either. So the engine tells how this process ended, which is how the worker did (128 and the number of a signal, as a shell has it); it sends signals to this
    process, which passes them on; and that the host has ended is seen by the end of the pipe to it.
    """
    receive, send = os.dup(0), os.dup(1)
    _use_streams(os.dup(2))
    import ctypes

    worker = os.fork()
    if worker:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        _keep_by_streams(worker, send)
    os.setsid()
    sys.argv[1:2] = [str(receive), str(send), str(os.getppid()), ""]


def _keep_by_streams(worker: int, send: int) -> NoReturn:
    """Be process 1 of such a container."""
    code = 1
    try:
        waking = _woken_by_children()
        for number in _PASSED_ON:
            signal.signal(number, lambda number, _: (_pass_on(worker, bytes((number,))), None)[1])
        _close_all_but(send, *waking)
        poller = select.poll()
        poller.register(waking[0], select.POLLIN)
        poller.register(send, 0)  # whose reader is the host
        while (ended := _collect(worker)) is None:
            ready = dict(poller.poll())
            if send in ready:
                break
            os.read(waking[0], select.PIPE_BUF)
        else:
            code = ended if ended >= 0 else _SIGNALLED - ended
    finally:
        os._exit(code)


def _use_streams(output: int) -> None:
    """Have the standard streams be what they are in any worker; until now they led to the engine."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, number in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, number)
    os.close(null)
    os.close(output)
    # Python has asked once whether they can be sought, which holds for the file that crun leaves there, and for no pipe.
    sys.stdout = sys.__stdout__ = open(1, "w", encoding=sys.stdout.encoding, closefd=False)  # type: ignore[misc]  # noqa: SIM115 - they live as long as the process
    sys.stderr = sys.__stderr__ = open(2, "w", encoding=sys.stderr.encoding, closefd=False)  # type: ignore[misc]  # noqa: SIM115 - they live as long as the process


def _keep(worker: int, life: socket.socket, host: int) -> NoReturn:
    """Be process 1. Its own end, whatever the cause, is the end of everything in the container."""
    try:
        waking = _woken_by_children()
        socket.send_fds(life, [UP], [os.pidfd_open(worker), os.pidfd_open(os.getpid())])
        _close_all_but(life.fileno(), host, *waking)
        code = _wait(worker, life, host, waking[0])
        if code is not None:
            life.send(END + EXIT_CODE.pack(code))
    finally:
        os._exit(0)


def _wait(worker: int, life: socket.socket, host: int, waking: int) -> int | None:
    """Pass signals on and collect what ends, until the worker has ended (its exit code) or the host (None)."""
    poller = select.poll()
    for descriptor in (life.fileno(), host, waking):
        poller.register(descriptor, select.POLLIN)
    while True:
        code = _collect(worker)
        if code is not None:
            return code
        ready = dict(poller.poll())
        if host in ready:
            return None
        if waking in ready:
            os.read(waking, select.PIPE_BUF)
        if life.fileno() in ready and not _pass_on(worker, life.recv(1)):
            return None


def _collect(worker: int) -> int | None:
    """Collect every child that has ended, also those that others left behind; the worker's exit code if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)


def _pass_on(worker: int, signals: bytes) -> bool:
    """Send each signal to the worker's group; False when the host has closed the socket. The worker is not collected yet, so the number is its own."""
    for number in signals:
        try:
            os.killpg(worker, number)
        except ProcessLookupError:  # it has not made its group yet
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, number)
    return bool(signals)


def _woken_by_children() -> tuple[int, int]:
    """Return both ends of a pipe to which a byte is written whenever a child ends."""
    waking, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return waking, wake


def _close_all_but(*descriptors: int) -> None:
    """Close what is the worker's alone: the host would wait for the end of its pipes in vain."""
    lowest = 0
    for descriptor in sorted(descriptors):
        os.closerange(lowest, descriptor)
        lowest = descriptor + 1
    os.closerange(lowest, os.sysconf("SC_OPEN_MAX"))
