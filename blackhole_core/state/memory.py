"""Snapshots in this process's memory: for hosts that need swap and rollback but nothing after their own end, and for tests.

They are kept encoded, exactly as a file would hold them, so nobody can change a snapshot by changing the data it was made from.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from blackhole_core.errors import SnapshotDamaged, StateError
from blackhole_core.state.snapshot import STATE_CAP, Draft, Snapshot, decode, encode
from blackhole_core.state.store import KEEP, Latest, SnapshotInfo, format_id, store_name, unknown_snapshot

__all__ = ["MemoryStateStore"]

_PLACE: Final = Path("<memory>")  # what an error names as the file


class MemoryStateStore:
    """A :class:`~blackhole_core.state.store.StateStore` that ends with the process. Keeps the newest ``keep`` of each plugin."""

    def __init__(self, *, keep: int = KEEP, limit: int = STATE_CAP) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._keep = keep
        self._limit = limit
        # Invariant under the lock: each inner dict is in order of age, oldest first, and `_issued` is at least its highest number.
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, bytes]] = {}
        self._issued: dict[str, int] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryStateStore of {len(self._kept)} plugins{', closed' if self._closed else ''}>"

    def put(self, draft: Draft) -> Snapshot:
        name = store_name(draft.plugin)
        with self._lock:
            self._check_open()
            number = self._issued.get(name, 0) + 1
            self._issued[name] = number
        snapshot = draft.as_snapshot(format_id(number))
        data = encode(snapshot, limit=self._limit)
        with self._lock:
            self._check_open()
            kept = {**self._kept.get(name, {}), snapshot.id: data}
            self._kept[name] = dict(sorted(kept.items())[-self._keep :])  # memory does not rot: the newest are the newest whole ones
        return snapshot

    def get(self, plugin: str, snapshot_id: str) -> Snapshot:
        name = store_name(plugin)
        with self._lock:
            self._check_open()
            data = self._kept.get(name, {}).get(snapshot_id)
        if data is None:
            raise unknown_snapshot(plugin, snapshot_id)
        return self._decode(name, snapshot_id, data)

    def latest(self, plugin: str) -> Latest:
        name = store_name(plugin)
        damage: list[SnapshotDamaged] = []
        for snapshot_id, data in self._newest_first(name):
            try:
                return self._decode(name, snapshot_id, data), tuple(damage)
            except SnapshotDamaged as error:
                damage.append(error)
        return None, tuple(damage)

    def list(self, plugin: str) -> tuple[SnapshotInfo, ...]:
        name = store_name(plugin)
        return tuple(self._info(name, snapshot_id, data) for snapshot_id, data in self._newest_first(name))

    def delete(self, plugin: str, snapshot_id: str) -> None:
        name = store_name(plugin)
        with self._lock:
            self._check_open()
            if self._kept.get(name, {}).pop(snapshot_id, None) is None:
                raise unknown_snapshot(plugin, snapshot_id)

    def plugins(self) -> tuple[str, ...]:
        with self._lock:
            self._check_open()
            return tuple(sorted(name for name, kept in self._kept.items() if kept))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._kept.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise StateError("the state store is closed")

    def _newest_first(self, name: str) -> tuple[tuple[str, bytes], ...]:
        with self._lock:
            self._check_open()
            return tuple(reversed(self._kept.get(name, {}).items()))

    def _decode(self, name: str, snapshot_id: str, data: bytes) -> Snapshot:
        return decode(data, path=_PLACE / name / snapshot_id, plugin=name, limit=self._limit)

    def _info(self, name: str, snapshot_id: str, data: bytes) -> SnapshotInfo:
        try:
            return SnapshotInfo.of(self._decode(name, snapshot_id, data), len(data))
        except SnapshotDamaged as error:
            return SnapshotInfo(snapshot_id, name, len(data), damaged=error.reason)
