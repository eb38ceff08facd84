"""Level process: a worker is a child process of the host.

The worker asks the kernel to be killed when its parent dies. The kernel takes "parent" to be the *thread* that forked, so
every worker is forked by one thread that lives as long as the launcher does (see ``prctl(2)``, PR_SET_PDEATHSIG). What the
worker itself started is ended by the :mod:`~blackhole_core.executor.launch.guard`.

The environment is built from nothing: see :data:`PASSED_ON`. Descriptors 0 to 2 are ``/dev/null`` and the output pipe, two
more are the protocol, then come those that :attr:`LaunchSpec.descriptors` names; nothing else is inherited.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from blackhole_core.executor.launch.child import Child, LaunchSpec
from blackhole_core.executor.launch.guard import Guard

__all__ = ["PASSED_ON", "PROGRAM", "ProcessLauncher"]

#: Variables a worker gets from the host's environment: how to find programs, where to put temporary files, how to spell text and time.
PASSED_ON: Final = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONDONTWRITEBYTECODE")

#: Bytes of kernel buffer per protocol pipe: the most an unprivileged process may ask for, so a large message needs few wake-ups.
PIPE_SIZE: Final = 1024 * 1024

#: The worker's program: its import path is given, so it needs no site initialisation (-S) and takes nothing from the environment (-I).
PROGRAM: Final = "import sys; sys.path[:] = sys.argv[5:]; del sys.argv[5:]; from blackhole_core.executor.worker import main; main()"


class ProcessLauncher:
    """Forks workers from one thread of its own, started with the first and ended by :meth:`close`.

    ``program`` is the Python text that a worker runs; its arguments are its two descriptors, the host's pid, the further descriptors
    with commas between them, and the import path.
    ``_thread`` and ``_closed`` change, and the queue is fed, only under ``_lock``: after the ``None`` of :meth:`close` no request follows.
    """

    def __init__(self, program: str = PROGRAM) -> None:
        self._program = program
        self._requests: queue.SimpleQueue[tuple[Future[Child], LaunchSpec] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._guard: Guard | None = None  # belongs to the thread

    def launch(self, spec: LaunchSpec) -> Child:
        """Fork a worker.

        :raises OSError: the system refused; nothing is left behind.
        """
        future: Future[Child] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the launcher is closed")
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="blackhole-launcher", daemon=True)
                thread.start()
                self._thread = thread
            self._requests.put((future, spec))
        return future.result()

    def close(self) -> None:
        with self._lock:
            if not self._closed and self._thread is not None:
                self._requests.put(None)
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while (request := self._requests.get()) is not None:
            future, spec = request
            try:
                future.set_result(self._fork(spec))
            except BaseException as error:  # whatever it is, somebody waits for it
                future.set_exception(error)
            del request, future, spec
        if self._guard is not None:
            self._guard.close()

    def _fork(self, spec: LaunchSpec) -> Child:
        if self._guard is None:
            self._guard = Guard()
        return _fork(spec, self._program, self._guard)


def _fork(spec: LaunchSpec, program: str, guard: Guard) -> Child:
    opened: list[int] = []
    try:
        worker_receive, send = _pipe(opened)
        receive, worker_send = _pipe(opened)
        output, worker_output = _pipe(opened)
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", "-c", program),
                *(str(worker_receive), str(worker_send), str(os.getpid()), ",".join(map(str, spec.descriptors))),
                *spec.import_path,
            ],
            stdin=subprocess.DEVNULL,
            stdout=worker_output,
            stderr=worker_output,
            pass_fds=(worker_receive, worker_send, *spec.descriptors),
            env=environment(os.environ.get) | dict(spec.environment),
            start_new_session=True,  # its own group to be killed as one, and no Ctrl-C of the host's terminal
        )
        try:
            guard.watch(process.pid)
            pidfd = os.pidfd_open(process.pid)
        except BaseException:
            process.kill()
            guard.forget(process.pid)
            process.wait()
            raise
        process.returncode = 0  # the exit status is read through the pidfd; Popen must neither wait nor warn
        for descriptor in (worker_receive, worker_send, worker_output):
            os.close(descriptor)
            opened.remove(descriptor)
        os.set_blocking(send, False)
        return Child(process.pid, pidfd, receive, send, output, on_reap=lambda: guard.forget(process.pid))
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise


def _pipe(opened: list[int]) -> tuple[int, int]:
    import fcntl

    reading, writing = os.pipe2(os.O_CLOEXEC)
    opened += (reading, writing)
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except PermissionError:  # the user's pipe buffers are used up; the default size works, only slower
        pass
    return reading, writing


def environment(get: Callable[[str], str | None]) -> dict[str, str]:
    """Return the environment of a worker: what is in :data:`PASSED_ON` and set, and UTF-8 where nothing says otherwise."""
    passed = {name: value for name in PASSED_ON if (value := get(name)) is not None}
    return {"LC_CTYPE": "C.UTF-8", **passed} if not {"LANG", "LC_ALL", "LC_CTYPE"} & passed.keys() else passed
