"""Level process: a worker is a child process of the host.

The worker asks the kernel to be killed when its parent dies. The kernel takes "parent" to be the *thread* that forked, so
every worker is forked by one thread that lives as long as the launcher does (see ``prctl(2)``, PR_SET_PDEATHSIG). What the
worker itself started is ended by the :mod:`~blackhole_core.executor.launch.guard`.

There are two ways to the same worker. A zygote forks it (:mod:`~blackhole_core.executor.launch.nursery`), as a child of that
very thread, and mostly ahead of time. Where no zygote can be had, or it would not be the same worker, the interpreter is executed anew.

The environment is built from nothing: see :data:`PASSED_ON`. Descriptors 0 to 2 are ``/dev/null`` and the output pipe, two
more are the protocol, then come those that :attr:`LaunchSpec.descriptors` names; nothing else is inherited.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import attrs

from blackhole_core.executor.launch.bwrap.arguments import is_inside
from blackhole_core.executor.launch.child import Child, LaunchSpec, Start
from blackhole_core.executor.launch.execute import execute
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.launch.newborn import Newborn, Role, SpawnFailed, ready_role
from blackhole_core.executor.launch.nursery import NoZygote, Nursery
from blackhole_core.executor.launch.plumbing import Plumbing
from blackhole_core.executor.launch.standing import Origin, read_standing
from blackhole_core.executor.wire import spawn
from blackhole_core.executor.wire.policy import NAMESPACES, Policy

if TYPE_CHECKING:
    from blackhole_core.executor.limits.group import Group

__all__ = ["PASSED_ON", "PROGRAM", "ProcessLauncher"]

#: Variables a worker gets from the host's environment: how to find programs, where to put temporary files, how to spell text and time.
PASSED_ON: Final = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONDONTWRITEBYTECODE")

#: The worker's program: its import path is given, so it needs no site initialisation (-S) and takes nothing from the environment (-I).
PROGRAM: Final = "import sys; sys.path[:] = sys.argv[5:]; del sys.argv[5:]; from blackhole_core.executor.worker import main; main()"

_logger: Final = logging.getLogger("blackhole.launch")

#: First of a worker's own numbers: after the three standard streams.
_FIRST: Final = 3


@attrs.frozen
class _Job:
    """What the launcher's thread is to do, and what came of it."""

    action: Callable[[], object]
    outcome: Future[Any] = attrs.field(factory=Future, init=False)

    def do(self) -> None:
        try:
            self.outcome.set_result(self.action())
        except BaseException as error:  # whatever it is, somebody waits for it
            self.outcome.set_exception(error)


