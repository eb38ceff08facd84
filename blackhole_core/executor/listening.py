"""The host's ear for what a worker prints: how much of it is read at once, and how long it is left alone then.

A worker can print far more than its host has time for, and every line costs the interpreter, which the callers of all other plugins want as well. So the host
reads little at once, lets others go first when it has read much, and throws away, counted, what exceeds the :class:`Budget` of the log. Only the output waits: the
worker's answers come another way.
"""

from __future__ import annotations

import os
import time
from typing import Final

from blackhole_core.executor.output import LineSplitter
from blackhole_core.executor.records import Records
from blackhole_core.executor.wire.budget import Budget

__all__ = ["Listener"]

#: Bytes read at once: some hundred lines, a quarter of a millisecond. Who waits for the interpreter waits that long.
_SIZE: Final = 16 * 1024
#: Bytes read at once to be thrown away: all that a pipe holds.
_MOST: Final = 1024 * 1024
#: Seconds for which one who has used up much of its budget is not heard, between two reads: others get the interpreter for sure, and 80,000 lines a second come through.
_BREATH: Final = 0.001
#: The same for one who has overdrawn it: 20 MB a second get through, at a hundredth of a core, which of a hundred calls of others hardly one meets.
_REST: Final = 0.05
#: Bytes of a line or record that cost as much as a line.
_UNIT: Final = 1024


class Listener:
    """Reads the output of one worker. Owned by its I/O thread."""

    def __init__(self, descriptor: int, records: Records, budget: Budget) -> None:
        self._descriptor: Final = descriptor
        self._records: Final = records
        self._budget: Final = budget
        self._lines: Final = LineSplitter()

    def read(self) -> int:
        """Read once, and return how many bytes came: 0 at the end."""
        if self._budget.overdrawn(time.monotonic()):
            data = os.read(self._descriptor, _MOST)  # to be thrown away: that is quick
            self._records.lose(*self._lines.skip(data))
            return len(data)
        data = os.read(self._descriptor, _SIZE)
        lines = self._lines.feed(data) if data else self._lines.end()
        self.spend(len(lines), len(data))
        for line in lines:
            self._records.printed(line)
        return len(data)

    @property
    def pause(self) -> float:
        """Seconds for which the output should be left alone now, mostly 0."""
        if self._budget.overdrawn(time.monotonic()):
            return _REST
        return _BREATH if self._budget.low else 0.0

    def spend(self, lines: int, size: int) -> None:
        """Count so many lines or records of so many bytes in all."""
        self._budget.spend(lines + size / _UNIT)

    def hears(self) -> bool:
        """Whether a record may be taken in."""
        return not self._budget.overdrawn(time.monotonic())

    def end(self) -> None:
        """Take in what was printed after the last newline."""
        for line in self._lines.end():
            self._records.printed(line)
