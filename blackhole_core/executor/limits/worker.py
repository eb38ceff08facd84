"""The limits of one worker, what it uses, and which limit it died of.

What the kernel does not hold is held here, on one thread that all such workers share: memory by RLIMIT_DATA and by looking at what is resident, the
processor by stopping (:mod:`~blackhole_core.executor.limits.duty`), the plugin's own directory by looking how large it is.

Invariants, all under ``_lock``:

* ``_watching`` is true from :meth:`WorkerLimits.watch` until just before the worker is reaped. Only in between is a signal sent to a process of it: no
  number can have been given to a stranger.
* ``_verdict`` is set once, before the worker is ended for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.limits import processes
from blackhole_core.executor.limits.amounts import MB, megabytes, memory_bytes
from blackhole_core.executor.limits.disk import Uncountable, disk_used, walk
from blackhole_core.executor.limits.duty import Duty
from blackhole_core.executor.limits.group import Group
from blackhole_core.executor.limits.pressure import SHORT, Pressure
from blackhole_core.executor.limits.tree import Abilities
from blackhole_core.executor.limits.usage import CpuMeter, Usage
from blackhole_core.executor.limits.verdict import Verdict, judge
from blackhole_core.executor.timers import Timers

__all__ = ["WorkerLimits"]

_logger: Final = logging.getLogger("blackhole.limits")

#: Seconds between two looks at the memory: what is allocated in between is bounded by RLIMIT_DATA.
_MEMORY_LOOKS: Final = 0.05
#: Seconds between two walks through a directory, and how many times as long as the last walk took: a host spends a twentieth on it at most.
_DISK_LOOKS: Final = 1.0
_DISK_SHARE: Final = 20
#: Seconds of one part of a walk, in which nobody else is looked at.
_DISK_PART: Final = 0.002
#: Files that are counted when somebody asks for the usage of a plugin whose directory nobody watches: some 20 ms.
_ASKED_FILES: Final = 10_000


class WorkerLimits:
    """Owned by the worker's runner, which calls :meth:`release` after its end. Everything else from any thread."""

    def __init__(self, pid: int, group: Group, confinement: Confinement, abilities: Abilities, timers: Timers) -> None:
        self._pid = pid
        self.main = pid  #: the process that runs the plugin's calls; that of ``pid`` may be its keeper
        self._group = group
        self._confinement = confinement
        self._abilities = abilities
        self._timers = timers
        self._lock = threading.Lock()
        self._watching = False
        self._verdict: Verdict | None = None
        self._duty: Duty | None = None
        self._stopped_at: float | None = None
        self._stopped = 0.0
        self._disk: int | None = None
        self._pressure: Pressure | None = None
        self._meter = CpuMeter(time.monotonic(), self._cpu())

    def watch(self) -> None:
        """Begin to hold what the kernel does not."""
        limits, abilities = self._confinement.resources, self._abilities
        looks: list[Callable[[], None]] = []
        if limits.memory is not None and not abilities.holds("memory"):
            looks.append(self._look_at_memory)
        if limits.disk is not None and self._confinement.data is not None:
            looks.append(lambda: self._look_at_disk(None, 0.0))
        if limits.cpu is not None and not abilities.holds("cpu"):
            self._duty = Duty(limits.cpu / 100, self._cpu() or 0.0, time.monotonic())
            looks.append(self._look_at_cpu)
        elif abilities.holds("cpu") and (limits.cpu is not None or limits.pids is not None):
            self._pressure = Pressure(self._group.throttled or 0, self._group.refused or 0, self._cpu() or 0.0)
            looks.append(self._look_at_pressure)
        with self._lock:
            self._watching = True
        for look in looks:
            self._timers.after(0.0, look)

    def before_reap(self) -> None:
        """Send no signal to its processes any more: their numbers are about to become free."""
        with self._lock:
            self._watching = False

    # --- what others ask ---------------------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Whether it is stopped right now, because it used more than its share of the processor: who waits for a sign of life waits on."""
        return self._stopped_at is not None

    @property
    def held_seconds(self) -> float:
        """How long it was stopped so far, in all."""
        with self._lock:
            return self._stopped + (0.0 if self._stopped_at is None else time.monotonic() - self._stopped_at)

    @property
    def yields(self) -> bool:
        """Whether it runs only when nobody else wants to, because it wants more than its limit of the processor."""
        with self._lock:
            return self._pressure is not None and self._pressure.yields

    @property
    def short(self) -> bool:
        """Whether it gets next to nothing of the processor, because it starts processes again and again although it has as many as it may."""
        with self._lock:
            return self._pressure is not None and self._pressure.short

    @property
    def throttled(self) -> int | None:
        """Periods in which the kernel held it back, None where the kernel does not count them."""
        return self._group.throttled

    def usage(self) -> Usage:
        """Measure it."""
        with self._lock:
            alive, disk = self._watching, self._disk
        if not alive:
            return Usage()
        pids = self._pids()
        cpu = self._cpu()
        memory, tasks = self._group.memory, self._group.tasks
        if disk is None and self._confinement.data is not None and self._confinement.resources.disk is None:
            disk = disk_used(self._confinement.data, _ASKED_FILES)
        return Usage(
            memory=memory if memory is not None else processes.resident(pids),
            cpu=cpu,
            cpu_percent=self._meter.percent(time.monotonic(), cpu),
            threads=processes.threads(self.main),
            pids=tasks if tasks is not None else processes.tasks(pids),
            disk=disk,
        )

    def verdict(self, exit: int | None, by_host: bool) -> Verdict | None:
        """Return the limit that it died of, with exit status ``exit``; None when it was none. It has ended and was not released.

        ``by_host`` says that the host ended it for another reason.
        """
        with self._lock:
            if self._verdict is not None or by_host:
                return self._verdict
        own = resource.getrlimit(resource.RLIMIT_CPU)[0]  # of the host, and so of its workers
        return judge(
            exit,
            self._confinement.resources,
            oom_kills=self._group.oom_kills,
            peak=self._group.peak,
            cpu_seconds=self._group.cpu,
            cpu_limit=None if own == resource.RLIM_INFINITY else own,
        )

    def release(self) -> None:
        """End what it left running and remove its groups. Idempotent."""
        self.before_reap()
        if not self._group.kill():
            _logger.warning("a process that the worker with pid %d started cannot be ended", self._pid)
        for directory in self._group.remove():
            _logger.warning("%s is still in use, although its worker has ended; the next host removes it", directory)

    # --- looking, on the thread of the timers -------------------------------------------------------------------------

    def _look_at_memory(self) -> None:
        limit = self._confinement.resources.memory
        assert limit is not None
        with self._lock:
            if not self._watching:
                return
            used = processes.resident(self._pids())
            if used is not None and used > memory_bytes(limit):
                self._exceeded(Verdict("memory", limit, max(limit, megabytes(used)), "MB"))
                return
        self._timers.after(_MEMORY_LOOKS, self._look_at_memory)

    def _look_at_cpu(self) -> None:
        with self._lock:
            if not self._watching or self._duty is None:
                return
            now = time.monotonic()
            used = self._cpu()
            self._duty = self._duty.looked(self._duty.used if used is None else used, now)
            rest = self._duty.rest
            if rest:
                self._stop(now)
            else:
                self._let_go(now)
            pause = rest or self._duty.turn
        self._timers.after(pause, self._look_at_cpu)

    def _look_at_pressure(self) -> None:
        with self._lock:
            if not self._watching or self._pressure is None:
                return
            before, throttled, used = self._pressure, self._group.throttled, self._cpu()
            if throttled is None or used is None:
                return  # the kernel does not count that
            now = self._pressure = before.looked(throttled, self._group.refused or 0, used)
            if now.yields != before.yields:
                with contextlib.suppress(OSError):  # the kernel has no such rank: the limit itself holds all the same
                    self._group.rank(last=now.yields)
            if now.short != before.short:
                self._keep_short(now.short)
        self._timers.after(now.pause, self._look_at_pressure)

    def _keep_short(self, short: bool) -> None:
        limits = self._confinement.resources
        try:
            self._group.share(min(SHORT, limits.cpu or SHORT) if short else limits.cpu)
        except OSError as error:
            _logger.warning("the share of the processor of the worker with pid %d cannot be changed: %s", self._pid, error)
            return
        if short:
            _logger.warning(
                "the worker with pid %d starts processes again and again although it has the %s that its limit allows; it gets %g %% of one core until it stops that",
                self._pid,
                limits.pids,
                SHORT,
            )

    def _stop(self, now: float) -> None:
        if self._stopped_at is None:
            self._stopped_at = now
        self._signal(signal.SIGSTOP)  # again in each rest: it may have been continued by somebody else

    def _let_go(self, now: float) -> None:
        if self._stopped_at is not None:
            self._stopped += now - self._stopped_at
            self._stopped_at = None
            self._signal(signal.SIGCONT)

    def _look_at_disk(self, walking: Iterator[int] | None, began: float) -> None:
        """Go on with a walk through the plugin's directory, or begin one; part by part, so that others are looked at in between."""
        limit, data = self._confinement.resources.disk, self._confinement.data
        assert limit is not None
        assert data is not None
        with self._lock:
            if not self._watching:
                return
            if walking is None:
                walking, began = walk(data, limit * MB + 1, self._pids()), time.monotonic()
        done, found = _advance(walking, time.monotonic() + _DISK_PART)
        if isinstance(found, Uncountable) or (found is not None and found > limit * MB):
            got = limit if isinstance(found, Uncountable) else max(limit, megabytes(found))
            with self._lock:
                self._exceeded(Verdict("disk", limit, got, "MB", str(found) if isinstance(found, Uncountable) else ""))
            return
        if not done:
            self._timers.after(0.0, lambda: self._look_at_disk(walking, began))
            return
        with self._lock:
            self._disk = found
        pause = max(_DISK_LOOKS, (time.monotonic() - began) * _DISK_SHARE)
        self._timers.after(pause, lambda: self._look_at_disk(None, 0.0))

    # --- under the lock, but for readings ------------------------------------------------------------------------------

    def _exceeded(self, verdict: Verdict) -> None:
        if self._watching and self._verdict is None:
            self._verdict = verdict
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _cpu(self) -> float | None:
        used = self._group.cpu
        return used if used is not None else processes.cpu_seconds(self._pids())

    def _pids(self) -> list[int]:
        """Return its processes: the members of its group, or where there is none what descends from it."""
        members = self._group.members()
        return processes.family(self._pid) if members is None else members


def _advance(walking: Iterator[int], until: float) -> tuple[bool, int | Uncountable | None]:
    """Go on with a walk until the time or its end; return whether it has ended, and what it found so far."""
    found: int | None = None
    try:
        for found in walking:
            if time.monotonic() > until:
                return False, found
    except Uncountable as error:
        return True, error
    return True, found
