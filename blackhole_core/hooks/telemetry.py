"""Telemetry of hook calls: how many, how many failed, how long they took, per hook and plugin.

Off, it does not exist: the generated bodies are the very same as without it. Turning it on and off compiles other bodies and stores them by the
usual switch, so calls flow on; a call that began before is not counted, one that begins after is. On, a call at level none costs up
to a quarter more when it is sampled (``python -m benchmarks telemetry``). Calls that leave the thread are always timed: what that
costs is lost in what they cost.

Reading changes nothing and holds no call back. All numbers only ever grow, also across swaps, and across off and on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import attrs
from pluggy import HookImpl

from blackhole_core.hooks.callstats import CallReport, CallStats, HookCalls, PluginCalls
from blackhole_core.hooks.counting import new_counter, steps
from blackhole_core.hooks.histogram import Histogram
from blackhole_core.hooks.tally import Shape, Tally
from blackhole_core.hooks.turns import turns

if TYPE_CHECKING:
    from blackhole_core.hooks.compiling import Body
    from blackhole_core.hooks.manager import HookManager

__all__ = ["DEFAULT_SAMPLE", "Meter", "PluginMeter", "SlowCall", "Telemetry"]

#: One call in so many is timed. A prime, so that it does not keep step with a host that calls a hook in turns for two or ten things. Between calls
#: that are not timed one that is costs some 2.5 µs more (its code has left the caches): at 251 that is 10 ns for each call.
DEFAULT_SAMPLE: Final = 251

#: Plugins that have left and whose numbers a hook still remembers; more than a host's operator takes out and puts back.
_DEPARTED: Final = 64

#: Nanoseconds in a second.
_SECOND: Final = 1e9


class Telemetry:
    """``pm.telemetry``: turn counting on and off, and read it."""

    def __init__(self, manager: HookManager) -> None:
        self._manager = manager

    @property
    def sample(self) -> int | None:
        """One call in so many is timed; None while telemetry is off."""
        return self._manager.measuring

    def start(self, *, sample: int = DEFAULT_SAMPLE) -> None:
        """Count every call that begins from now on, and time one in ``sample``: 1 times each.

        Of calls that leave the thread each is timed; so are the first ones of a hook, then fewer and fewer, down to one in ``sample``.
        Starting it while it is on changes ``sample``.

        :raises ValueError: ``sample`` is less than 1.
        """
        if sample < 1:
            raise ValueError(f"one call in sample is timed, so it is 1 or more, got {sample!r}; stop() turns telemetry off")
        self._measure(sample)

    def stop(self) -> None:
        """Count no call that begins from now on. What was counted stays readable."""
        self._measure(None)

    def _measure(self, sample: int | None) -> None:
        with self._manager.hook_lock:
            if sample == self._manager.measuring:
                return
            self._manager.measuring = sample
            for caller in self._manager.callers():
                caller.changed()

    def read(self) -> CallReport:
        """Return what was counted so far. Takes some 20 µs per hook and plugin; hooks without a measured call are left out."""
        return CallReport({hook: counted.report() for hook, counted in self._counted()})

    def plugin(self, name: str) -> PluginCalls | None:
        """Return what reached the plugin registered as ``name``, None when nothing of it was ever measured."""
        hooks = {hook: stats for hook, counted in self._counted() if (stats := counted.plugin(name)) is not None}
        return PluginCalls(CallStats.together(hooks.values()), hooks) if hooks else None

    def _counted(self) -> Iterator[tuple[str, Counted]]:
        for caller in sorted(self._manager.callers(), key=lambda caller: caller.name):
            if caller.meter is not None:
                with self._manager.hook_lock:  # for one hook at a time: a call that has to compile its hook waits for it
                    counted = caller.meter.counted()
                if counted.calls:
                    yield caller.name, counted


class PluginMeter:
    """What was counted of one plugin in one hook; ``count`` is of bodies that are no more."""

    __slots__ = ("count", "errors", "histogram")

    def __init__(self, *, locked: bool) -> None:
        self.count = 0
        self.errors = new_counter(locked=locked)
        self.histogram = Histogram(locked=locked)


class Meter:
    """What was counted of one hook. Everything but the counters is under the manager's lock."""

    def __init__(self, *, locked: bool) -> None:
        self._locked = locked
        self._tallies: list[Tally] = []
        self._plugins: dict[str, PluginMeter] = {}
        self._calls = 0
        self._unattributed = 0
        self.errors = new_counter(locked=locked)
        self.histogram = Histogram(locked=locked)
        #: Calls that a generated body handed to pluggy, or that never had one.
        self.aside = new_counter(locked=locked)
        self.aside_failed = new_counter(locked=locked)

    def tally(self, body: Body, order: Sequence[HookImpl] | None, *, firstresult: bool, sample: int) -> Tally:
        """Return the counters for a new body that calls ``order``, in this order; None where pluggy runs the implementations."""
        self._fold()
        shape = Shape(
            plugins=tuple(impl.plugin_name for impl in order or ()),
            wrappers=sum(impl.wrapper for impl in order or ()),
            firstresult=firstresult,
            lines=body.lines,
            attributed=order is not None,
        )
        tally = Tally(self, shape, turns(sample, locked=self._locked), locked=self._locked)
        self._tallies.append(tally)
        return tally

    def plugin(self, name: str) -> PluginMeter:
        """Return what is counted of a plugin, from now on the last that would be forgotten."""
        meter = self._plugins.pop(name, None) or PluginMeter(locked=self._locked)
        self._plugins[name] = meter
        return meter

    def _fold(self) -> None:
        """Put the numbers of bodies that are no more into the totals, and forget plugins that left long ago."""
        for tally in [tally for tally in self._tallies if tally.is_complete]:
            if tally not in self._tallies:
                continue  # a finaliser that ran in here has done it
            self._tallies.remove(tally)
            calls = tally.turns.calls()
            self._calls += calls
            self._unattributed += 0 if tally.shape.attributed else calls
            for plugin, number in tally.reached():
                plugin.count += number
        present = {name for tally in self._tallies for name in tally.shape.plugins}
        departed = [name for name in self._plugins if name not in present]
        for name in departed[:-_DEPARTED]:
            del self._plugins[name]

    def counted(self) -> Counted:
        """Return the numbers as they are now."""
        self._fold()
        reached = {plugin: plugin.count for plugin in self._plugins.values()}
        calls, unattributed = self._calls, self._unattributed
        for tally in self._tallies:
            # reached before the calls are, so that no plugin has more than there are
            for plugin, number in tally.reached():
                reached[plugin] = reached.get(plugin, 0) + number
            counted = tally.turns.calls()
            calls += counted
            unattributed += 0 if tally.shape.attributed else counted
        aside = steps(self.aside)
        errors = steps(self.errors) + steps(self.aside_failed)
        plugins = {name: (reached[plugin], plugin) for name, plugin in self._plugins.items()}
        return Counted(calls + aside, errors, unattributed + aside, self.histogram, plugins)

    def slow(self) -> SlowCall:
        """Count a call that has no generated body, and begin to time it."""
        return SlowCall(self)


