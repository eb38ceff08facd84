"""Level process: a worker is a child process of the host.

The worker asks the kernel to be killed when its parent dies. The kernel takes "parent" to be the *thread* that forked, so
every worker is forked by one thread that lives as long as the launcher does (see ``prctl(2)``, PR_SET_PDEATHSIG). What the
worker itself started is ended by the :mod:`~blackhole_core.executor.launch.guard`.

There are two ways to the same worker. A zygote forks it (:mod:`~blackhole_core.executor.launch.nursery`), as a child of that
very thread; that takes a few milliseconds. Where no zygote can be had, or it would not be the same worker, the interpreter is
executed anew.

The environment is built from nothing: see :data:`PASSED_ON`. Descriptors 0 to 2 are ``/dev/null`` and the output pipe, two
more are the protocol, then come those that :attr:`LaunchSpec.descriptors` names; nothing else is inherited.
"""

from __future__ import annotations

import collections
import os
import select
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from blackhole_core.executor.launch.child import Child, LaunchSpec, Start
from blackhole_core.executor.launch.execute import execute
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.launch.nursery import NoZygote, Nursery
from blackhole_core.executor.launch.plumbing import Plumbing

__all__ = ["PASSED_ON", "PROGRAM", "ProcessLauncher"]

#: Variables a worker gets from the host's environment: how to find programs, where to put temporary files, how to spell text and time.
PASSED_ON: Final = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONDONTWRITEBYTECODE")

#: The worker's program: its import path is given, so it needs no site initialisation (-S) and takes nothing from the environment (-I).
PROGRAM: Final = "import sys; sys.path[:] = sys.argv[5:]; del sys.argv[5:]; from blackhole_core.executor.worker import main; main()"

#: What the launcher's thread is to do; it tells the outcome itself and raises nothing.
_Job = Callable[[], object]


class ProcessLauncher:
    """Brings up workers from one thread of its own, started with the first and ended by :meth:`close`.

    ``program`` is the Python text that a worker runs; its arguments are its two descriptors, the host's pid, the further descriptors
    with commas between them, and the import path. Only workers of :data:`PROGRAM` can come from a zygote, and only when ``zygote`` is true.

    ``_thread``, ``_closed``, ``_jobs`` and ``_wake`` change only under ``_lock``: after the ``None`` of :meth:`close` no job follows. The thread
    alone uses ``_guard`` and ``_nursery``, and closes what is theirs, and ``_wake``.
    """

    def __init__(self, program: str = PROGRAM, *, zygote: bool = True) -> None:
        self._program = program
        self._zygote = zygote and program == PROGRAM
        self._jobs: collections.deque[_Job | None] = collections.deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._closed = False
        self._guard: Guard | None = None
        self._nursery = Nursery(lambda: environment(os.environ.get))

    def launch(self, spec: LaunchSpec) -> Child:
        """Bring up a worker.

        :raises OSError: the system refused; nothing is left behind.
        """
        future: Future[Child] = Future()

        def job() -> None:
            try:
                future.set_result(self._bring_up(spec))
            except BaseException as error:  # whatever it is, somebody waits for it
                future.set_exception(error)

        self._submit(job)
        return future.result()

    def warm(self, spec: LaunchSpec) -> None:
        """Begin to make ready what the first worker would otherwise wait for; ``spec`` is one that is likely to come."""
        if self._zygote:
            self._submit(lambda: self._nursery.warm(spec))

    def close(self) -> None:
        with self._lock:
            if not self._closed and self._thread is not None:
                self._put(None)
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise RuntimeError("the launcher is closed")
            if self._thread is None:
                self._thread = self._start_thread()
            self._put(job)

    def _put(self, job: _Job | None) -> None:
        self._jobs.append(job)
        os.eventfd_write(self._wake, 1)

    def _start_thread(self) -> threading.Thread:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_SEMAPHORE)  # counts jobs
        thread = threading.Thread(target=self._work, name="blackhole-launcher", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads
            os.close(self._wake)
            raise
        return thread

    # --- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job()
            del job  # or what it brought up lives until the next one comes
        self._nursery.close()
        if self._guard is not None:
            self._guard.close()
        os.close(self._wake)

    def _next(self) -> _Job | None:
        """Wait for a job, and clear away a zygote that dies meanwhile."""
        while True:
            poller = select.poll()
            poller.register(self._wake, select.POLLIN)
            if (pidfd := self._nursery.pidfd) is not None:
                poller.register(pidfd, select.POLLIN)
            if self._wake in dict(poller.poll()):
                os.eventfd_read(self._wake)
                return self._jobs.popleft()
            self._nursery.bury("it died")

    def _bring_up(self, spec: LaunchSpec) -> Child:
        if self._guard is None:
            self._guard = Guard()
        guard, own = self._guard, environment(os.environ.get) | dict(spec.environment)
        with Plumbing() as pipes:
            pid, pidfd, start = self._fork(spec, own, pipes, guard)
            pipes.hand_over()
            return Child(pid, pidfd, pipes.receive, pipes.send, pipes.output, start=start, on_reap=lambda: guard.forget(pid))

    def _fork(self, spec: LaunchSpec, own: dict[str, str], pipes: Plumbing, guard: Guard) -> tuple[int, int, Start]:
        reason = ""
        if self._zygote and spec.forked:
            try:
                return *self._nursery.fork(spec, own, pipes, guard), Start("zygote")
            except NoZygote as error:
                reason = str(error)
        return *execute(spec, self._program, own, pipes, guard), Start("exec", reason)


def environment(get: Callable[[str], str | None]) -> dict[str, str]:
    """Return the environment of a worker: what is in :data:`PASSED_ON` and set, and UTF-8 where nothing says otherwise."""
    passed = {name: value for name in PASSED_ON if (value := get(name)) is not None}
    return {"LC_CTYPE": "C.UTF-8", **passed} if not {"LANG", "LC_ALL", "LC_CTYPE"} & passed.keys() else passed
