"""What a host lately logged and did, kept in memory, bounded, for ``blackhole logs``.

Invariants: ``_ring`` and ``_subscribers`` change only under ``_lock``, which is never held while anything else runs; ``add`` never waits for a
reader. A subscription holds at most its size of records; what comes while it is full is counted and not kept.
"""

from __future__ import annotations

import collections
import itertools
import logging
import os
import threading
import time
from typing import Any, Final, Self

from blackhole_core.cli.control.plain import jsonable
from blackhole_core.events import Event
from blackhole_core.ids import canonical_name

__all__ = ["RecordHandler", "Records", "Subscription"]

#: Records kept: some minutes of a busy host, hours of a quiet one.
KEPT: Final = 2000
#: Characters of one record's text, so that what is kept stays below 20 MB.
MAX_TEXT: Final = 8 * 1024
#: Records that may wait for one reader.
WAITING: Final = 1000

_PLUGIN_LOGGERS: Final = "blackhole.plugin."


class Records:
    """The ring of recent records, and those who want to be told of new ones."""

    def __init__(self, kept: int = KEPT, waiting: int = WAITING) -> None:
        self.waiting = waiting  #: records that may wait for one reader
        self._ring: collections.deque[dict[str, Any]] = collections.deque(maxlen=kept)
        self._subscribers: tuple[Subscription, ...] = ()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, kind: str, plugin: str, at: float, **facts: Any) -> None:
        """Keep one record and hand it to every subscription."""
        with self._lock:
            record = {"number": next(self._numbers), "time": at, "kind": kind, "plugin": plugin, **facts}
            self._ring.append(record)
            for subscription in self._subscribers:
                subscription.put(record)

    def add_event(self, event: Event) -> None:
        """Keep an event; a listener for :meth:`~blackhole_core.manager.PluginManager.on_event`."""
        self.add("event", event.plugin, event.time, name=event.name, data=jsonable(event.data, max_text=MAX_TEXT))

    def add_host_event(self, name: str, **data: Any) -> None:
        """Keep an event of the host itself, such as ``host.ready``."""
        self.add_event(Event(name, "", time.time(), data))

    def recent(self, limit: int, plugin: str | None = None) -> list[dict[str, Any]]:
        """Return the last ``limit`` records, oldest first, of one plugin if it is named."""
        with self._lock:
            kept = list(self._ring)
        return [record for record in kept if concerns(record, plugin)][-limit:] if limit > 0 else []

    def subscribe(self, *, past: int = 0, plugin: str | None = None) -> Subscription:
        """Return a subscription that begins with the last ``past`` records and misses none after them. Close it."""
        with self._lock:
            before = [record for record in self._ring if concerns(record, plugin)][-past:] if past > 0 else []
            subscription = Subscription(self, plugin, max(self.waiting, len(before)))
            for record in before:
                subscription.put(record)
            self._subscribers = (*self._subscribers, subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscribers = tuple(known for known in self._subscribers if known is not subscription)


def concerns(record: dict[str, Any], plugin: str | None) -> bool:
    """Whether a record is about ``plugin``; any is when None."""
    return plugin is None or canonical_name(record["plugin"]) == canonical_name(plugin)


class Subscription:
    """Records on their way to one reader. ``fileno`` is readable when there is something to take, and from the end on for good: a reader that took what
    was there just before would otherwise never wake up again.
    """

    def __init__(self, records: Records, plugin: str | None, size: int) -> None:
        self._records = records
        self._plugin = plugin
        self._size = size
        self._waiting: collections.deque[dict[str, Any]] = collections.deque()
        self._lock = threading.Lock()  # guards the queue and the byte in the pipe that says it is not empty
        self._reading, self._writing = os.pipe()
        self._signalled = False
        self._missed = 0
        self._closed = False
        self.ended = False  #: nothing more will come

    def fileno(self) -> int:
        return self._reading

    def put(self, record: dict[str, Any]) -> None:
        """Queue a record; never waits."""
        if not concerns(record, self._plugin):
            return
        with self._lock:
            if self._closed:
                return
            if len(self._waiting) >= self._size:
                self._missed += 1
            else:
                self._waiting.append(record)
            self._signal()

    def end(self) -> None:
        """Tell the reader that nothing more will come."""
        with self._lock:
            self.ended = True
            if not self._closed:
                self._signal()

    def _signal(self) -> None:
        if not self._signalled:
            self._signalled = True
            os.write(self._writing, b"!")

    def take(self) -> tuple[list[dict[str, Any]], int]:
        """Return what waits, and how many records were missed after it. Does not wait for more."""
        with self._lock:
            if self._signalled and not self.ended:
                os.read(self._reading, 1)
                self._signalled = False
            taken, missed = list(self._waiting), self._missed
            self._waiting.clear()
            self._missed = 0
            return taken, missed

    def close(self) -> None:
        """Take no more records. Idempotent."""
        self._records.forget(self)
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._reading)
                os.close(self._writing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RecordHandler(logging.Handler):
    """Puts log records into the ring."""

    def __init__(self, records: Records) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # a record with arguments that do not fit: logging's own way to say so
            self.handleError(record)
            return
        plugin = record.name.removeprefix(_PLUGIN_LOGGERS) if record.name.startswith(_PLUGIN_LOGGERS) else ""
        self._records.add(
            "log",
            plugin,
            record.created or time.time(),
            level=record.levelname.lower(),
            logger=record.name,
            text=jsonable(text, max_text=MAX_TEXT),
        )
