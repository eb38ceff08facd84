"""A worker that stands beside the one that serves, so that a restart need not wait for one to come up.

It is like any worker, and has been told everything but what to load: its walls stand, it has said hello, no plugin code is in it. What the worker forked
ahead (:mod:`~blackhole_core.executor.launch.nursery`) is to all plugins of a host, this is to one: it costs as much memory as a second worker, and is
kept only where the manifest asks for that or the operator does, whose word counts.

Invariants (everything below is guarded by the runner's lock, and ``_changed`` tells of it):

* A worker is the thread's from when it was made until ``take`` gives it to the runner, within the same hold of the lock. Nobody else ends it; ``close``
  and its death only make the thread do so.
* There is at most one that stands or comes up. One is begun only after ``keep``, and after ``take`` not before the next ``keep``: two guests that come up at
  once would each take twice as long.
* It is given only to a start that would make the same: the same confinement, the same :class:`~blackhole_core.executor.launch.standing.Origin`, the same
  files of the plugin. Else it is ended, and the start makes its own.
* Its death is no death of the plugin's. Another one follows, each time later.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from blackhole_core.errors import describe_exit
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.guest.collect import plugin_mark
from blackhole_core.executor.launch.process import environment
from blackhole_core.executor.launch.standing import Origin, read_standing
from blackhole_core.executor.limits.usage import Usage
from blackhole_core.executor.runner import RunnerSpec
from blackhole_core.executor.workerfactory import RemoteWorker

__all__ = ["Spare", "SpareFacts"]

_logger: Final = logging.getLogger("blackhole.workers")

#: Seconds after a start before the spare worker is begun: the first calls, and the state that a swap hands over, are not to share the processor with it.
_SETTLE: Final = 0.5
#: Seconds before another one is begun after one was lost or did not come up, the first time; doubled each time, up to the most.
_DELAY: Final = 1.0
_MOST_DELAY: Final = 60.0
#: Seconds that a start waits for one that is coming up: longer than that takes on a busy machine. One that hangs has its own deadline, which is longer.
_PATIENCE: Final = 10.0
#: Seconds that one has stood, after which the next loss counts as the first.
_PROVEN: Final = 60.0


@attrs.frozen
class SpareFacts:
    """A spare worker as it stands: ``phase`` is ``ready``, ``starting`` or ``absent``, with the reason, empty where it is only too early for one."""

    phase: str
    pid: int | None = None
    usage: Usage = Usage()
    reason: str = ""


@attrs.frozen
class _Likeness:
    """What must be so still when a spare worker is taken."""

    confinement: Confinement
    given: Mapping[str, str]  #: variables of the host's that it was granted
    origin: Origin
    files: bytes

    @classmethod
    def now(cls, spec: RunnerSpec) -> _Likeness:
        """Look.

        :raises OSError: the standing of this process, or the plugin's files, cannot be read.
        """
        given = spec.confinement.environment(os.environ)
        origin = Origin(read_standing(), environment(os.environ.get))
        return cls(spec.confinement, given, origin, plugin_mark(spec.path, spec.packages))


class Spare:
    """Owned by one runner, whose ``lock`` guards it. ``make`` launches a worker for a specification, not opened yet."""

    def __init__(
        self, plugin: str, lock: threading.Lock, spec: Callable[[], RunnerSpec], make: Callable[[RunnerSpec], RemoteWorker]
    ) -> None:
        self._plugin: Final = plugin
        self._spec: Final = spec
        self._make: Final = make
        self._lock: Final = lock
        self._changed: Final = threading.Condition(lock)
        self._thread: threading.Thread | None = None
        self._due: float | None = None  # when one is to be begun (``time.monotonic()``), None: not before the next ``keep``
        self._making = False
        self._worker: RemoteWorker | None = None
        self._likeness: _Likeness | None = None
        self._ready_since: float | None = None
        self._outdated = False  # the one that is coming up was made for what does not hold any more
        self._unsuited: list[RemoteWorker] = []  # to be ended by the thread
        self._losses = 0  # in a row
        self._reason = ""  # of the last
        self._closed = False

    # --- the runner --------------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Have one from now on; a worker has just come up. Does not wait."""
        with self._changed:
            if self._closed or self._worker is not None:
                return
            self._due = time.monotonic() + max(_SETTLE, self._delay())
            if self._thread is None:
                self._thread = self._start_thread()
            self._changed.notify_all()

    def take(self, give: Callable[[RemoteWorker], bool]) -> bool:
        """Hand over the one that stands, under the lock, to ``give``, which may decline it; False where there is none that is suited.

        Waits for one that is coming up: that takes less time than a new one. No other is begun before the next :meth:`keep`.
        """
        with self._changed:
            self._due = None
            self._changed.wait_for(lambda: not self._making, _PATIENCE)
            self._due = None  # the one that was made may have failed
            if self._ready_since is None:
                return False
        try:
            likeness = _Likeness.now(self._spec())
        except OSError as error:  # then it cannot be told; the start finds out what that means for it
            _logger.warning("the spare worker of plugin %s is not used: %s", self._plugin, error)
            likeness = None
        with self._changed:
            worker = self._worker
            if worker is None or self._ready_since is None:
                return False  # it died meanwhile
            suited = likeness == self._likeness
            if suited and not give(worker):
                return False
            self._worker = self._ready_since = None
            self._losses, self._reason = 0, ""
            if not suited:
                self._unsuited.append(worker)
                self._changed.notify_all()
            return suited

    def renew(self) -> None:
        """Replace one that was made for what does not hold any more. Does not wait."""
        with self._changed:
            self._outdated = self._making
            if self._ready_since is not None:
                self._replace()

    def ended(self, worker: RemoteWorker, ended: Ended) -> None:
        """Take in that a worker that is not the runner's has ended. On its I/O thread."""
        with self._changed:
            if worker is not self._worker or self._ready_since is None or self._closed:
                return  # it was ended, or whoever waits for its hello is told
            if time.monotonic() - self._ready_since > _PROVEN:
                self._losses = 0
            self._worker = self._ready_since = None
            self._lost(ended.reason or f"it {describe_exit(ended.exit)}")

    def close(self) -> None:
        """Have it ended, and no other begun; does not wait. Idempotent."""
        with self._changed:
            self._closed = True
            worker = self._worker
            self._changed.notify_all()
        if worker is not None:
            worker.connection.kill("its plugin is stopped")

    def join(self) -> None:
        """Wait until it has ended; :meth:`close` was called. What it may be doing has deadlines of its own."""
        if self._thread is not None:
            self._thread.join()

    @property
    def facts(self) -> SpareFacts:
        """How it stands now."""
        with self._lock:
            worker, ready, reason = self._worker, self._ready_since is not None, self._reason
        if worker is None:
            return SpareFacts("absent", reason=reason)
        return SpareFacts("ready" if ready else "starting", worker.connection.child.pid, worker.limits.usage())

    # --- the thread --------------------------------------------------------------------------------------------------

    def _start_thread(self) -> threading.Thread | None:
        thread = threading.Thread(target=self._work, name=f"blackhole-spare-{self._plugin}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._due = None
            self._reason = str(error)
            return None
        return thread

    def _work(self) -> None:
        while self._wait():
            try:
                self._bring_up(self._spec())
            except Exception as error:
                with self._changed:
                    if not self._closed:
                        self._lost(str(error))
            finally:
                with self._changed:
                    self._making = False
                    self._changed.notify_all()

    def _wait(self) -> bool:
        """Wait until one is to be begun, and end those that are of no use meanwhile; False when there will be none any more, and all have ended."""
        while True:
            with self._changed:
                if not (self._closed or self._unsuited or self._is_due()):
                    self._changed.wait(self._left())
                unsuited, self._unsuited = self._unsuited, []
                if self._closed and self._worker is not None:
                    unsuited.append(self._worker)
                if not unsuited and not self._closed and self._is_due():
                    self._due, self._making, self._outdated = None, True, False
                    return True
                if not unsuited and self._closed:
                    return False
                if self._closed:
                    self._worker = self._ready_since = None
            for worker in unsuited:
                _end(worker, "it is of no use any more")

    def _bring_up(self, spec: RunnerSpec) -> None:
        likeness = _Likeness.now(spec)
        worker = self._make(spec)
        with self._changed:
            self._worker, self._likeness = worker, likeness
        try:
            worker.connection.open()
            if self._closed:
                raise RuntimeError("its plugin is stopped")  # ``close`` did not see this worker yet
            worker.startup.greet(worker.connection.send, worker.connection.tail)
            with self._changed:
                if not worker.alive:
                    raise RuntimeError("it ended as soon as it was up")
                self._ready_since = time.monotonic()
                if self._outdated:
                    self._replace()
        except BaseException:
            with self._changed:
                self._worker = None
            _end(worker, None)
            raise

    # --- under the lock ----------------------------------------------------------------------------------------------

    def _replace(self) -> None:
        assert self._worker is not None, "one stands"
        self._unsuited.append(self._worker)
        self._worker = self._ready_since = None
        self._due = time.monotonic() + _SETTLE
        self._changed.notify_all()

    def _lost(self, reason: str) -> None:
        self._losses += 1
        self._reason = reason.partition("\n")[0]
        delay = self._delay()
        self._due = time.monotonic() + delay
        self._changed.notify_all()
        _logger.warning("plugin %s has no spare worker: %s; the next is begun in %g s, no call is affected", self._plugin, reason, delay)

    def _delay(self) -> float:
        return min(_MOST_DELAY, _DELAY * 2.0 ** (self._losses - 1)) if self._losses else 0.0

    def _is_due(self) -> bool:
        return self._due is not None and time.monotonic() >= self._due

    def _left(self) -> float | None:
        return None if self._due is None else max(0.0, self._due - time.monotonic())


def _end(worker: RemoteWorker, reason: str | None) -> None:
    worker.connection.kill(reason)
    worker.connection.join(None)
