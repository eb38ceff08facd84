"""The host's hand on its zygote: start it, have it fork, see it end, end it.

Invariants:

* One thread does all of it, the launcher's: a worker's parent is the thread that started the zygote, and it must live as long.
* A worker that was forked is in one of two places. In the zygote's process group nobody else knows it, and :meth:`Zygote.bury` ends
  and reaps it there; it leaves the group only when the host holds its pidfd and let it go, and :meth:`Zygote.fork` returns only then.
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

import attrs

from blackhole_core.errors import ProtocolError, describe_exit
from blackhole_core.executor.launch.child import wait_readable
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.printable import printable
from blackhole_core.executor.wire import spawn

__all__ = ["SpawnFailed", "Spawning", "Zygote", "ZygoteLost", "start_zygote"]

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


class SpawnFailed(Exception):
    """The zygote is well, but this worker could not be set up; nothing of it is left."""


@attrs.frozen
class Spawning:
    """One worker to be forked. ``descriptors`` are (the host's, the worker's) numbers; they stay open here.

    ``receive``, ``send`` and ``further`` are the worker's numbers of those that its program uses.
    """

    descriptors: Sequence[tuple[int, int]]
    receive: int
    send: int
    further: tuple[int, ...]
    import_path: Sequence[str]
    environment: Mapping[str, str]
    umask: int
    limits: tuple[tuple[int, int, int], ...]

    def request(self) -> bytes:
        """Return it encoded."""
        return spawn.encode(
            spawn.Spawn(
                parent=os.getpid(),
                numbers=tuple(number for _, number in self.descriptors),
                receive=self.receive,
                send=self.send,
                further=self.further,
                import_path=tuple(map(os.fsencode, self.import_path)),
                environment=tuple((os.fsencode(name), os.fsencode(value)) for name, value in self.environment.items()),
                umask=self.umask,
                limits=self.limits,
            )
        )


class Zygote:
    """A running zygote. ``pidfd`` becomes readable when it has died; then, or when it is not needed any more, :meth:`bury` it."""

    def __init__(self, pid: int, pidfd: int, control: socket.socket, output: int) -> None:
        self.pid: Final = pid
        self.pidfd: Final = pidfd
        self._control: Final = control
        self._output: Final = output

    def fork(self, spawning: Spawning, guard: Guard) -> tuple[int, int]:
        """Fork a worker, which ``guard`` watches before it is let go. Return its process id and pidfd.

        :raises OSError: the system refused; nothing is left.
        :raises SpawnFailed: see there.
        :raises ZygoteLost: see there; bury it.
        """
        with contextlib.ExitStack() as opened:
            handshake, theirs = socket.socketpair()
            opened.enter_context(handshake)
            with theirs:
                self._ask(spawning, theirs.fileno())
            pid, pidfd = self._forked(handshake)
            try:
                guard.watch(pid)
                _let_go(handshake)
            except BaseException:
                guard.forget(pid)
                _end(pid, pidfd)
                raise
            return pid, pidfd

    def bury(self) -> str:
        """End the zygote, whatever it does, with what it forked and the host does not know. Return how it ended and its last words."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
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

    # --- one request -------------------------------------------------------------------------------------------------

    def _ask(self, spawning: Spawning, handshake: int) -> None:
        data = spawning.request()
        if len(data) > spawn.MAX_MESSAGE:
            raise SpawnFailed(f"its environment and import path take {len(data)} bytes, a request may have {spawn.MAX_MESSAGE}")
        if len(spawning.descriptors) > spawn.MAX_DESCRIPTORS:
            raise SpawnFailed(f"it is given {len(spawning.descriptors)} descriptors, a request may have {spawn.MAX_DESCRIPTORS}")
        directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            socket.send_fds(self._control, [data], [handshake, directory, *(here for here, _ in spawning.descriptors)])
        except TimeoutError:
            raise ZygoteLost(f"it took no request for {_STEP_SECONDS:g} s") from None
        except (BrokenPipeError, ConnectionError):
            raise ZygoteLost("it has ended") from None
        finally:
            os.close(directory)

    def _forked(self, handshake: socket.socket) -> tuple[int, int]:
        """Return process id and pidfd of what was forked."""
        answer, received = self._answer()
        if isinstance(answer, spawn.Refused):
            raise OSError(answer.errno, f"{os.strerror(answer.errno)}: {answer.reason}")
        if not isinstance(answer, spawn.Spawned):
            raise ZygoteLost(f"it answered a request with {type(answer).__name__}")
        if not received:  # there was no room for it
            handshake.close()
            _end(answer.pid, None)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return answer.pid, received[0]

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
            _end(pid, None)
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


def _let_go(handshake: socket.socket) -> None:
    """Let a worker go that waits to be, and wait until it has left the zygote's process group.

    :raises SpawnFailed: it did not.
    """
    try:
        handshake.send(spawn.GO)
        answer = handshake.recv(spawn.MAX_REPORT)
    except TimeoutError:
        raise SpawnFailed(f"it was not set up within {_STEP_SECONDS:g} s") from None
    except ConnectionError:
        answer = b""
    if answer != spawn.UP:
        said = printable(answer.decode("utf-8", "replace"), spawn.MAX_REPORT)
        raise SpawnFailed(f"it could not be set up: {said}" if said else "it ended while it was set up")


def _end(pid: int, pidfd: int | None) -> None:
    """End and reap a worker that runs no plugin code yet, by its pidfd where there is one; user code may have reaped it."""
    with contextlib.suppress(ProcessLookupError):
        if pidfd is None:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED)
    if pidfd is not None:
        os.close(pidfd)
