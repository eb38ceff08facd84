"""Whether looking for an answer before sleeping makes calls shorter, on this machine and just now. Pure.

It cannot be told from what looks find. Two processes that find each other awake on two processors take a third of the time of two that wake each other on one; but one that looks
keeps its processor busy, so the other one has to be woken elsewhere, and then a call takes twice as long, found or not. So both ways are tried, and what counts is the time that calls take.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Choice"]

#: Calls of which a way's median is taken; the first few still have the other way's habits.
_SAMPLE: Final = 24
#: Calls until the first trial, and after one that changed the way.
_SOONEST: Final = 64
#: Calls between two trials at most: each that changes nothing makes the next one twice as far away.
_LATEST: Final = 4096
#: The part of the other way's time that the way which is tried must stay below to be taken.
_BETTER: Final = 0.85


class Choice:
    """``looks`` says how the next call is made; tell of each with :meth:`took`. It begins with sleeping, which never disturbs others."""

    __slots__ = ("_before", "_interval", "_left", "_taken", "_trying", "looks")

    def __init__(self) -> None:
        self.looks = False
        self._interval = _SOONEST
        self._left = _SOONEST  # calls until the next turn
        self._taken: list[float] = []  # seconds, of the last ones before it
        self._trying = False
        self._before = 0.0  # median of the way that is not being tried

    def took(self, seconds: float) -> None:
        """Note how long a call took that came soon after another one."""
        self._left -= 1
        if self._left < _SAMPLE:
            self._taken.append(seconds)
            if not self._left:
                self._turn()

    def _turn(self) -> None:
        taken, self._taken = self._taken, []
        median = sorted(taken)[len(taken) // 2]  # not of the module statistics, whose import takes a worker 4 ms
        if not self._trying:
            self._before, self._trying, self._left = median, True, _SAMPLE
            self.looks = not self.looks
            return
        self._trying = False
        if median < _BETTER * self._before:
            self._interval = _SOONEST
        else:
            self.looks = not self.looks
            self._interval = min(2 * self._interval, _LATEST)
        self._left = self._interval
