"""What happened, as values, and the one place that tells listeners.

A listener is a plain callable that takes one :class:`Event`. It is called on the thread on which the thing happened, so
it must be quick; one that raises is logged and skipped, it never disturbs the host or another listener. Where nobody listens, trouble is logged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs

from blackhole_core.printable import indented, printable

__all__ = ["Event", "EventBus", "Listener"]

logger = logging.getLogger("blackhole.events")

#: Trouble that comes by itself, so that no caller is told of it by an exception or a report.
_TROUBLE: Final = frozenset({
    "breaker.opened", "call.poisoned", "host.duty_left", "host.operation_left", "network.denied", "network.failed", "plugin.broken",
    "plugin.dependency_untold", "plugin.flapping", "plugin.leaked", "plugin.lease_failed", "plugin.level_fallback", "plugin.noticed",
    "plugin.output_lost", "plugin.overloaded", "plugin.quarantined", "plugin.stop_failed", "plugin.thread_left", "reload.failed",
    "reload.source_gone", "state.damaged", "state.not_kept", "state.skipped", "swap.rollback_failed", "swap.rolled_back", "worker.died",
    "worker.restart_failed",
})  # fmt: skip


@attrs.frozen
class Event:
    """Something that happened to a plugin.

    ``name`` is a dotted word from the table in ``docs/reference/events.md`` (``plugin.loaded``, ``swap.phase`` …), ``plugin`` the plugin's
    name (empty for the host itself), ``time`` seconds of the wall clock, ``data`` plain values that can go into JSON.
    """

    name: str
    plugin: str
    time: float
    data: Mapping[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        facts = " ".join(f"{key}={value}" for key, value in self.data.items())
        return f"{self.name} {self.plugin} {facts}".rstrip()


Listener: TypeAlias = Callable[[Event], object]


class EventBus:
    """Owns the listeners. ``emit`` may be called from any thread; the tuple is replaced, never changed in place."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._listeners: tuple[Listener, ...] = ()
        self._lock = threading.Lock()  # guards replacing the tuple, never held while a listener runs

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add ``listener``; the returned function removes it again (once, further calls do nothing)."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(known for known in self._listeners if known is not listener)

        return unsubscribe

    def emit(self, name: str, plugin: str = "", **data: Any) -> Event:
        """Tell every listener, in order of subscription, and return the event. Where there is none, trouble is told by a warning in the log."""
        event = Event(name, plugin, self._clock(), data)
        listeners = self._listeners
        if not listeners and name in _TROUBLE:
            logger.warning("%s", indented(printable(str(event))))
        for listener in listeners:
            try:
                listener(event)
            except Exception:
                # A listener is somebody else's code: its fault is logged with its traceback and goes no further.
                logger.exception("a listener failed on %s", event)
        return event
