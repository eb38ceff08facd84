"""The worker: the one program that holds plugin code away from the host, whatever brought it up.

Of ours it imports the wire, the loader and the shared values, nothing of the host. It begins alone, with one thread: the first message says what walls it
is to build around itself. Only when they stand is the rest imported (:mod:`~blackhole_core.executor.working`): then it becomes a
:class:`~blackhole_core.executor.serving.Worker`, which is told what to load.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.frames import HEADER
from blackhole_core.executor.wire.policy import Policy, WallReport

if TYPE_CHECKING:
    from blackhole_core.executor.sandbox.enclose import Begun

__all__ = ["default_signals", "die_with", "main", "read_exactly", "serve"]

#: ``prctl(2)`` option: send this signal when the parent thread ends.
_PR_SET_PDEATHSIG: Final = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, and go at once if that has happened already."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def default_signals() -> None:
    """Undo what a parent may hand on: blocked signals and ignored ones. The two that Python itself ignores stay ignored."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def main() -> None:
    """Run a worker on what ``sys.argv`` names: descriptors to receive and send on, the pid of the host, and further descriptors."""
    receive, send, parent = (int(word) for word in sys.argv[1:4])
    further = tuple(map(int, filter(None, sys.argv[4].split(","))))
    del sys.argv[1:]
    die_with(parent)
    default_signals()
    serve(receive, send, further)


def serve(receive: int, send: int, further: tuple[int, ...], begun: Begun | None = None) -> None:
    """Run a worker in this process, which is clean: both ways of starting one lead here. Returns when it was told to stop.

    ``begun`` is what of its walls was made ahead of time, for a worker that is going to have walls.
    """
    faulthandler.enable()
    for descriptor in (receive, send, *further):
        os.set_inheritable(descriptor, False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]  # they are text files
    policy = _confinement(receive)
    if policy is not None:
        pid, walls, ready = _enclose(policy, (0, 1, 2, receive, send, *further), begun)
    elif begun is None:
        pid, walls, ready = os.getpid(), WallReport(), True
    else:
        raise ProtocolError("a worker without walls that was made ready for walls")
    from blackhole_core.executor.working import work  # not before the walls stand

    work(receive, send, further, pid=pid, walls=walls, ready=ready)


def _confinement(receive: int) -> Policy | None:
    """Return what the first message asks for; exactly that message is read, because the next one may be with it."""
    message = codec.decode_host_message(read_exactly(receive, int.from_bytes(read_exactly(receive, HEADER), "big")))
    if not isinstance(message, codec.Confine):
        raise ProtocolError(f"the host began with {type(message).__name__}")
    return message.policy


def read_exactly(descriptor: int, count: int) -> bytes:
    """Return ``count`` bytes of the host's, and no more than those; where it has closed the channel, this process ends."""
    data = b""
    while len(data) < count:
        more = os.read(descriptor, count - len(data))
        if not more:
            os._exit(0)  # the host has no use for this worker any more
        data += more
    return data


def _enclose(policy: Policy, keep: tuple[int, ...], begun: Begun | None) -> tuple[int, WallReport, bool]:
    """Build the walls; from here on this may be another process. Return its id as the host sees it, what was built, and whether all that is required holds."""
    from blackhole_core.executor.sandbox.enclose import enclose

    enclosed = enclose(policy, keep, begun)
    return enclosed.pid, enclosed.report, not enclosed.missing(policy)
