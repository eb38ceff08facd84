"""The zygote: a process that has imported the worker program, holds no plugin code, and forks a worker when its host asks.

It has one thread, serves one request at a time, and knows nothing of what a worker is for: that the host tells the worker itself,
over a socket of its own, with the descriptors it is to have. So no descriptor of a worker is ever here, and none can get into another one.

A worker is a child of the host from its first instant (:mod:`~blackhole_core.executor.cloning`). It stays in the zygote's process
group until the host knows it and has let it go; whatever fails before that, the host finds it there. Then it has a session of its own and
waits for its assignment. One that is forked ahead of its time is told so: it makes its namespaces meanwhile, and takes the memory that it will need.

A forked worker must be what an executed one is: its environment, descriptors, working directory, import path, limits and umask are set by
the assignment, its signals by the zygote.
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

from blackhole_core.errors import ProtocolError
from blackhole_core.executor import (
    worker,
    working,  # noqa: F401 - which every worker imports: here it is there in all of them
)
from blackhole_core.executor.cloning import CannotClone, Cloner
from blackhole_core.executor.rehearsal import REHEARSALS, rehearse
from blackhole_core.executor.sandbox import enclose
from blackhole_core.executor.wire import spawn
from blackhole_core.executor.wire.policy import Layer

__all__ = ["main"]


def main() -> None:
    """Be a zygote on the socket that ``sys.argv`` names, for the host whose pid follows. Returns at the host's end, and in a worker that ended."""
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
    _make_ready()
    control.send(spawn.encode(spawn.Ready()))
    own = _serve(control, cloner)
    if own is not None:
        control.close()
        _live(own)


def _make_ready() -> None:
    """Have everything there that workers share, what builds walls included. A collection would write into each object's head, and so copy every page: none does before the fork."""
    gc.disable()
    rehearse(REHEARSALS)
    enclose.rehearse()
    sys.path_importer_cache.clear()
    gc.collect()
    gc.freeze()


def _serve(control: socket.socket, cloner: Cloner) -> socket.socket | None:
    """Fork what is asked for. Return its own socket in each worker, None here when the host has ended."""
    while (request := _receive(control)) is not None:
        parent, own = request
        with own:
            try:
                pid, pidfd = cloner.clone()
            except OSError as error:
                control.send(spawn.encode(spawn.Refused(error.errno or errno.EAGAIN, "the zygote could not fork")))
                continue
            if pid == 0:
                cloner.die_with(parent)
                return own.dup()
        socket.send_fds(control, [spawn.encode(spawn.Forked(pid))], [pidfd])
        os.close(pidfd)
    return None


def _receive(control: socket.socket) -> tuple[int, socket.socket] | None:
    """Return the next request, the host's pid and the socket for the worker; None at the end."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, spawn.MAX_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return None
        request = spawn.decode_fork(data)
        if descriptors:
            return request.parent, socket.socket(fileno=descriptors[0])
        control.send(spawn.encode(spawn.Refused(errno.EMFILE, "the zygote has no room for a descriptor")))


# --- in a worker -------------------------------------------------------------------------------------------------------


def _live(own: socket.socket) -> None:
    """Leave the zygote, wait for the assignment, become that, and be a worker. Never returns in one that nobody waits for."""
    if own.recv(1) != spawn.GO:
        os._exit(0)
    os.setsid()
    own.send(spawn.FREE)
    order, descriptors = _hear(own)
    begun = None
    if isinstance(order, spawn.Ahead):
        begun = enclose.begin([Layer(name) for name in order.namespaces]) if order.namespaces else None
        rehearse(1)  # after the forks that this takes, or the pages would be shared once more
        order, descriptors = _hear(own)
    own.close()
    if not isinstance(order, spawn.Assignment):
        raise ProtocolError(f"{type(order).__name__} where an assignment was expected")
    os.fchdir(descriptors[0])
    _place(descriptors[1:], order.numbers)  # from here on, what goes wrong is written to the worker's own output
    _become(order)
    gc.enable()
    worker.serve(order.receive, order.send, order.further, begun)


def _hear(own: socket.socket) -> tuple[spawn.Order, list[int]]:
    data, descriptors, flags, _ = socket.recv_fds(own, spawn.MAX_MESSAGE, spawn.MAX_DESCRIPTORS + 1, socket.MSG_CMSG_CLOEXEC)
    if not data:
        os._exit(0)  # the host has no use for it any more
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ProtocolError("an assignment that did not come whole: too long, or no room for its descriptors")
    return spawn.decode_order(data, len(descriptors)), descriptors


def _become(assignment: spawn.Assignment) -> None:
    os.environ.clear()
    for name, value in assignment.environment:
        os.environb[name] = value
    time.tzset()
    sys.path[:] = map(os.fsdecode, assignment.import_path)
    sys.path_importer_cache.clear()
    os.umask(assignment.umask)
    for number, soft, hard in assignment.limits:
        if resource.getrlimit(number) != (soft, hard):
            resource.setrlimit(number, (soft, hard))


def _place(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Give each descriptor its number and close every other but standard input."""
    above = max(numbers) + 1
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for descriptor in descriptors]
    for descriptor, number in zip(high, numbers, strict=True):
        os.dup2(descriptor, number, inheritable=number <= 2)
    stay = {0, *numbers}
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in stay:
            try:
                os.close(number)
            except OSError:
                pass  # that of the listing itself
