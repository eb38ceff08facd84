"""Where workers of one host are forked: the zygote, and one worker ahead of its time.

Invariants:

* The launcher's thread alone uses the zygote. It makes one when it is needed, replaces it when it died or the host is not what it was, and does not
  try again at once in vain.
* The spare worker is taken under ``_lock`` by whoever comes first, and only by one that would fork the same: with the standing and the
  base environment that the zygote was started with. It is in a session of its own, and its guard knows it.
"""

from __future__ import annotations

import contextlib
import logging
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.launch.newborn import Newborn, SpawnFailed
from blackhole_core.executor.launch.standing import Origin
from blackhole_core.executor.launch.zygote import Zygote, ZygoteLost, start_zygote

if TYPE_CHECKING:
    from blackhole_core.executor.limits.group import Group

__all__ = ["NoZygote", "Nursery"]

_logger: Final = logging.getLogger("blackhole.launch")

#: Zygotes in a row that did not come up, after which none can be had: one may have been killed.
_FAILURES: Final = 2
#: Seconds in which no zygote is tried then: a try costs as much as a worker, and its cause lasts.
_HOLD_OFF: Final = 30.0
#: Workers forked for one request before it is given up: one may have died of old age, or with its zygote.
_TRIES: Final = 3
#: Milliseconds in which no worker is asked for, after which there is time to make the spare one ready. While the kernel moves a process to another control
#: group no thread can be started anywhere, for 10 ms: the worker that was just started must be up by then. And a crowd would wait for each other.
_IDLE: Final = 50


class NoZygote(Exception):
    """A worker cannot come from a zygote; says why."""


