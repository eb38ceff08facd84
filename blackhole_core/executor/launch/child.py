"""A worker that was brought up, as the host holds it: how to talk to it, hear it, see it end and end it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol

import attrs

if TYPE_CHECKING:
    from blackhole_core.executor.limits.group import Group
    from blackhole_core.executor.limits.verdict import Verdict
    from blackhole_core.executor.runner import RunnerSpec
    from blackhole_core.executor.wire.policy import Policy
    from blackhole_core.manifest.model import Resources

__all__ = ["Child", "LaunchSpec", "Launcher", "Start", "wait_readable"]


@attrs.frozen
class LaunchSpec:
    """What to bring up: a name for messages, the import path of the worker, its environment, and the descriptors it gets beside its channel.

    ``descriptors`` stay the caller's, who closes them when :meth:`Launcher.launch` has returned or raised; the worker is told its own numbers for
    them, in the same order. ``rlimits`` are resource limits, by number (``resource.RLIMIT_…``): the most that the worker may have, where its host has more.
    ``policy`` is what the worker will be told of its walls, for launchers that build some of them.
    """

    name: str
    import_path: Sequence[str]
    environment: Mapping[str, str] = attrs.field(factory=dict)
    descriptors: tuple[int, ...] = ()
    rlimits: tuple[tuple[int, int], ...] = ()
    plugin: RunnerSpec | None = None  #: whose code it will run, for levels that must bring it there
    policy: Policy | None = None

    def lowered(self, number: int, soft: int, hard: int) -> tuple[int, int]:
        """Return the soft and hard limit that the worker has of resource ``number``, of which its host has ``soft`` and ``hard``."""
        most = dict(self.rlimits).get(number)
        if most is None:
            return soft, hard
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        return most, most


@attrs.frozen
class Start:
    """How a worker was started: forked by a zygote, by executing the interpreter (and why so where a zygote was wanted), in a container (and by what),
    or by booting a virtual machine (and what runs it).
    """

    way: Literal["zygote", "exec", "container", "vm"]
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.way}: {self.reason}" if self.reason else self.way


class Child:
    """One worker process and the descriptors that belong to it. Owned by one runner, which closes it.

    ``receive``/``send`` are the host's ends of the two protocol pipes (``send`` is non-blocking), ``output`` the read end of its standard output
    and error, ``pidfd`` becomes readable when it has ended. ``on_reap`` is called just before the process id becomes free, and so is what
    :meth:`before_reap` was given.
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        receive: int,
        send: int,
        output: int,
        *,
        start: Start,
        transport: str = "pipes",
        on_reap: Callable[[], object] = lambda: None,
        on_host_death: Callable[[str], object] = lambda directory: None,
        group: Group | None = None,
    ) -> None:
        self.pid: Final = pid
        self.pidfd: Final = pidfd
        self.receive: Final = receive
        self.send: Final = send
        self.output: Final = output
        self.start: Final = start
        self.transport: Final = transport  #: what carries the protocol, for people
        self.group: Final = group  #: the control groups it is in already; whoever limits it ends them
        self._on_reap = [on_reap]
        #: Has the control groups in a directory ended and removed when the host is killed.
        self.clear_after_host: Final = on_host_death
        self._lock = threading.Lock()  # a signal must never meet a number that was given to a stranger
        self._reaped = False

    def signal(self, number: int) -> None:
        """Send a signal to the worker's whole process group; nothing happens when it has been reaped."""
        with self._lock:
            if not self._reaped:
                self._signal(number)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End the worker and what it started, now."""
        self.signal(signal.SIGKILL)

    def before_reap(self, action: Callable[[], object]) -> None:
        """Have ``action`` called just before the process id becomes free. It must be quick, and send no signal through this object."""
        with self._lock:
            self._on_reap.append(action)

    def reap(self) -> int | None:
        """Collect the exit status of a worker whose ``pidfd`` is readable, once, and end what it started.

        :returns: the status, negative for a signal; None when user code took it first (``os.waitpid(-1)``).
        """
        with self._lock:
            self._signal(signal.SIGKILL)  # grandchildren; the group exists as long as its leader is not reaped
            self._reaped = True
            for action in self._on_reap:
                action()
            try:
                result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            except ChildProcessError:
                return None
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def verdict(self, resources: Resources) -> Verdict | None:
        """Return the limit of ``resources`` that it died of, where it can know that better than who looks at it from outside. It has been reaped."""
        return None

    def close(self) -> None:
        """Close the descriptors; the worker has been reaped."""
        for descriptor in (self.receive, self.send, self.output, self.pidfd):
            os.close(descriptor)

    def discard(self) -> None:
        """End a worker that nobody took over, and everything that belongs to it."""
        self.kill()
        wait_readable(self.pidfd, None)
        self.reap()
        self.close()
        if self.group is not None:
            self.group.end()


def wait_readable(descriptor: int, milliseconds: int | None) -> bool:
    """Whether ``descriptor`` becomes readable (or ends) within the time; None waits for ever."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(milliseconds))


class Launcher(Protocol):
    """Brings up workers at one level."""

    def launch(self, spec: LaunchSpec) -> Child:
        """Start a worker; it has not said hello yet.

        :raises OSError: the system refused (descriptors, memory, processes); nothing is left behind.
        """

    def close(self) -> None:
        """Release what the launcher itself holds; all its children have ended."""