class ProcessLauncher:
    """Brings up workers with one thread of its own, started with the first and ended by :meth:`close`.

    ``program`` is the Python text that a worker runs; its arguments are its two descriptors, the host's pid, the further descriptors
    with commas between them, and the import path. Only workers of :data:`PROGRAM` can come from a zygote, and only when ``zygote`` is true.
    ``group`` puts one that is forked ahead into control groups of its own, by its process id.

    ``_thread``, ``_closed``, ``_jobs`` and ``_wake`` change only under ``_lock``: after the ``None`` of :meth:`close` no job follows. The thread
    alone makes ``_guard``, forks and executes, and at its end closes what is there; any thread may give a spare worker its role. With the thread
    end all workers, so no failure may end it. All of it is of one process: a fork of it has neither the thread nor children.
    """

    def __init__(self, program: str = PROGRAM, *, zygote: bool = True, group: Callable[[int], Group | None] = lambda pid: None) -> None:
        self._program = program
        self._pid: Final = os.getpid()
        self._zygote = zygote and program == PROGRAM
        self._jobs: collections.deque[_Job | None] = collections.deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = -1
        self._closed = False
        self._guard: Guard | None = None
        self._nursery = Nursery(self._the_guard, group)

    def launch(self, spec: LaunchSpec) -> Child:
        """Bring up a worker.

        :raises OSError: the system refused; nothing is left behind.
        :raises RuntimeError: the launcher is closed, or another process's.
        """
        self._check_process()
        if spec.policy is not None and is_inside(spec.policy):
            return self._in_bubblewrap(spec, spec.policy)
        child = self._from_spare(spec) if self._zygote and not self._closed else None
        if child is not None:
            return child
        worker: Child = self._wait_for(lambda: self._bring_up(spec))
        return worker

    def warm(self, import_path: Sequence[str]) -> None:
        """Begin to make ready what the first worker would otherwise wait for, and return; ``import_path`` is the host's."""
        self._check_process()
        if self._zygote:
            self._submit(lambda: self._ahead(lambda: self._warm(import_path)))

    def close(self) -> None:
        """End the thread, and what it made ready; nothing in a fork of this process."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if not self._closed and self._thread is not None:
                self._put(None)
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()

    # --- any thread --------------------------------------------------------------------------------------------------

    def _wait_for(self, bring_up: Callable[[], Any]) -> Any:
        """Have the thread bring something up that can be discarded, and return it."""
        outcome = self._submit(bring_up)
        try:
            return outcome.result()
        except BaseException:
            outcome.add_done_callback(_discard)  # after an interrupt nobody waits for what is still coming
            raise

    def _in_bubblewrap(self, spec: LaunchSpec, policy: Policy) -> Child:
        """Bring up a worker inside ``bwrap``, which ends with the thread; the thread need not wait until it is up."""
        from blackhole_core.executor.launch.bwrap.running import Bubble, begin

        own = environment(os.environ.get) | dict(spec.environment)
        bubble: Bubble = self._wait_for(lambda: begin(spec, policy, self._program, own, self._the_guard()))
        return bubble.child(spec)

    def _from_spare(self, spec: LaunchSpec) -> Child | None:
        """Bring up a worker that was forked ahead; None where there is none for this, or it died."""
        try:
            origin = _origin(spec)
            with ready_role(_assignment(spec, origin)) as role:
                newborn = self._nursery.take(origin, _namespaces(spec))
                return None if newborn is None else self._assign(newborn, spec, role, another=True)
        except (NoZygote, SpawnFailed):
            return None  # the thread finds out whether it is this one's fault

    def _assign(self, newborn: Newborn, spec: LaunchSpec, role: Role, *, another: bool) -> Child:
        """Make a newborn what ``spec`` says; ``another``: have the thread fork the next one meanwhile."""
        try:
            if another:
                with contextlib.suppress(RuntimeError):  # closed meanwhile
                    self._submit(_nothing)  # after each job the thread has another worker forked
            with Plumbing() as pipes:
                newborn.assign(role, (pipes.worker_output, pipes.worker_output, pipes.worker_receive, pipes.worker_send, *spec.descriptors))
                return self._child(newborn.pid, newborn.pidfd, pipes, Start("zygote"), newborn.guard, newborn.group)
        except BaseException:
            newborn.discard()
            raise

    def _child(self, pid: int, pidfd: int, pipes: Plumbing, start: Start, guard: Guard, group: Group | None) -> Child:
        pipes.hand_over()
        return Child(
            *(pid, pidfd, pipes.receive, pipes.send, pipes.output),
            start=start,
            on_reap=lambda: guard.forget(pid),
            on_host_death=guard.clear,
            group=group,
        )

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"process {os.getpid()} was forked from {self._pid}, whose workers these are, and cannot bring up more of them: "
                "make a plugin manager of its own after the fork"
            )

    def _submit(self, action: Callable[[], object]) -> Future[Any]:
        job = _Job(action)
        with self._lock:
            if self._closed:
                raise RuntimeError("the launcher is closed")
            if self._thread is None:
                self._thread = self._start_thread()
            self._put(job)
        return job.outcome

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
        try:
            while (job := self._next()) is not None:
                job.do()
                del job  # or what it brought up lives until the next one comes
                self._ahead(self._nursery.prepare)
        finally:
            self._end()

    def _next(self) -> _Job | None:
        self._ahead(lambda: self._nursery.wait(self._wake))
        os.eventfd_read(self._wake)  # waits, should that have failed
        return self._jobs.popleft()

    def _ahead(self, step: Callable[[], object]) -> None:
        """Do what only makes workers come sooner: when that fails, begin anew with the next one."""
        for act in (step, self._nursery.close):
            try:
                act()
            except Exception:
                _logger.exception("what lets workers start sooner has failed and is replaced; those that run are not affected")
            else:
                return

    def _warm(self, import_path: Sequence[str]) -> None:
        with contextlib.suppress(NoZygote):  # the next start tells why
            self._nursery.warm(_origin(), import_path)

    def _end(self) -> None:
        """Close what is there. A job is left only when the thread ends by an error."""
        with self._lock:
            self._closed = True
            left = [job for job in self._jobs if job is not None]
        for job in left:
            job.outcome.set_exception(RuntimeError("the launcher is closed: its thread has ended by an error"))
        with contextlib.ExitStack() as ending:
            ending.callback(os.close, self._wake)
            if self._guard is not None:
                ending.callback(self._guard.close)
            ending.callback(self._nursery.close)

    def _bring_up(self, spec: LaunchSpec) -> Child:
        """Fork a worker where that is possible, else execute it."""
        reason = ""
        if self._zygote:
            try:
                return self._fork(spec)
            except (NoZygote, SpawnFailed) as error:
                reason = str(error)
        own = environment(os.environ.get) | dict(spec.environment)
        with Plumbing() as pipes:
            guard = self._the_guard()
            return self._child(*execute(spec, self._program, own, pipes, guard), pipes, Start("exec", reason), guard, None)

    def _fork(self, spec: LaunchSpec) -> Child:
        origin = _origin(spec)
        with ready_role(_assignment(spec, origin)) as role:
            return self._assign(self._nursery.fork(origin, spec.import_path, _namespaces(spec)), spec, role, another=False)

    def _the_guard(self) -> Guard:
        if self._guard is None:
            self._guard = Guard()
        return self._guard


def _nothing() -> None:
    """Be a job after which the thread does what it does after each."""


def _origin(spec: LaunchSpec | None = None) -> Origin:
    """Return what a worker takes over now.

    :raises NoZygote: that cannot be read, or comes too late for ``spec``.
    """
    try:
        origin = Origin(read_standing(), environment(os.environ.get))
    except OSError as error:
        raise NoZygote(f"what a worker takes over from its host cannot be read: {error}") from None
    early = origin.too_late(spec.environment) if spec is not None else None
    if early is not None:
        raise NoZygote(f"{early} is read when a program starts")
    return origin


def _namespaces(spec: LaunchSpec) -> tuple[str, ...]:
    """Return the namespaces that the worker is going to make for its walls."""
    return () if spec.policy is None else tuple(layer for layer in spec.policy.layers if layer in NAMESPACES)


def _discard(outcome: Future[Any]) -> None:
    if outcome.exception() is None:
        outcome.result().discard()


def _assignment(spec: LaunchSpec, origin: Origin) -> spawn.Assignment:
    numbers = tuple(range(_FIRST, _FIRST + 2 + len(spec.descriptors)))
    return spawn.Assignment(
        numbers=(1, 2, *numbers),
        receive=numbers[0],
        send=numbers[1],
        further=numbers[2:],
        import_path=tuple(map(os.fsencode, spec.import_path)),
        environment=tuple((os.fsencode(name), os.fsencode(value)) for name, value in {**origin.environment, **spec.environment}.items()),
        umask=origin.standing.umask,
        limits=tuple((number, *spec.lowered(number, soft, hard)) for number, soft, hard in origin.standing.limits),
    )


def environment(get: Callable[[str], str | None]) -> dict[str, str]:
    """Return the environment of a worker: what is in :data:`PASSED_ON` and set, and UTF-8 where nothing says otherwise."""
    passed = {name: value for name in PASSED_ON if (value := get(name)) is not None}
    return {"LC_CTYPE": "C.UTF-8", **passed} if not {"LANG", "LC_ALL", "LC_CTYPE"} & passed.keys() else passed
