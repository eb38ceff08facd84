"""Snapshots as files: ``<root>/<plugin>/<id>.state``.

Any number of threads and processes may write and read at once without waiting for each other; there is no lock that a slow disk or a stopped
process could hold against others. What makes that safe:

* An id is claimed by making ``<id>.tmp``, which only one can. Under the claim no id at or above it has been published (``.state``) or deleted
  (``.deleted``), and nobody else can publish it. So an id is given once, and later puts have higher ids than all finished before them.
* The file is written and flushed under its temporary name, then *linked* to its own: a snapshot is whole from the first moment it has
  a name, and a link never replaces anything. Then the directory is flushed; only then does ``put`` return.
* The highest id ever published always leaves a trace (its ``.state`` or its ``.deleted``), so deleting never frees an id.
* Whatever is left of a writer that died has a free lock and is removed when a store is next opened.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from blackhole_core.errors import SnapshotDamaged, StateError
from blackhole_core.state import disk
from blackhole_core.state.snapshot import OVERHEAD, STATE_CAP, Draft, Snapshot, decode, encode
from blackhole_core.state.store import ID, KEEP, Latest, SnapshotInfo, format_id, store_name, unknown_snapshot

__all__ = ["POINTS", "FileStateStore"]

logger = logging.getLogger("blackhole.state")

#: Steps of ``put`` at which a test may stop, fail or kill it, in order.
POINTS: Final = ("claimed", "written", "flushed", "linked", "settled", "pruned")

#: Turns after which a put or read that others overtake every time gives up. Each lost turn means that another put succeeded meanwhile.
TURNS: Final = 10_000

_STATE: Final = ".state"
_CLAIM: Final = ".tmp"
_DELETED: Final = ".deleted"
_FILE: Final = re.compile(rf"({ID.pattern})({_STATE}|{_CLAIM}|{_DELETED})")

_T = TypeVar("_T")
_Stamp: TypeAlias = tuple[int, int, int]  # inode, size, mtime in ns


def _ignore(point: str) -> None:
    """Go on: nobody watches the steps."""


class FileStateStore:
    """A :class:`~blackhole_core.state.store.StateStore` of files below ``root``, directories 0700, files 0600.

    The newest ``keep`` whole snapshots of each plugin stay; what is older, damaged or not, is removed by a later ``put``. ``limit`` is the most bytes
    one state may have. ``reached`` is told each of :data:`POINTS`; it is there for tests.
    """

    def __init__(self, root: Path, *, keep: int = KEEP, limit: int = STATE_CAP, reached: Callable[[str], object] = _ignore) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._root = Path(root).absolute()
        self._keep = keep
        self._limit = limit
        self._reached = reached
        self._closed = False
        # Files this store has seen whole, so that a put need not read the ones it keeps. Guarded by the lock, never held over I/O.
        self._lock = threading.Lock()
        self._whole: dict[tuple[str, str], _Stamp] = {}
        self._sweep()

    def __repr__(self) -> str:
        return f"<FileStateStore {self._root}{', closed' if self._closed else ''}>"

    # --- the interface -----------------------------------------------------------------------------------------------

    def put(self, draft: Draft) -> Snapshot:
        name = store_name(draft.plugin)
        with self._sentence(name, "kept"):
            disk.make_directory(self._root / name)
            with disk.open_directory(self._root / name) as directory:
                with _claim(directory) as (snapshot_id, descriptor):
                    self._reached("claimed")
                    snapshot = draft.as_snapshot(snapshot_id)
                    self._publish(directory, name, snapshot_id, descriptor, encode(snapshot, limit=self._limit))
                self._prune(directory, name)
        self._reached("pruned")
        return snapshot

    def get(self, plugin: str, snapshot_id: str) -> Snapshot:
        name = store_name(plugin)
        if ID.fullmatch(snapshot_id):
            with self._sentence(name, "read"), self._opened(name) as directory, contextlib.suppress(FileNotFoundError):
                if directory is not None:
                    return self._read(directory, name, snapshot_id)[0]
        raise unknown_snapshot(plugin, snapshot_id)

    def latest(self, plugin: str) -> Latest:
        nothing: Latest = (None, ())
        return self._steadily(store_name(plugin), self._newest_whole, nothing)

    def list(self, plugin: str) -> tuple[SnapshotInfo, ...]:
        def look(directory: int, name: str) -> tuple[SnapshotInfo, ...]:
            return tuple(self._info(directory, name, snapshot_id) for snapshot_id in _newest_first(directory))

        return self._steadily(store_name(plugin), look, ())

    def delete(self, plugin: str, snapshot_id: str) -> None:
        name = store_name(plugin)
        if ID.fullmatch(snapshot_id):
            with self._sentence(name, "deleted"), self._opened(name) as directory, contextlib.suppress(FileNotFoundError):
                if directory is not None:
                    os.stat(snapshot_id + _STATE, dir_fd=directory, follow_symlinks=False)
                    _mark_deleted(snapshot_id, directory)
                    self._remove(directory, name, snapshot_id)
                    os.fsync(directory)
                    return
        raise unknown_snapshot(plugin, snapshot_id)

    def plugins(self) -> tuple[str, ...]:
        with self._sentence("", "listed"):
            return tuple(name for name in self._names() if self._has_any(name))

    def close(self) -> None:
        """Refuse further calls. Nothing is held open between two calls; one that is running ends by itself."""
        self._closed = True

    # --- writing -----------------------------------------------------------------------------------------------------

    def _publish(self, directory: int, name: str, snapshot_id: str, descriptor: int, data: bytes) -> None:
        """Give the claimed file its bytes and then its name. When this raises, the name is not there."""
        disk.write_all(descriptor, data)
        self._reached("written")
        os.fsync(descriptor)
        self._reached("flushed")
        os.link(snapshot_id + _CLAIM, snapshot_id + _STATE, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        try:
            self._reached("linked")
            os.fsync(directory)
            self._reached("settled")
            with self._lock:
                self._whole[name, snapshot_id] = _stamp(os.fstat(descriptor))
        except BaseException:
            self._remove(directory, name, snapshot_id)
            raise

    def _prune(self, directory: int, name: str) -> None:
        """Remove everything older than the ``keep``-th newest whole snapshot, and the marks of deletion that newer ids make needless.

        The new snapshot is safe already, so a failure here is a warning.
        """
        try:
            ids = _newest_first(directory)
            whole = 0
            for snapshot_id in ids if len(ids) > self._keep else ():
                if whole == self._keep:
                    self._remove(directory, name, snapshot_id)
                elif self._is_whole(directory, name, snapshot_id):
                    whole += 1
            for snapshot_id in _ids(directory, _DELETED):
                if ids and snapshot_id < ids[0]:
                    _unlink(snapshot_id + _DELETED, directory)
            self._forget_all_but(name, ids)
        except OSError as error:
            logger.warning("old snapshots of plugin %s in %s could not be removed: %s", name, self._root / name, disk.explain(error))

    def _is_whole(self, directory: int, name: str, snapshot_id: str) -> bool:
        try:
            stamp = _stamp(os.stat(snapshot_id + _STATE, dir_fd=directory, follow_symlinks=False))
            with self._lock:
                if self._whole.get((name, snapshot_id)) == stamp:
                    return True
            self._read(directory, name, snapshot_id)
        except (FileNotFoundError, SnapshotDamaged):
            return False
        with self._lock:
            self._whole[name, snapshot_id] = stamp
        return True

    def _forget_all_but(self, name: str, ids: tuple[str, ...]) -> None:
        """Drop what is remembered of snapshots that other processes removed."""
        with self._lock:
            self._whole = {key: stamp for key, stamp in self._whole.items() if key[0] != name or key[1] in ids}

    def _remove(self, directory: int, name: str, snapshot_id: str) -> None:
        with self._lock:
            self._whole.pop((name, snapshot_id), None)
        _unlink(snapshot_id + _STATE, directory)

    def _sweep(self) -> None:
        """Remove what dead writers left. A store that may only be read leaves it where it is: it is in nobody's way."""
        try:
            for name in self._names():
                with disk.open_directory(self._root / name) as directory:
                    for snapshot_id in _ids(directory, _CLAIM):
                        self._sweep_one(directory, self._root / name / (snapshot_id + _CLAIM))
        except OSError as error:
            logger.warning("leftovers of dead writers in %s could not be looked for: %s", self._root, disk.explain(error))

    def _sweep_one(self, directory: int, path: Path) -> None:
        try:
            if disk.sweep(path.name, directory):
                logger.info("removed %s, left by a writer that died", path)
        except OSError as error:
            logger.warning("%s, left by a writer that died, could not be removed: %s", path, disk.explain(error))

    # --- reading -----------------------------------------------------------------------------------------------------

    def _read(self, directory: int, name: str, snapshot_id: str) -> tuple[Snapshot, int]:
        """Return a snapshot and the size of its file. Raise ``FileNotFoundError``, :class:`SnapshotDamaged`."""
        path = self._root / name / (snapshot_id + _STATE)
        data = disk.read_regular(path.name, directory, path=path, limit=self._limit + OVERHEAD)
        snapshot = decode(data, path=path, plugin=name, limit=self._limit)
        if snapshot.id != snapshot_id:
            raise SnapshotDamaged(path, f"it is a copy of snapshot {snapshot.id} under another name")
        return snapshot, len(data)

    def _newest_whole(self, directory: int, name: str) -> Latest:
        damage: list[SnapshotDamaged] = []
        for snapshot_id in _newest_first(directory):
            try:
                return self._read(directory, name, snapshot_id)[0], tuple(damage)
            except SnapshotDamaged as error:
                damage.append(error)
        return None, tuple(damage)

    def _info(self, directory: int, name: str, snapshot_id: str) -> SnapshotInfo:
        try:
            return SnapshotInfo.of(*self._read(directory, name, snapshot_id))
        except SnapshotDamaged as error:
            size = os.stat(snapshot_id + _STATE, dir_fd=directory, follow_symlinks=False).st_size
            return SnapshotInfo(snapshot_id, name, size, damaged=error.reason)

    def _steadily(self, name: str, look: Callable[[int, str], _T], nothing: _T) -> _T:
        """Return what ``look`` sees of a plugin's directory; look again when a file it had listed was pruned before it was read."""
        with self._sentence(name, "read"), self._opened(name) as directory:
            if directory is None:
                return nothing
            for _ in range(TURNS):
                with contextlib.suppress(FileNotFoundError):
                    return look(directory, name)
        raise StateError(f"snapshots of plugin {name} in {self._root / name} change too fast to be read; keep more than {self._keep}")

    def _names(self) -> tuple[str, ...]:
        try:
            with os.scandir(self._root) as entries:
                return tuple(sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and _is_store_name(entry.name)))
        except FileNotFoundError:
            return ()

    def _has_any(self, name: str) -> bool:
        with self._opened(name) as directory:
            return directory is not None and bool(_newest_first(directory))

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int | None]:
        """Hold a plugin's directory open; None when there is none."""
        with contextlib.ExitStack() as stack:
            try:
                directory = stack.enter_context(disk.open_directory(self._root / name))
            except FileNotFoundError:
                directory = None
            yield directory

    @contextlib.contextmanager
    def _sentence(self, name: str, done: str) -> Iterator[None]:
        """Turn what the system refuses into a :class:`StateError` that says what could not be done, where, why, and what to do."""
        if self._closed:
            raise StateError("the state store is closed")
        try:
            yield
        except OSError as error:
            whose = f"state of plugin {name}" if name else "state of the plugins"
            raise StateError(f"{whose} could not be {done} in {self._root / name}: {disk.explain(error)}") from error


