"""Is the old generation gone after a swap, and if not, who keeps it?

A :class:`Canary` takes weak references before the generation is released and looks at them afterwards. In the good case that costs one
garbage collection (a generation is one big reference cycle). In the bad case the holders are looked for and named, one sentence each.
This runs where the old version is ended, after the gate has opened: no call waits for it.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import Final

from blackhole_core.loader.belongings import Belongings
from blackhole_core.loader.census import Holder, registered, running_threads
from blackhole_core.loader.holders import find_holders, held_from_c
from blackhole_core.loader.universe import Universe

__all__ = ["Canary"]

#: Seconds in which a thread that was told to end, but not waited for, may end before it is called a leak.
_ENDING: Final = 0.1

#: Seconds in which the other threads go first. This thread has just replaced the code they call, and a collection stops them all (10 ms and more):
#: without the pause the first answer of the new code came that much later. It is also how long one looks whether they are busy.
_BREATH: Final = 0.005

#: Share of a processor that other threads of this process use at most, for a moment to be idle enough for a collection. Four callers with 20 µs of work
#: every millisecond are well above it, threads that only wait are far below.
_BUSY: Final = 0.02

#: Full collections that take longer than this many seconds of CPU are rationed: the heap of the host is large, and a collection stops every thread.
_CHEAP: Final = 0.05
#: Share of the time that rationed collections may take.
_SHARE: Final = 0.05


class _Rations:
    """When the next full collection may run; shared by all canaries of the process. Guarded by ``_lock``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._not_before = 0.0

    def collect(self, *, at_any_cost: bool) -> bool:
        """Collect all garbage, unless the last time took so long that it is not yet time for it again; say whether it was done."""
        with self._lock:
            if time.monotonic() < self._not_before and not at_any_cost:
                return False
            begun = time.thread_time()  # not the clock: on a busy machine that counts the others' work
            gc.collect()
            took = time.thread_time() - begun
            self._not_before = time.monotonic() + took / _SHARE if took > _CHEAP else 0.0
            return True


_rations: Final = _Rations()


class Canary:
    """One generation's weak references. Made before its release; ``owner`` is how sentences name it."""

    def __init__(self, universe: Universe, owner: str) -> None:
        self._belongings = Belongings(universe)
        self._owner = owner

    def leaks(self, *, at_any_cost: bool = False) -> tuple[str, ...] | None:
        """Return one sentence for each holder of the generation, which has been released; none when it is gone.

        None when that is not known, and ``at_any_cost`` was not asked for: other threads are busy, and a collection would make them wait, or the host's heap
        is so large that another one so soon would disturb it.
        """
        gone = self._is_gone(at_any_cost)
        if gone:
            return ()
        threads = list(running_threads(self._belongings))
        if gone is None and not threads:  # a thread that runs its code is known without a collection, and may be what is busy
            return None
        if threads and self._have_ended([thread for thread, _ in threads if thread is not None]) and self._is_gone(at_any_cost=True):
            return ()
        return tuple(f"{self._owner}: {holder.text}; {holder.advice}" for holder in self._holders())

    def _is_gone(self, at_any_cost: bool) -> bool | None:
        if not self._belongings.any_alive():
            return True
        if _others_are_busy() and not at_any_cost:
            return None
        return not self._belongings.any_alive() if _rations.collect(at_any_cost=at_any_cost) else None

    @staticmethod
    def _have_ended(threads: list[threading.Thread]) -> bool:
        until = time.monotonic() + _ENDING
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _holders(self) -> list[Holder]:
        running = list(running_threads(self._belongings))
        threads = [thread for thread, _ in running if thread is not None]
        holders = [holder for _, holder in running]
        holders += find_holders(self._belongings, list(registered()), threads)
        if not holders:
            holders = [_from_c(what) for what in held_from_c(self._belongings)]
        return holders or [_UNKNOWN]


def _others_are_busy() -> bool:
    """Let the other threads go first for a moment, and tell whether they computed in it."""
    begun = time.process_time() - time.thread_time()
    time.sleep(_BREATH)
    return time.process_time() - time.thread_time() - begun > _BREATH * _BUSY


def _from_c(what: str) -> Holder:
    return Holder(
        f"{what} is held from C, as sys.addaudithook does", "Python cannot take an audit hook back: run the plugin at level process"
    )


_UNKNOWN: Final = Holder(
    "something keeps it that the garbage collector cannot see, such as a variable of a running function or a C extension",
    "look for calls that still hold one of its objects",
)
