"""The host's hand on its zygote: start it, have it fork, see it end, end it.

Invariants:

* One thread does all of it, the launcher's: a worker's parent is the thread that started the zygote, and it must live as long.
* A worker that was forked is in one of two places. In the zygote's process group the host does not hold it yet, and :meth:`Zygote.bury` ends
  and reaps it there. It leaves the group in :meth:`Newborn.let_go`, when the host has its pidfd.
* Every wait has a deadline. A zygote that missed one is killed: its answer would be taken for that to the next request.
* The zygote's death is no worker's: they are children of the host.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from blackhole_core.errors import ProtocolError, describe_exit
from blackhole_core.executor.launch.child import wait_readable
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.launch.newborn import Newborn, end_unassigned
from blackhole_core.executor.wire import spawn
from blackhole_core.printable import printable

__all__ = ["Zygote", "ZygoteLost", "start_zygote"]

_PROGRAM: Final = "import sys; sys.path[:] = sys.argv[3:]; del sys.argv[3:]; from blackhole_core.executor.zygote import main; main()"

#: Seconds until the zygote has imported the worker program: ten times what a busy machine was seen to take.
_START_SECONDS: Final = 10.0
#: Seconds for each step of a request; one takes a few milliseconds, a machine under heavy load some hundred.
_STEP_SECONDS: Final = 5.0
#: Seconds in which a zygote that was told to end must do so before it is killed, and a killed one must be gone.
_END_SECONDS: Final = 5.0
#: Seconds between two looks for what has no pidfd here and is dying.
_LOOK_AGAIN: Final = 0.001
#: Bytes of the zygote's last words that go into a message.
_LAST_WORDS: Final = 2000


class ZygoteLost(Exception):
    """The zygote died, does not answer, or cannot fork here; it is of no use any more."""


class Zygote:
    """A running zygote. ``pidfd`` becomes readable when it has died; then, or when it is not needed any more, :meth:`bury` it."""

    def __init__(self, pid: int, pidfd: int, control: socket.socket, output: int) -> None:
        self.pid: Final = pid
        self.pidfd: Final = pidfd
        self._control: Final = control
        self._output: Final = output
        self._begun: socket.socket | None = None

    def begin_fork(self) -> None:
        """Have it fork a worker; :meth:`finish_fork` takes that. Nothing has been begun yet.

        :raises OSError: the system refused.
        :raises ZygoteLost: see there; bury it.
        """
        own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                socket.send_fds(self._control, [spawn.encode(spawn.Fork(os.getpid()))], [theirs.fileno()])
            except BaseException as error:
                own.close()
                if isinstance(error, TimeoutError | ConnectionError):
                    raise ZygoteLost("it takes no request") from None
                raise
        self._begun = own

    @property
    def begun(self) -> socket.socket | None:
        """Becomes readable when :meth:`finish_fork` need not wait; None when no fork was begun."""
        return self._control if self._begun is not None else None

    def finish_fork(self, guard: Guard) -> Newborn:
        """Return the worker whose fork was begun, in the zygote's process group and known to ``guard``.

        :raises OSError: the system refused.
        :raises ZygoteLost: see there; bury it.
        """
        own, self._begun = self._begun, None
        assert own is not None
        newborn = self._take_forked(own, guard)
        try:
            guard.watch(newborn.pid)
        except BaseException:  # it was killed, and another one cannot be had
            newborn.discard()
            raise
        return newborn

    def _take_forked(self, own: socket.socket, guard: Guard) -> Newborn:
        with contextlib.ExitStack() as opened:
            opened.enter_context(own)
            answer, received = self._answer()
            if isinstance(answer, spawn.Refused):
                raise OSError(answer.errno, f"{os.strerror(answer.errno)}: {answer.reason}")
            if not isinstance(answer, spawn.Forked):
                raise ZygoteLost(f"it answered a request with {type(answer).__name__}")
            if not received:  # there was no room for its pidfd
                own.close()
                end_unassigned(answer.pid, None)
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            opened.pop_all()
        return Newborn(answer.pid, received[0], own, guard)

    def bury(self) -> str:
        """End the zygote, whatever it does, with what it forked and the host does not know. Return how it ended and its last words."""
        self._control.close()
        if self._begun is not None:
            self._begun.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # what must not be killed any more ends with its socket
            os.killpg(self.pid, signal.SIGKILL)  # not a stranger's: its leader has not been reaped
        return self._collect()

    def close(self) -> None:
        """Let the zygote end by itself: it has nothing more to do."""
        self._control.close()
        wait_readable(self.pidfd, int(_END_SECONDS * 1000))
        self.bury()

    def wait_ready(self) -> None:
        """Wait until it has imported what it must.

        :raises ZygoteLost: it did not, or cannot fork here.
        """
        self._control.settimeout(_START_SECONDS)
        answer, _ = self._answer()
        if not isinstance(answer, spawn.Ready):
            raise ZygoteLost(answer.reason if isinstance(answer, spawn.Refused) else f"it began with {type(answer).__name__}")
        self._control.settimeout(_STEP_SECONDS)

    # --- what it says ------------------------------------------------------------------------------------------------

    def _answer(self) -> tuple[spawn.Answer, list[int]]:
        try:
            data, received, _, _ = socket.recv_fds(self._control, spawn.MAX_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise ZygoteLost(f"it gave no answer within {self._control.gettimeout():g} s") from None
        except ConnectionError:
            raise ZygoteLost("it has ended") from None
        if not data:
            raise ZygoteLost("it has ended")
        try:
            return spawn.decode_answer(data), received
        except ProtocolError as error:
            for descriptor in received:
                os.close(descriptor)
            raise ZygoteLost(str(error)) from None

    # --- its end -----------------------------------------------------------------------------------------------------

    def _collect(self) -> str:
        """Reap the zygote and what is still in its process group, all of it killed; close what belongs to it."""
        status: int | None = None
        deadline = time.monotonic() + _END_SECONDS
        wait_readable(self.pidfd, int(_END_SECONDS * 1000))
        while time.monotonic() < deadline:
            try:
                result = os.waitid(os.P_PGID, self.pid, os.WEXITED | os.WNOHANG)
            except ChildProcessError:  # none is left, or user code took them (``os.waitpid(-1)``)
                break
            if result is None:
                time.sleep(_LOOK_AGAIN)  # a worker it forked is dying; nobody has a pidfd of it
            elif result.si_pid == self.pid:
                status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        words = printable(self._last_words(), _LAST_WORDS)
        os.close(self.pidfd)
        os.close(self._output)
        return f"it {describe_exit(status)}" + (f"; last lines it wrote: {words}" if words else "")

    def _last_words(self) -> str:
        try:
            return os.read(self._output, 16 * _LAST_WORDS)[-_LAST_WORDS:].decode("utf-8", "replace").strip()
        except BlockingIOError:
            return ""  # it wrote nothing, and a process that it left behind could still


def start_zygote(import_path: Sequence[str], environment: Mapping[str, str]) -> Zygote:
    """Start a zygote and wait until it is ready.

    :raises ZygoteLost: it did not come up; nothing is left behind.
    :raises OSError: the system refused to start it; likewise.
    """
    with contextlib.ExitStack() as opened:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        opened.callback(control.close)
        with theirs:
            output, their_output = os.pipe2(os.O_CLOEXEC)
            opened.callback(os.close, output)
            try:
                os.set_blocking(output, False)
                pid = _execute(import_path, environment, theirs.fileno(), their_output)
            finally:
                os.close(their_output)
        try:
            pidfd = os.pidfd_open(pid)
        except BaseException:
            end_unassigned(pid, None)
            raise
        opened.pop_all()
    zygote = Zygote(pid, pidfd, control, output)
    try:
        zygote.wait_ready()
    except ZygoteLost as error:
        raise ZygoteLost(f"{error}; {zygote.bury()}") from None
    except BaseException:
        zygote.bury()
        raise
    return zygote


def _execute(import_path: Sequence[str], environment: Mapping[str, str], control: int, output: int) -> int:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, str(control), str(os.getpid()), *import_path],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=(control,),
        env=dict(environment),
        cwd="/",  # it must not keep a directory busy
        start_new_session=True,
    )
    process.returncode = 0  # it is reaped by number; Popen must neither wait nor warn
    return process.pid
