"""Bring up a worker by executing the interpreter anew: for a program or an environment that is no zygote's, and where there can be none."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping

from blackhole_core.executor.launch.child import LaunchSpec
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.launch.plumbing import Plumbing

__all__ = ["execute", "taken_over"]


def execute(spec: LaunchSpec, program: str, environment: Mapping[str, str], pipes: Plumbing, guard: Guard) -> tuple[int, int]:
    """Start a worker under the eyes of ``guard``. Return its process id and pidfd.

    :raises OSError: the system refused; nothing is left.
    """
    process = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", "-c", program),
            *(str(pipes.worker_receive), str(pipes.worker_send), str(os.getpid()), ",".join(map(str, spec.descriptors))),
            *spec.import_path,
        ],
        stdin=subprocess.DEVNULL,
        stdout=pipes.worker_output,
        stderr=pipes.worker_output,
        pass_fds=(pipes.worker_receive, pipes.worker_send, *spec.descriptors),
        env=dict(environment),
        start_new_session=True,  # its own group to be killed as one, and no Ctrl-C of the host's terminal
    )

    def lower() -> None:
        for number, _most in spec.rlimits:
            resource.prlimit(process.pid, number, spec.lowered(number, *resource.getrlimit(number)))

    return process.pid, taken_over(process, guard, lower)


def taken_over(process: subprocess.Popen[bytes], guard: Guard, prepare: Callable[[], object] = lambda: None) -> int:
    """Return the pidfd of a process that was just started and is reaped through it from now on, under the eyes of ``guard``.

    :raises OSError: that, or ``prepare``, was refused; the process is ended.
    """
    try:
        guard.watch(process.pid)
        prepare()
        pidfd = os.pidfd_open(process.pid)
    except BaseException:
        process.kill()
        guard.forget(process.pid)
        process.wait()
        raise
    process.returncode = 0  # the exit status is read through the pidfd; Popen must neither wait nor warn
    return pidfd