@attrs.frozen
class Counted:
    """The numbers of one hook; what takes longer, its histograms, is read outside the lock."""

    calls: int
    errors: int
    unattributed: int
    histogram: Histogram
    plugins: Mapping[str, tuple[int, PluginMeter]]

    def report(self) -> HookCalls:
        """Return everything as a value."""
        plugins = {name: _stats(count, steps(plugin.errors), plugin.histogram) for name, (count, plugin) in self.plugins.items()}
        return HookCalls(_stats(self.calls, self.errors, self.histogram), plugins, self.unattributed)

    def plugin(self, name: str) -> CallStats | None:
        """Return what reached one plugin."""
        if name not in self.plugins:
            return None
        count, plugin = self.plugins[name]
        return _stats(count, steps(plugin.errors), plugin.histogram)


class SlowCall:
    """One call that pluggy runs: it takes a lock and a ticket anyway, so it is always timed."""

    __slots__ = ("_began", "_meter")

    def __init__(self, meter: Meter) -> None:
        next(meter.aside)
        self._meter = meter
        self._began = time.perf_counter_ns()

    def ended(self, *, failed: bool) -> None:
        """Take its time, and count if it ends in an exception."""
        if failed:
            next(self._meter.aside_failed)
        self._meter.histogram.add(time.perf_counter_ns() - self._began)


def _stats(count: int, errors: int, histogram: Histogram) -> CallStats:
    buckets = histogram.counts()
    timed = sum(buckets.values())
    return CallStats(count=count, errors=errors, timed=timed, max=histogram.longest / _SECOND if timed else None, buckets=buckets)
