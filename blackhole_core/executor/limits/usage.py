"""What a worker uses, measured now; and its share of the processor from one look to the next."""

from __future__ import annotations

import threading
from typing import Final

import attrs

__all__ = ["CpuMeter", "Usage"]

#: Seconds that a look at the processor time must be old to be the begin of an interval: two who look at once must not measure microseconds.
_LEAST_INTERVAL: Final = 0.5


@attrs.frozen
class Usage:
    """What a plugin uses, measured now. None means: not known, never "nothing"."""

    memory: int | None = None  #: bytes of its worker: resident, without what the kernel would give up at once
    cpu: float | None = None  #: seconds of processor time of its worker so far
    cpu_percent: float | None = None  #: % of one core since somebody looked last, half a second ago at the least
    threads: int | None = None  #: threads of its worker
    pids: int | None = None  #: processes and threads, with all that the worker has started
    disk: int | None = None  #: bytes of its own directory
    network: int | None = None  #: bytes that it sent and received through the relay of the host, since the host started


class CpuMeter:
    """Turns processor time into a share. Any thread."""

    def __init__(self, now: float, used: float | None) -> None:
        self._lock = threading.Lock()
        self._older = self._newer = (now, used)

    def percent(self, now: float, used: float | None) -> float | None:
        """Return the share since the last look that is old enough, % of one core; None when one of both is not known, or there was none."""
        with self._lock:
            if now - self._newer[0] >= _LEAST_INTERVAL:
                self._older = self._newer
                self._newer = (now, used)
            at, before = self._older
        if used is None or before is None or now - at < _LEAST_INTERVAL:
            return None
        return 100 * max(0.0, used - before) / (now - at)
