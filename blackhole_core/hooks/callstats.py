"""What was counted of hook calls, as values. Pure: buckets go in, percentiles come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from blackhole_core.hooks.histogram import bounds_of

__all__ = ["CallReport", "CallStats", "HookCalls", "PluginCalls"]

#: Nanoseconds in a second: clocks count the ones, people and the rest of this library speak of the other.
_SECOND: Final = 1e9


@attrs.frozen
class CallStats:
    """Calls of one hook, of one plugin's implementations of it, or of several of those together. All numbers only ever grow.

    ``count`` and ``errors`` are exact, times come from the ``timed`` calls among them. They are seconds; None as long as no call was timed.
    Percentiles and ``mean`` are within 6.25 %, ``max`` is the longest that was timed.
    """

    count: int = 0  #: calls, those under way included
    errors: int = 0  #: calls that ended in an exception
    timed: int = 0  #: calls whose time was taken
    max: float | None = None
    #: Timed calls in each bucket of ``blackhole_core.hooks.histogram``.
    buckets: Mapping[int, int] = attrs.field(factory=dict, repr=False)

    @property
    def p50(self) -> float | None:
        return self.percentile(50)

    @property
    def p95(self) -> float | None:
        return self.percentile(95)

    @property
    def p99(self) -> float | None:
        return self.percentile(99)

    @property
    def mean(self) -> float | None:
        """Seconds of the average call; times ``count`` that is what the calls took together."""
        if not self.timed:
            return None
        return sum(_middle(bucket) * number for bucket, number in self.buckets.items()) / self.timed

    def percentile(self, percent: float) -> float | None:
        """Return the seconds that ``percent`` % of the timed calls did not exceed (nearest rank), None when none was timed.

        :raises ValueError: ``percent`` is not within 0 and 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"a percentile lies between 0 and 100, got {percent!r}")
        if not self.timed or self.max is None:
            return None
        rank = percent / 100 * self.timed
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank and seen > 0:
                return min(_middle(bucket), self.max)
        return self.max

    def bounds(self) -> tuple[tuple[float, int], ...]:
        """Return (seconds that the timed calls of a bucket stay below, their number), ascending: what exporters of histograms want."""
        return tuple((bounds_of(bucket)[1] / _SECOND, self.buckets[bucket]) for bucket in sorted(self.buckets))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, without the buckets."""
        names = ("count", "errors", "timed", "mean", "p50", "p95", "p99", "max")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def together(cls, several: Iterable[CallStats]) -> CallStats:
        """Return the statistics of all calls of ``several``."""
        parts = tuple(several)
        buckets: dict[int, int] = {}
        for part in parts:
            for bucket, number in part.buckets.items():
                buckets[bucket] = buckets.get(bucket, 0) + number
        return cls(
            count=sum(part.count for part in parts),
            errors=sum(part.errors for part in parts),
            timed=sum(part.timed for part in parts),
            max=max((part.max for part in parts if part.max is not None), default=None),
            buckets=buckets,
        )


@attrs.frozen
class HookCalls:
    """Calls of one hook."""

    total: CallStats  #: whole calls, as their callers see them
    plugins: Mapping[str, CallStats]  #: what each plugin's implementations did in them, by the name it is registered as
    #: Calls on pluggy's own path (``call_extra``, historic, subset callers, old-style wrappers, monitoring, a missing argument, through a
    #: closed gate), and those that ``map`` sends together: they are in ``total``, and what plugins did in them is not known.
    unattributed: int = 0


@attrs.frozen
class PluginCalls:
    """Calls that reached one plugin."""

    total: CallStats
    hooks: Mapping[str, CallStats]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, without the buckets."""
        return {**self.total.as_dict(), "hooks": {hook: stats.as_dict() for hook, stats in self.hooks.items()}}


@attrs.frozen
class CallReport:
    """What has been counted so far, all hooks that were ever measured."""

    hooks: Mapping[str, HookCalls] = attrs.field(factory=dict)

    def plugin(self, name: str) -> PluginCalls | None:
        """Return what reached the plugin registered as ``name``, None when nothing of it was ever measured."""
        own = {hook: calls.plugins[name] for hook, calls in self.hooks.items() if name in calls.plugins}
        return PluginCalls(CallStats.together(own.values()), own) if own else None


def _middle(bucket: int) -> float:
    low, high = bounds_of(bucket)
    return (low + high - 1) / 2 / _SECOND