# --- one plugin's directory ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _claim(directory: int) -> Iterator[tuple[str, int]]:
    """Own the next free id inside the block, with the descriptor of its temporary file, which is gone afterwards."""
    for _ in range(TURNS):
        snapshot_id = format_id(1 + max((int(known) for known in _ids(directory, _STATE, _CLAIM, _DELETED)), default=0))
        try:
            descriptor = disk.create_locked(snapshot_id + _CLAIM, directory)
        except FileExistsError:
            continue
        if descriptor is None:
            continue
        try:
            # Somebody may have published or deleted this id or a higher one between our look and our claim.
            if all(known < snapshot_id for known in _ids(directory, _STATE, _DELETED)):
                yield snapshot_id, descriptor
                return
        finally:
            try:
                _unlink(snapshot_id + _CLAIM, directory)  # before the lock is let go, else it could be another's by now
            finally:
                os.close(descriptor)
    raise StateError(f"no snapshot id could be claimed in {TURNS} turns: too many writers at once")


def _mark_deleted(snapshot_id: str, directory: int) -> None:
    """Leave the trace that keeps ``id`` from being given again."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileExistsError):
        os.close(os.open(snapshot_id + _DELETED, flags, 0o600, dir_fd=directory))


def _ids(directory: int, *kinds: str) -> tuple[str, ...]:
    found = (_FILE.fullmatch(name) for name in os.listdir(directory))
    return tuple(match[1] for match in found if match and match[2] in kinds)


def _newest_first(directory: int) -> tuple[str, ...]:
    return tuple(sorted(_ids(directory, _STATE), reverse=True))


def _unlink(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_store_name(name: str) -> bool:
    try:
        return store_name(name) == name
    except StateError:
        return False
