"""What is counted for one generated body while calls run in it. Everything here may happen in many threads at once.

Invariants:

* Every step that counts a call is one indivisible step of a :class:`~blackhole_core.hooks.counting.Counter`, or is made under the lock
  (once in so many calls, where one is timed). So after the calls are over, every number is exact.
* A body's numbers are complete when its code object is dead: no frame can add to them any more. Then they are folded into the totals.

How often each implementation was reached is computed, not counted: in a hook that collects all results a call reaches every
implementation, unless one before it failed; with ``firstresult`` a call reaches the implementation it ended at and those before it.
"""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, Final

import attrs

from blackhole_core.hooks.counting import new_counter, steps
from blackhole_core.hooks.histogram import Histogram
from blackhole_core.hooks.turns import Laps, Turns

if TYPE_CHECKING:
    from blackhole_core.hooks.telemetry import Meter, PluginMeter

__all__ = ["Shape", "Tally"]

#: A call that ended before it reached any implementation (an interrupt).
_BEFORE: Final = -1


@attrs.frozen
class Shape:
    """Of the implementations behind a body, in call order, what counting needs to know."""

    plugins: tuple[str, ...]  #: the plugin of each
    wrappers: int  #: how many at the begin are wrappers
    firstresult: bool
    lines: Mapping[int, int]  #: line of the body to the implementation called there
    attributed: bool = True  #: False where pluggy runs the implementations, and what they do is not seen

    def reached(self, index: int, calls: int, ended: Sequence[int]) -> int:
        """Return how many of ``calls`` reached an implementation; ``ended[i]`` of them ended at ``i`` on the way in, the last item before all."""
        if self.firstresult and index > self.wrappers:
            return sum(ended[index:-1])
        return calls - ended[_BEFORE] - sum(ended[:index])


class Tally:
    """The counters of one body."""

    def __init__(self, meter: Meter, shape: Shape, turns: Turns, *, locked: bool) -> None:
        self._meter = meter
        self.shape = shape
        self.turns = turns
        self.ended = tuple(new_counter(locked=locked) for _ in range(len(shape.plugins) + 1))
        self.plugins: tuple[PluginMeter, ...] = tuple(meter.plugin(name) for name in shape.plugins)
        self._histograms: tuple[Histogram, ...] = tuple(plugin.histogram for plugin in self.plugins)
        self.record = self._record_repeated if shape.wrappers else self._record if shape.attributed else self._record_whole
        self._code: weakref.ref[CodeType] | None = None

    def counts_in(self, code: CodeType) -> None:
        """Name the code object whose end is the end of counting."""
        self._code = weakref.ref(code)

    @property
    def is_complete(self) -> bool:
        """Tell whether no call can add anything any more."""
        return self._code is not None and self._code() is None

    def reached(self) -> Iterator[tuple[PluginMeter, int]]:
        """Yield how often each implementation was reached."""
        # Read before the calls are: a call that is just beginning then counts, one that is just ending does not count twice.
        ended = [steps(counter) for counter in self.ended]
        calls = self.turns.calls()
        for index, plugin in enumerate(self.plugins):
            yield plugin, self.shape.reached(index, calls, ended)

    # --- what the body calls -----------------------------------------------------------------------------------------

    def globals(self, put: Callable[[str, int, object], None]) -> Mapping[str, Callable[[int], object]]:
        """Return what the names in the body stand for, by the number of the body's state; ``put`` changes one later."""
        names: dict[str, Callable[[int], object]] = {
            "_bh_quiet": lambda state: self.turns.quiet(functools.partial(put, "_bh_quiet", state)),
            "_bh_turn": lambda _state: self.turns.turn,
            "_bh_clock": lambda _state: time.perf_counter_ns,
            "_bh_record": lambda _state: self.record,
            "_bh_ended_at": lambda _state: self.ended_at,
            "_bh_went_wrong": lambda _state: self.went_wrong,
            "_bh_erred": lambda _state: self.erred,
            "_bh_unwound": lambda _state: self.unwound,
            "_bh_call_failed": lambda _state: self.call_failed,
            "_bh_aside": lambda _state: self._meter.aside,
            "_bh_aside_failed": lambda _state: self._meter.aside_failed,
        }
        for index, counter in enumerate(self.ended):
            names[f"_bh_ended{index}"] = lambda _state, counter=counter: counter  # type: ignore[misc]  # a default binds the loop's value
        return names

    def ended_at(self, index: int) -> None:
        """Count that the way in ended at an implementation."""
        next(self.ended[index])

    def _record(self, laps: Laps) -> None:
        """Put the laps of a call into the histograms; no implementation has more than one."""
        steps_taken = iter(laps)
        _before, first = next(steps_taken)
        earlier = first
        for index, instant in steps_taken:
            self._histograms[index].add(instant - earlier)
            earlier = instant
        self._meter.histogram.add(earlier - first)

    def _record_whole(self, laps: Laps) -> None:
        """The same where pluggy ran the implementations."""
        self._meter.histogram.add(laps[-1][1] - laps[0][1])

    def _record_repeated(self, laps: Laps) -> None:
        """The same with wrappers, whose time is that before the ``yield`` and that after it."""
        first = earlier = laps[0][1]
        own: dict[int, int] = {}
        for index, instant in laps[1:]:
            own[index] = own.get(index, 0) + instant - earlier
            earlier = instant
        for index, nanoseconds in own.items():
            self._histograms[index].add(nanoseconds)
        self._meter.histogram.add(earlier - first)

    def went_wrong(self, error: BaseException, laps: Laps | None) -> None:
        """Count a failure on the way in of a hook that has wrappers; they go on with it."""
        self._blame(error.__traceback__, laps)

    def call_failed(self, error: BaseException, laps: Laps | None) -> None:
        """Count a call that ends in an exception, and whose implementation's it is where the body did not say so before."""
        next(self._meter.errors)
        if self.shape.wrappers:
            index = self.shape.lines.get(_line(error.__traceback__), _BEFORE)
            if index != _BEFORE:  # a wrapper that yielded twice: nothing else leaves such a body from a marked line
                next(self.plugins[index].errors)
        elif self.shape.attributed:
            self._blame(error.__traceback__, laps)
        elif laps is not None:
            laps.append((_BEFORE, time.perf_counter_ns()))
        if laps is not None and len(laps) > 1:
            self.record(laps)

    def erred(self, index: int, laps: Laps | None) -> None:
        """Count a wrapper that failed on the way back."""
        self._over(laps, index, True)

    def unwound(self, laps: Laps | None) -> Callable[[int, bool], object]:
        """Return who is told of the wrappers through which an error goes."""
        return functools.partial(self._over, laps)

    def _over(self, laps: Laps | None, index: int, erred: bool) -> None:
        if erred:
            next(self.plugins[index].errors)
        if laps is not None:
            laps.append((index, time.perf_counter_ns()))

    def _blame(self, traceback: TracebackType | None, laps: Laps | None) -> None:
        """Find by its line which implementation was running, the last one entered if none was (an interrupt comes at any line)."""
        line = _line(traceback)
        index = self.shape.lines.get(line)
        if index is not None:
            next(self.plugins[index].errors)
        else:
            index = self.shape.lines[max(entered)] if (entered := [mark for mark in self.shape.lines if mark <= line]) else _BEFORE
        next(self.ended[index])
        if laps is not None and index != _BEFORE:
            laps.append((index, time.perf_counter_ns()))


def _line(traceback: Any) -> int:
    """Return the line of the body that the exception just came through: the body catches it, so its entry is the first."""
    return -1 if traceback is None else int(traceback.tb_lineno)
