"""What one plugin moves through the relay: counted, held to its limit, and told as events. The account outlives workers and versions of the plugin.

Everything here belongs to the relay's thread; the counters may be read from any.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

import attrs

from blackhole_core.executor.limits.bucket import Bucket, bandwidth

__all__ = ["Account", "Holdable", "NetworkUsage"]

#: Bytes that are moved at once. Larger ones were not faster, smaller ones cost more turns.
CHUNK: Final = 64 * 1024
#: Bytes that must be allowed before a plugin that reached its limit goes on: fewer would be a turn of the loop for each few bytes.
_QUANTUM: Final = 16 * 1024
#: Events per second and plugin in the long run, and after a pause: a plugin must not be able to flood a log.
_EVENTS_PER_SECOND: Final = 10.0
_EVENTS_AT_ONCE: Final = 50.0


@attrs.frozen
class NetworkUsage:
    """Bytes a plugin sent and received through the relay since the host started, and the connections it has now."""

    sent: int
    received: int
    connections: int


class Holdable(Protocol):
    """An end of a connection that can be told to read no more for a while."""

    def hold(self, held: bool) -> None:
        """Read no more, or go on."""


class Account:
    """The traffic of one plugin."""

    def __init__(self, plugin: str, emit: Callable[..., object]) -> None:
        self.plugin: Final = plugin
        self.sent = 0
        self.received = 0
        self.connections = 0
        self.held = False  # whether the limit is reached for now
        self._emit = emit
        self._mbps: float | None = None
        self._bucket: Bucket | None = None
        self._ends: set[Holdable] = set()
        self._events = Bucket.full(_EVENTS_PER_SECOND, _EVENTS_AT_ONCE, time.monotonic())
        self._untold = 0

    @property
    def usage(self) -> NetworkUsage:
        return NetworkUsage(self.sent, self.received, self.connections)

    # --- the limit ---------------------------------------------------------------------------------------------------

    def limit(self, mbps: float | None) -> None:
        """Hold the plugin to so many megabits per second, both directions together; None: to nothing."""
        if mbps != self._mbps:
            self._mbps = mbps
            self._bucket = None if mbps is None else bandwidth(mbps, time.monotonic())

    def enter(self, end: Holdable) -> None:
        """Count ``end`` in; it is held with the others."""
        self._ends.add(end)
        if self.held:
            end.hold(True)

    def leave(self, end: Holdable) -> None:
        self._ends.discard(end)

    def allowed(self) -> int:
        """Return how many bytes may be read now: at least one, since who asks is not held."""
        if self._bucket is None:
            return CHUNK
        return max(1, min(CHUNK, int(self._bucket.filled(time.monotonic()).level)))

    def moved(self, size: int, *, sent: bool) -> None:
        """Count bytes that were read, and hold all ends when the limit is reached."""
        if sent:
            self.sent += size
        else:
            self.received += size
        if self._bucket is None:
            return
        now = time.monotonic()
        _, self._bucket = self._bucket.take(size, now)
        wait = self._bucket.wait(_QUANTUM, now)
        if wait and not self.held:
            self._hold(True)
            asyncio.get_running_loop().call_later(wait, self._hold, False)

    def _hold(self, held: bool) -> None:
        self.held = held
        for end in tuple(self._ends):
            end.hold(held)

    # --- events ------------------------------------------------------------------------------------------------------

    def tell(self, name: str, **data: object) -> None:
        """Emit an event, unless there were too many; the next one says then how many were left out."""
        now = time.monotonic()
        granted, events = self._events.take(1, now)
        if granted < 1:
            self._untold += 1
            return
        self._events = events
        if self._untold:
            data["untold"] = self._untold
            self._untold = 0
        self._emit(name, self.plugin, **data)