class Nursery:
    """Forks workers from one zygote after the other. The launcher's thread calls everything but :meth:`take`; :meth:`close` last, or to begin anew."""

    def __init__(self, guard: Callable[[], Guard], group: Callable[[int], Group | None] = lambda pid: None) -> None:
        """``guard`` returns the launcher's, made with the first process; ``group`` puts a process that waits into control groups of its own."""
        self._guard = guard
        self._group = group
        self._zygote: Zygote | None = None
        self._origin: Origin | None = None
        self._failures = 0
        self._given_up: tuple[float, str] | None = None  # until when (``time.monotonic()``), and why
        self._lock = threading.Lock()
        self._spare: tuple[Newborn, Origin] | None = None
        self._held = False  # while it is made ready
        self._namespaces: tuple[str, ...] = ()  # of the worker that was wanted last: the next one will be like it

    def take(self, origin: Origin, namespaces: tuple[str, ...]) -> Newborn | None:
        """Return the spare worker if there is one of this origin that may make these namespaces. Any thread."""
        with self._lock:
            self._namespaces = namespaces
            if self._spare is None or self._held or not self._spare[1].same_zygote(origin):
                return None
            if self._spare[0].namespaces not in ((), namespaces):
                return None
            newborn, self._spare = self._spare[0], None
            return newborn

    def fork(self, origin: Origin, import_path: Sequence[str], namespaces: tuple[str, ...]) -> Newborn:
        """Fork a worker, or return the spare one that may make these namespaces.

        :raises NoZygote: none can be had.
        :raises OSError: the system refused.
        """
        why = ""
        for _ in range(_TRIES):
            spare = self.take(origin, namespaces)
            if spare is not None:
                return spare
            try:
                zygote, guard = self._ready(origin, import_path), self._guard()  # both, or nothing is begun
                if zygote.begun is None:
                    zygote.begin_fork()
                return _born(zygote, guard)
            except SpawnFailed as error:
                why = str(error)
            except ZygoteLost as error:
                why = str(error)
                self._bury(why)
        raise NoZygote(why)

    def prepare(self) -> None:
        """Have a worker forked ahead, which takes no time; :meth:`wait` takes it. Where that fails, the next :meth:`fork` finds out why."""
        self._drop_unsuited()
        with self._lock:
            wanted = self._spare is None
        if not wanted or self._zygote is None or self._zygote.begun is not None:
            return
        try:
            self._guard()  # who takes what was begun must have one
            self._zygote.begin_fork()
        except ZygoteLost as error:
            self._bury(str(error))
        except OSError:
            return  # descriptors or processes are used up: none should be taken for something ahead of its time

    def warm(self, origin: Origin, import_path: Sequence[str]) -> None:
        """Have a zygote ready; where none can be had, that is logged and told by the next :meth:`fork`."""
        with contextlib.suppress(NoZygote, ZygoteLost, OSError):
            self._ready(origin, import_path)

    def wait(self, wake: int) -> None:
        """Wait until ``wake`` is readable; meanwhile take a worker that was forked ahead, and clear away what died."""
        while True:
            poller = select.poll()
            poller.register(wake, select.POLLIN)
            zygote, spare = self._zygote, self._spare
            if zygote is not None:
                poller.register(zygote.pidfd, select.POLLIN)
                if zygote.begun is not None:
                    poller.register(zygote.begun, select.POLLIN)
            if spare is not None:
                poller.register(spare[0].pidfd, select.POLLIN)
            ready = dict(poller.poll(None if spare is None or spare[0].ready else _IDLE))
            if not ready:
                assert spare is not None
                self._make_ready(spare)
            elif zygote is not None and zygote.pidfd in ready:
                self._bury("it died")
            elif zygote is not None and zygote.begun is not None and zygote.begun.fileno() in ready:
                self._keep(zygote)
            elif spare is not None and spare[0].pidfd in ready:
                self._drop(spare)
            if wake in ready:
                return

    def close(self) -> None:
        """End what is there."""
        with self._lock:
            spare, self._spare = self._spare, None
        try:
            if spare is not None:
                spare[0].discard()
        finally:
            self._retire()

    def _drop_unsuited(self) -> None:
        """End a spare worker with other namespaces than the last one had: it would have to wait for the next that has them."""
        with self._lock:
            spare = self._spare
            if spare is None or spare[0].namespaces in ((), self._namespaces):
                return
        self._drop(spare)

    def _drop(self, spare: tuple[Newborn, Origin]) -> None:
        with self._lock:
            if self._spare is not spare:
                return  # somebody has just taken it
            self._spare = None
        spare[0].discard()

    # --- the zygote --------------------------------------------------------------------------------------------------

    def _keep(self, zygote: Zygote) -> None:
        """Take the worker that was forked ahead."""
        assert self._origin is not None
        try:
            newborn = _born(zygote, self._guard())
        except ZygoteLost as error:
            self._bury(str(error))
        except (SpawnFailed, OSError) as error:
            _logger.debug("no worker is kept ready: %s", error)
        else:
            with self._lock:
                self._spare = (newborn, self._origin)

    def _make_ready(self, spare: tuple[Newborn, Origin]) -> None:
        """Have a spare worker do what its start would wait for otherwise. Meanwhile nobody takes it: who wants one waits for this thread."""
        with self._lock:
            if self._spare is not spare:
                return  # somebody has just taken it
            self._held = True
        try:
            newborn = spare[0]
            group = self._group(newborn.pid)
            newborn.prepare(self._namespaces, group)
            for place in group.places if group is not None else ():
                newborn.guard.clear(str(place))
        except SpawnFailed as error:
            _logger.debug("no worker is kept ready: %s", error)
            self._drop(spare)
        finally:
            with self._lock:
                self._held = False

    def _ready(self, origin: Origin, import_path: Sequence[str]) -> Zygote:
        if self._origin is not None and not self._origin.same_zygote(origin):
            self.close()  # the host is not what it was: it may have given something away
        if self._zygote is None:
            self._zygote = self._start(origin, import_path)
            self._origin = origin
        return self._zygote

    def _start(self, origin: Origin, import_path: Sequence[str]) -> Zygote:
        now = time.monotonic()
        if self._given_up is not None and now < self._given_up[0]:
            raise NoZygote(self._given_up[1])
        try:
            zygote = start_zygote(import_path, origin.environment)
        except ZygoteLost as error:
            self._failures += 1
            if self._failures < _FAILURES:
                raise
            self._given_up = (now + _HOLD_OFF, f"no zygote can be had: {error}")
            _logger.warning("%s; workers are executed, which takes longer", self._given_up[1])
            raise NoZygote(self._given_up[1]) from None
        self._failures, self._given_up = 0, None
        return zygote

    def _retire(self) -> None:
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.close()

    def _bury(self, reason: str) -> None:
        """Clear away a zygote that is of no use any more; the next request makes another one."""
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            _logger.warning("the zygote that forks workers was lost (%s): %s; workers are not affected", reason, zygote.bury())


def _born(zygote: Zygote, guard: Guard) -> Newborn:
    """Take the worker whose fork was begun, known to ``guard`` and in a session of its own."""
    newborn = zygote.finish_fork(guard)
    try:
        newborn.let_go()
    except BaseException:
        newborn.discard()
        raise
    return newborn
