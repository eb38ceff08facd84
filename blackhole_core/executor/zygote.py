"""The zygote: a process that has imported the worker program, holds no plugin code, and forks a worker when its host asks.

It has one thread and serves one request at a time, so the descriptors of one worker are closed before those of the next are
received. A worker is a child of the host from its first instant (:mod:`~blackhole_core.executor.cloning`). It stays in the
zygote's process group until the host knows it and has let it go; whatever fails before that, the host finds it there.

A forked worker must be what an executed one is: its environment, descriptors, working directory, import path, limits, umask and
signals are set before it is let go; nothing that an earlier request brought was kept.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final, NoReturn

import attrs

from blackhole_core.errors import ProtocolError
from blackhole_core.executor import worker
from blackhole_core.executor.cloning import CannotClone, Cloner
from blackhole_core.executor.wire import spawn

__all__ = ["main"]

#: Descriptors that come with a request before those of the worker: the handshake and the working directory.
_OWN: Final = 2


@attrs.frozen
class _Job:
    """A request with its descriptors, in the order in which they came."""

    request: spawn.Spawn
    descriptors: Sequence[int]


def main() -> None:
    """Be a zygote on the socket that ``sys.argv`` names, for the host whose pid follows. Returns in the host's end, and in a worker that ended."""
    control, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    del sys.argv[1:]
    worker.die_with(parent)
    worker.default_signals()
    control.set_inheritable(False)
    try:
        cloner = Cloner()
    except CannotClone as error:
        control.send(spawn.encode(spawn.Refused(0, str(error))))
        return
    job = _serve(control, cloner)
    if job is None:
        return
    _set_up(job)
    gc.enable()
    worker.serve(job.request.receive, job.request.send, job.request.further)


def _serve(control: socket.socket, cloner: Cloner) -> _Job | None:
    """Fork what is asked for. Return the job in each worker, None here when the host has ended."""
    # What is there now is shared with every worker: a collection would write into each object's head and so copy every page.
    gc.disable()
    sys.path_importer_cache.clear()
    gc.collect()
    gc.freeze()
    control.send(spawn.encode(spawn.Ready()))
    while (job := _receive(control)) is not None:
        try:
            pid, pidfd = cloner.clone()
        except OSError as error:
            control.send(spawn.encode(spawn.Refused(error.errno or errno.EAGAIN, "the zygote could not fork")))
        else:
            if pid == 0:
                control.close()
                return job
            socket.send_fds(control, [spawn.encode(spawn.Spawned(pid))], [pidfd])
            os.close(pidfd)
        for descriptor in job.descriptors:
            os.close(descriptor)
    return None


def _receive(control: socket.socket) -> _Job | None:
    """Return the next request that came whole, None at the end; one without all of its descriptors is refused here."""
    while True:
        flags = socket.MSG_CMSG_CLOEXEC
        data, descriptors, told, _ = socket.recv_fds(control, spawn.MAX_MESSAGE, spawn.MAX_DESCRIPTORS + _OWN, flags)
        if not data:
            return None
        if told & socket.MSG_TRUNC:
            raise ProtocolError(f"a request to the zygote of more than {spawn.MAX_MESSAGE} bytes")
        request = spawn.decode_spawn(data)
        if len(descriptors) == len(request.numbers) + _OWN:
            return _Job(request, descriptors)
        for descriptor in descriptors:  # there was no room for all of them
            os.close(descriptor)
        control.send(spawn.encode(spawn.Refused(errno.EMFILE, "the zygote has no room for the descriptors")))


def _set_up(job: _Job) -> None:
    """Become what an executed worker is, and wait to be let go. Never returns in a worker that cannot, or that nobody waits for."""
    request = job.request
    handshake = job.descriptors[0]
    try:
        worker.die_with(request.parent)
        os.fchdir(job.descriptors[1])
        handshake = _place(job.descriptors[_OWN:], request.numbers, handshake)
        _become(request)
        if os.read(handshake, 1) != spawn.GO:
            os._exit(1)
        os.setsid()
        os.write(handshake, spawn.UP)
        os.close(handshake)
    except BaseException as error:
        _report(handshake, error)


def _report(handshake: int, error: BaseException) -> NoReturn:
    try:
        os.write(handshake, f"{type(error).__name__}: {error}".encode()[: spawn.MAX_REPORT])
    finally:  # the host may have gone
        os._exit(1)


def _place(descriptors: Sequence[int], numbers: Sequence[int], handshake: int) -> int:
    """Give each descriptor its number and close every other but standard input. Return the new number of the handshake."""
    above = max(numbers, default=2) + 1
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for descriptor in (*descriptors, handshake)]
    for descriptor, number in zip(high, numbers, strict=False):  # the last is the handshake
        os.dup2(descriptor, number, inheritable=number <= 2)
    kept = {0, *numbers, high[-1]}
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in kept:
            try:
                os.close(number)
            except OSError:
                pass  # that of the listing itself
    return high[-1]


def _become(request: spawn.Spawn) -> None:
    os.environ.clear()
    for name, value in request.environment:
        os.environb[name] = value
    time.tzset()
    sys.path[:] = map(os.fsdecode, request.import_path)
    os.umask(request.umask)
    for number, soft, hard in request.limits:
        if resource.getrlimit(number) != (soft, hard):
            resource.setrlimit(number, (soft, hard))
