"""A worker inside ``bwrap``: how it is brought up, and what the host holds of it.

Three processes, as with walls of our own. ``bwrap`` stays outside and ends with the launcher's thread (``--die-with-parent``); process 1 inside is
:mod:`blackhole_core.executor.container`, as at level container; its child is the worker, in a session of its own. Process 1 tells how the worker ended, exactly:
``bwrap`` would say 128 + n for a signal, which is also what a program may exit with. When ``bwrap`` or process 1 is killed, the kernel ends everything inside.

The worker's descriptors wait in a socket, the only one that is passed in beside what ``bwrap`` itself reads: it keeps none of them open.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Mapping
from typing import Final

import attrs

from blackhole_core.errors import IsolationUnavailable
from blackhole_core.executor.container import TAKE
from blackhole_core.executor.launch.bwrap.program import calling, find_program, last_words, read_words
from blackhole_core.executor.launch.child import LaunchSpec, Start
from blackhole_core.executor.launch.execute import taken_over
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.launch.inside import Inside, InsideChild, NotUp
from blackhole_core.executor.launch.oci.binds import interpreter
from blackhole_core.executor.launch.plumbing import Plumbing
from blackhole_core.executor.wire.policy import Policy
from blackhole_core.printable import printable

__all__ = ["Bubble", "begin"]

#: What runs before the worker's program. ``bwrap`` adds PWD to the environment, which no other worker has.
_FIRST_PROGRAM: Final = (
    "import os, sys; sys.path[:] = sys.argv[2:]; os.environ.pop('PWD', None); from blackhole_core.executor.container import main; main()\n"
)
#: Seconds for it to come up: a twentieth of one, unless the machine is busy.
_UP_SECONDS: Final = 30.0


@attrs.define(eq=False, kw_only=True)
class Bubble(Inside):
    """``bwrap`` at work for one worker. ``channel`` are the host's ends of its pipes, ``log`` is a file with what ``bwrap`` says, ``guard`` ends its group when the host is killed."""

    channel: tuple[int, int, int]
    log: int
    guard: Guard

    def child(self, spec: LaunchSpec) -> InsideChild:
        """Wait until the worker is up, and return it; any thread. When that fails nothing is left.

        :raises IsolationUnavailable: it did not come up, and why.
        :raises OSError: its limits could not be set.
        """
        try:
            self.wait_up(_UP_SECONDS)
            for number, _most in spec.rlimits:
                resource.prlimit(self.worker_pid, number, spec.lowered(number, *resource.getrlimit(number)))
        except NotUp as error:
            self.discard()
            raise IsolationUnavailable("process", f"bubblewrap could not start a worker: {error}") from None
        except BaseException:
            self.discard()
            raise
        return InsideChild(self, self.channel, Start("exec", "bubblewrap"), on_host_death=self.guard.clear)

    def complaint(self) -> str:
        """Return what ``bwrap`` said last, or the interpreter in it."""
        return printable(last_words(read_words(self.log)), 2000) or "bwrap ended without a word"

    def finish(self) -> None:
        """End what still runs, and ``bwrap`` last."""
        self.guard.forget(self.pid)
        super().finish()
        os.close(self.log)

    def discard(self) -> None:
        """End it when nobody took it over, and everything that belongs to it."""
        self.finish()
        for descriptor in self.channel:
            os.close(descriptor)


def begin(spec: LaunchSpec, policy: Policy, program: str, environment: Mapping[str, str], guard: Guard) -> Bubble:
    """Start ``bwrap`` with a worker that runs ``program`` inside. It ends with the thread that calls this.

    :raises OSError: the system refused; nothing is left.
    """
    with contextlib.ExitStack() as undo:
        life, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(life.close)
        log = os.memfd_create("blackhole-bwrap-log", os.MFD_CLOEXEC)
        undo.callback(os.close, log)
        with theirs, Plumbing() as pipes:
            host = os.pidfd_open(os.getpid())
            try:
                socket.send_fds(life, [TAKE], [host, pipes.worker_output, pipes.worker_receive, pipes.worker_send, *spec.descriptors])
            finally:
                os.close(host)
            words = [interpreter(), "-I", "-S", "-c", _FIRST_PROGRAM + program, str(theirs.fileno()), *spec.import_path]
            with calling(find_program(os.environ), policy, "--as-pid-1") as call:
                process = subprocess.Popen(
                    [*call.command, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs.fileno(), *call.descriptors),
                    env=dict(environment),
                    start_new_session=True,  # its own group to be killed as one, and no Ctrl-C of the host's terminal
                )
            pidfd = taken_over(process, guard)
            pipes.hand_over()
            channel = (pipes.receive, pipes.send, pipes.output)
        undo.pop_all()
        return Bubble(pid=process.pid, pidfd=pidfd, life=life, channel=channel, log=log, guard=guard)
