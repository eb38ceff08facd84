"""Notice what plugins at levels none and thread do that their permissions do not name. Advisory: it prevents nothing, and can be gone around.

An audit hook can never be removed, so there is one for the process, added when the first plugin is to be watched; from then on each audit event of the whole
process costs some 60 to 90 ns more. It asks whose code runs by walking the stack: modules of a plugin carry the mark of their universe in their builtins. What
is read while something is imported belongs to the import and is passed over; at the machinery of a hook call the walk ends, because what a
plugin calls there is not its own.

Invariants: the hook takes no lock, raises nothing and tells nobody: it may run anywhere, under any lock. It puts at most :data:`MAX_SEEN` notes of one
plugin into a queue; a thread of the auditor judges them and tells.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final

import attrs

from blackhole_core.executor.noticing import EVENTS, wanted_by, without_permission
from blackhole_core.executor.runner import RunnerSpec
from blackhole_core.loader.shims import MARK
from blackhole_core.loader.universe import Universe
from blackhole_core.manifest.permissions import Permission, parse_permission

__all__ = ["Auditor"]

logger = logging.getLogger("blackhole.audit")

#: Different operations of one instance that are looked at; a plugin that walks a disk must not fill the host's memory.
MAX_SEEN: Final = 1000
#: Permissions of one instance that are told of; who reads more of them reads none.
MAX_TOLD: Final = 50

_IMPORTING: Final = ("importlib._bootstrap", "importlib._bootstrap_external", "zipimport")
_MACHINERY: Final = ("blackhole_core.hooks.", "pluggy.")


@attrs.define(eq=False)
class _Watch:
    """One instance that is watched. ``seen`` is filled by the hook, from any thread; the rest belongs to the auditor's thread."""

    spec: RunnerSpec
    effective: tuple[Permission, ...]
    notes: queue.SimpleQueue[_Note | None]
    seen: set[tuple[str, str]] = attrs.field(factory=set)
    told: set[str] = attrs.field(factory=set)


@attrs.frozen(eq=False)
class _Note:
    watch: _Watch
    event: str
    wanted: tuple[Permission, ...]


class _Hook:
    """The one audit hook of this process. ``watches`` is replaced, never changed in place, under ``changing``; it is read without."""

    def __init__(self) -> None:
        self.changing: Final = threading.Lock()
        self.watches: Mapping[Universe, _Watch] = {}
        self._added = False

    def watch(self, watches: Mapping[Universe, _Watch]) -> None:
        """Under ``changing``."""
        self.watches = watches
        if watches and not self._added:
            sys.addaudithook(self._heard)
            self._added = True

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in EVENTS or not self.watches:
            return
        try:
            watch = self._running()
            if watch is None:
                return
            key = event, repr(args)[:200]
            if key in watch.seen or len(watch.seen) >= MAX_SEEN:
                return
            watch.seen.add(key)
            watch.notes.put(_Note(watch, event, wanted_by(event, args)))
        except Exception:
            # What an audit hook raises stops the operation itself, and with it plugin and host; logging from here could deadlock.
            return

    def _running(self) -> _Watch | None:
        """Return the watched plugin whose code runs on this thread, the innermost one; None while it imports, or waits in a hook call it made."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            name = str(frame.f_globals.get("__name__", ""))
            if name in _IMPORTING or name.startswith(_MACHINERY):
                return None
            universe = frame.f_builtins.get(MARK)
            if universe is not None:
                return self.watches.get(universe)
            frame = frame.f_back
        return None


_hook: Final = _Hook()


class Auditor:
    """Watches the plugins of one host that run in this process, and tells ``plugin.noticed``."""

    def __init__(self, emit: Callable[..., object]) -> None:
        self._emit = emit
        self._notes: queue.SimpleQueue[_Note | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def watch(self, spec: RunnerSpec, universe: Universe) -> None:
        """Watch an instance from now on; before any of its code runs."""
        with _hook.changing:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="blackhole-audit", daemon=True)
                self._thread.start()
            effective = tuple(map(parse_permission, spec.confinement.effective))
            _hook.watch({**_hook.watches, universe: _Watch(spec, effective, self._notes)})

    def unwatch(self, universe: Universe) -> None:
        """Watch it no longer; nothing when it is not."""
        with _hook.changing:
            _hook.watch({known: watch for known, watch in _hook.watches.items() if known is not universe})

    def close(self) -> None:
        """Judge what is left, and end the thread. The hook stays, and does nothing."""
        if self._thread is not None:
            self._notes.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (note := self._notes.get()) is not None:
            try:
                self._judge(note)
            except Exception:
                # An argument that nobody thought of: the next note is judged all the same.
                logger.exception("an audit event of plugin %s could not be judged: %s", note.watch.spec.id, note.event)

    def _judge(self, note: _Note) -> None:
        watch, spec = note.watch, note.watch.spec
        for missing in without_permission(note.wanted, watch.effective, (str(spec.path), sys.prefix, sys.base_prefix)):
            text = str(missing)
            if text in watch.told or len(watch.told) >= MAX_TOLD:
                continue
            watch.told.add(text)
            last = len(watch.told) == MAX_TOLD
            self._emit("plugin.noticed", spec.id.name, version=spec.id.version, permission=text, operation=note.event, last=last)
