"""Telling when a plugin's sources have changed, once per content that has come to rest.

Events of the operating system are only a hint to look: they come for half-written files, not at all for files in a new
directory, and are lost without a word when the queue overflows. What decides is the content (:mod:`.contents`):

* A look that finds the files as they were a moment ago (:data:`SETTLE`) is *settled*; only then content is hashed.
* Content equal to what was reported last is nothing: ``touch``, ``chmod``, an edit that was undone.
* A changed Python file that is empty or does not parse is probably half-written: it is reported when it parses, or when it has
  stayed as it is for :data:`PATIENCE`, so that the author sees the error.
* While git holds its lock nothing is settled: a checkout of thousands of files is one change (:mod:`.gitlock`).
* Directories that are gone are reported after :data:`PATIENCE` too: tools delete and write again.

One thread and one native watch serve all plugins. The thread alone touches what it knows of them; ``add`` and ``remove`` leave their
wish under a lock and wake it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from blackhole_core.loader.contents import Change, Contents, Look, counts, difference
from blackhole_core.loader.gitlock import git_is_writing, index_locks
from blackhole_core.loader.snapshot import compile_source

__all__ = ["PATIENCE", "RESCAN", "SETTLE", "Change", "SourceWatcher", "Stale"]

logger = logging.getLogger("blackhole.watch")

#: Seconds without a write after which a set of files is taken to be complete. Editors write a file in well under 1 ms, and the gap between two that are
#: saved together is milliseconds; whoever loads them asks once more, when they are loaded, whether they are :meth:`~SourceWatcher.unchanged`. The
#: times of files may be 4 ms behind (a tick of the kernel), and some must be left.
SETTLE: Final = 0.006

#: Times in a row that a report is taken back because files changed meanwhile. A plugin that writes into its own directory when it is imported would otherwise
#: never be served.
_TAKEN_BACK: Final = 3

#: Seconds for which something unlikely (no Python, no directory) must stay before it is reported.
PATIENCE: Final = 1.0

#: Seconds between looks that no event asked for. A look at 50 files costs 0.3 ms.
RESCAN: Final = 2.0

#: Seconds between looks at files that will not come to rest, such as a log that a plugin keeps beside its modules. Reached after
#: about a second of looking every :data:`SETTLE`.
_LONGEST_PAUSE: Final = 0.2

#: Milliseconds for which the native watch collects before it hands over; quiet for this long ends a batch. So an event comes 3 to 6 ms
#: after the write, in time to compile the file before the look that finds it settled; idle that costs a quarter more than 5 ms and
#: about 0.35 % of a core.
_STEP_MS: Final = 3

#: Changed files that are compiled while they settle: a save of more is rare, and what compiling saves is little beside importing them.
_AHEAD: Final = 4

#: Seconds added to the time at which files will have settled, so that a look does not come a tick before it.
_MARGIN: Final = 0.0005

#: Milliseconds after which a batch ends even if events keep coming. A checkout of 3,000 files takes up to 750 ms.
_DEBOUNCE_MS: Final = 1600

#: Milliseconds after which the native watch returns without an event: a change made while it was being set up is seen then.
_TIMEOUT_MS: Final = 250

#: Seconds for the thread to end; it looks at least every 10 ms, only a callback that is still running can be longer.
_CLOSE_SECONDS: Final = 5.0


class Stale(Exception):
    """Raised by a callback that did not take a report because the files have changed since: what they are now is reported instead, together with it."""


class _Watched:
    """What the thread knows of one plugin: the content reported last, and what it is waiting to see settle."""

    def __init__(self, contents: Contents, patience: float) -> None:
        self.contents = contents
        self.patience = patience
        look = contents.look()
        self.reported = contents.hashes(look) or {}
        self._before = self.reported  # what was reported before that
        self._taken_back = 0  # reports, in a row
        self.was_there = look.exists
        self.latest = look
        self.since = 0.0  # monotonic time since when the files are as in `latest`
        self.doubted: Look | None = None  # found half-written, so that it is not parsed again at every look
        self.pending = False
        self._locks = index_locks(contents.roots)

    def settles_in(self, now: float) -> float:
        """Return for how many seconds from ``now`` files that are not written to again must still be waited for."""
        return max(0.0, self.since + SETTLE - now) + _MARGIN

    def consider(self, now: float) -> Change | None:
        """Look once. Return a change that is ready to be reported; ``pending`` says whether to look again soon."""
        look = self.contents.look()
        if look != self.latest:
            self.since = now - min(SETTLE, look.rest_since(self.latest, time.time_ns()))
            former, self.latest = self.latest, look
            if now - self.since < SETTLE:
                self._compile_ahead(former)
        rested = now - self.since
        self.pending = True
        if not look.exists:
            return self._gone(rested)
        if rested < SETTLE or (look == self.doubted and rested < self.patience) or git_is_writing(self._locks, rested):
            return None
        hashes = self.contents.hashes(look)
        if hashes is None:
            return None
        change = difference(self.reported, hashes)
        if change is not None and rested < self.patience and self._half_written(change):
            self.doubted = look
            return None
        self.pending = False
        self._before, self.was_there, self.reported, self.doubted = self.reported, True, hashes, None
        return change

    def unchanged(self) -> bool:
        """Whether the content is what was reported last; taken to be so when it never stays so."""
        if self._taken_back >= _TAKEN_BACK:
            return True
        look = self.contents.look()
        return look == self.latest or self.contents.hashes(look) == self.reported

    def taken(self) -> None:
        """Note that the report was used."""
        self._taken_back = 0

    def take_back(self) -> None:
        """Undo the last report."""
        self.reported = self._before
        self._taken_back += 1
        self.pending = True

    def _compile_ahead(self, former: Look) -> None:
        """Use the time in which files settle to compile those that were saved; whether they are whole is judged when they have settled."""
        saved = [file for file, stamp in self.latest.stamps.items() if file.endswith(".py") and former.stamps.get(file) != stamp]
        for file in saved if len(saved) <= _AHEAD else ():
            with contextlib.suppress(OSError):
                _parses(file, Path(file).read_bytes())

    def _gone(self, rested: float) -> Change | None:
        if self.was_there and rested < self.patience:
            return None
        gone = Change(gone=True) if self.was_there else None
        self.pending, self.was_there, self.reported, self._before = False, False, {}, {}
        return gone

    def _half_written(self, change: Change) -> bool:
        for name in (*change.added, *change.modified):
            if not name.endswith(".py"):
                continue
            found = self.contents.read(name)
            if found is None or not _parses(*found):
                return True
            if name in change.modified and not found[1]:
                return True  # about to be written; a new empty file is an ordinary __init__.py
        return False


class SourceWatcher:
    """Watch the sources of plugins and call ``on_change(name, change)`` for each content that has come to rest.

    A callback that finds the files changed since (:meth:`unchanged`) may raise :class:`Stale`. It runs on the watcher's thread; while it runs nothing else is reported, and what changes meanwhile is reported after it. One that
    raises is logged. Add a plugin *before* loading it: what changes from then on is reported.
    """

    def __init__(self, on_change: Callable[[str, Change], None], *, patience: float = PATIENCE, rescan: float = RESCAN) -> None:
        self._on_change = on_change
        self._patience = patience  # seconds, see PATIENCE
        self._rescan = rescan  # seconds, see RESCAN
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()  # guards the dict and the thread's start; never held during a callback or a look
        self._wake = threading.Event()  # set = leave the native watch: the roots changed, or the end
        self._closed = False
        self._thread: threading.Thread | None = None
        self._refused: frozenset[tuple[str, int]] = frozenset()  # places the system did not watch when it was last asked; the thread's own

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, name: str, roots: Sequence[Path]) -> None:
        """Watch ``roots`` (directories, or files of single-module plugins) for the plugin ``name``, in place of its former roots."""
        watched = _Watched(Contents(roots), self._patience)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the watcher is closed; plugin {name} cannot be added to it")
            self._watched[name] = watched
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="blackhole-watch", daemon=True)
                self._thread.start()
        self._wake.set()

    def remove(self, name: str) -> None:
        """Stop watching the plugin. A callback for it that is running now is not interrupted; none begins after this."""
        with self._lock:
            self._watched.pop(name, None)
        self._wake.set()

    def unchanged(self, name: str) -> bool:
        """Say whether the content of ``name`` is what was reported last. For the callback that was told of it, while it runs; a look takes 0.5 ms for 16 files."""
        with self._lock:
            watched = self._watched.get(name)
        return watched is None or watched.unchanged()

    def close(self) -> None:
        """End the thread. Called by a callback it returns at once and the thread ends after that callback."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._wake.set()
        if thread is None or thread is threading.current_thread():
            return
        thread.join(_CLOSE_SECONDS)
        if thread.is_alive():
            logger.warning("a callback of the source watcher is still running after %g s; its thread ends when it returns", _CLOSE_SECONDS)

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            self._wake.clear()
            places = self._places()
            if not places:
                # Nothing that exists: wait for a wish, or for a deleted directory to come back.
                self._wake.wait(self._rescan if self._snapshot() else None)
                self._look_until_settled()
            elif not self._closed:
                self._watch(places)

    def _watch(self, places: frozenset[tuple[str, int]]) -> None:
        """Follow one native watch until the places to watch are others."""
        from watchfiles import watch  # here: nobody else needs it, and it brings asyncio

        batches = watch(
            *(path for path, _ in places),
            watch_filter=_relevant,
            step=_STEP_MS,
            debounce=_DEBOUNCE_MS,
            rust_timeout=_TIMEOUT_MS,
            yield_on_timeout=True,
            stop_event=self._wake,
            raise_interrupt=False,
            ignore_permission_denied=True,
        )
        next_look = 0.0  # the first return of the watch, event or not, is a reason to look
        try:
            for batch in batches:
                if batch or time.monotonic() >= next_look:
                    self._look_until_settled()
                    next_look = time.monotonic() + self._rescan
                    if self._places() != places:
                        return
        except FileNotFoundError:
            self._look_until_settled()  # deleted between listing and watching
        except (OSError, RuntimeError):  # watchfiles raises its own subclasses of both
            if places != self._refused:
                logger.exception(
                    "the system does not watch %s; looking every %g s instead", ", ".join(sorted(path for path, _ in places)), self._rescan
                )
            self._refused = places
            while not self._wake.wait(self._rescan) and self._places() == places:
                self._look_until_settled()

    def _look_until_settled(self) -> None:
        """Look at every plugin until none is waiting for its files to come to rest."""
        pause = SETTLE
        waiting = self._look()
        if waiting:  # an event comes a while after the write: wait only for what is left of the settling time
            self._wake.wait(min(watched.settles_in(time.monotonic()) for watched in waiting))
        while waiting and not self._wake.is_set():
            waiting = self._look()
            if waiting:
                self._wake.wait(pause)
                pause = min(pause * 1.05, _LONGEST_PAUSE)

    def _look(self) -> list[_Watched]:
        """Look at every plugin once and report what is ready; return those whose files have not come to rest."""
        waiting = []
        for name, watched in self._snapshot():
            change = watched.consider(time.monotonic())
            if change is not None:
                self._report(name, watched, change)
            if watched.pending:
                waiting.append(watched)
        return waiting

    def _report(self, name: str, watched: _Watched, change: Change) -> None:
        with self._lock:
            if self._closed or self._watched.get(name) is not watched:
                return
        try:
            self._on_change(name, change)
            watched.taken()
        except Stale:
            watched.take_back()
        except Exception:
            # Reloading failed, or somebody else's code did: the watcher must see the save that mends it.
            logger.exception("reacting to changed sources of plugin %s failed", name)

    def _snapshot(self) -> list[tuple[str, _Watched]]:
        with self._lock:
            return list(self._watched.items())

    def _places(self) -> frozenset[tuple[str, int]]:
        """Return what to watch as (real path, inode): a directory replaced by another of its name must be watched anew."""
        paths: set[Path] = set()
        for _, watched in self._snapshot():
            paths.update(root.resolve() for root in watched.contents.roots)
            paths.update(map(Path, watched.latest.links))
        found = set()
        for path in paths:
            try:
                found.add((str(path), path.stat().st_ino))
            except OSError:
                continue  # not there: looked for at every rescan
        return frozenset(found)


def _relevant(_: object, path: str) -> bool:
    """Keep noise from waking the thread. Anything that passes is only a reason to look."""
    return "__pycache__" not in path and counts(path.rpartition("/")[2])


def _parses(file: str, text: bytes) -> bool:
    try:
        compile_source(text, file)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True
