"""The state of plugins as the host sees it: save, find, restore, carry to and from single files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import attrs

from blackhole_core.ids import canonical_name
from blackhole_core.state.snapshot import STATE_CAP, Draft, Snapshot
from blackhole_core.state.store import SnapshotInfo, StateStore
from blackhole_core.state.transfer import dump_file, load_file

__all__ = ["Exported", "Report", "StateManager"]


@attrs.frozen
class Exported:
    """What a plugin gave when asked for its state, and what it was then."""

    data: Any = attrs.field(repr=False)
    state_version: int
    plugin_version: str | None = None
    generation: int = 0


@attrs.frozen
class Report:
    """What became of each plugin: the id of the snapshot saved or restored, or why it failed, or that there was nothing to do."""

    done: Mapping[str, str] = attrs.field(factory=dict)
    failed: Mapping[str, Exception] = attrs.field(factory=dict)
    without: tuple[str, ...] = ()  #: plugins that have no state, or no snapshot

    @property
    def ok(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        lines = [f"{len(self.done)} done, {len(self.failed)} failed, {len(self.without)} without state"]
        lines.extend(f"{plugin}: {error}" for plugin, error in self.failed.items())
        return "\n".join(lines)


def _ignore(name: str, plugin: str = "", **data: Any) -> None:
    """Tell nobody."""


class StateManager:
    """Saves and finds the state of plugins in one store.

    ``clock`` gives seconds of the wall clock; ``emit`` takes an event's name, the plugin and its facts, as
    :meth:`~blackhole_core.events.EventBus.emit` does. It holds nothing itself, so any thread may use it; ``close`` closes the store.
    """

    def __init__(self, store: StateStore, *, clock: Callable[[], float] = time.time, emit: Callable[..., object] = _ignore) -> None:
        self._store = store
        self._clock = clock
        self._emit = emit
        self._created: dict[str, float] = {}  # of the newest snapshot saved here, for :meth:`age`: a store may have to read whole files

    def __repr__(self) -> str:
        return f"<StateManager on {self._store!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def save(self, plugin: str, *, plugin_version: str | None, state_version: int, generation: int, reason: str, data: Any) -> Snapshot:
        """Keep ``data`` as the newest snapshot of ``plugin``. Raise :class:`StateError` when it is not plain or cannot be kept."""
        snapshot = self._store.put(Draft(plugin, plugin_version, state_version, generation, float(self._clock()), reason, data))
        self._created[canonical_name(plugin)] = snapshot.created
        return snapshot

    def latest(self, plugin: str) -> Snapshot | None:
        """Return the newest whole snapshot; each damaged one passed over is told as event ``state.damaged`` (path, reason)."""
        snapshot, damage = self._store.latest(plugin)
        for error in damage:
            self._emit("state.damaged", plugin, path=str(error.path), reason=error.reason)
        return snapshot

    def age(self, plugin: str) -> float | None:
        """Return how many seconds ago the newest whole snapshot of ``plugin`` was taken, by the wall clock; None when there is none."""
        created = self._created.get(canonical_name(plugin))
        if created is None:
            created = next((info.created for info in self._store.list(plugin) if info.created is not None), None)
        return None if created is None else max(0.0, self._clock() - created)

    def get(self, plugin: str, snapshot_id: str) -> Snapshot:
        """Return one snapshot. Raise :class:`SnapshotDamaged`, or :class:`StateError` when there is none of that id."""
        return self._store.get(plugin, snapshot_id)

    def versions(self, plugin: str) -> tuple[SnapshotInfo, ...]:
        """Return the snapshots of ``plugin``, newest first, damaged ones with their reason."""
        return self._store.list(plugin)

    def plugins(self) -> tuple[str, ...]:
        """Return the canonical names of the plugins that have snapshots."""
        return self._store.plugins()

    def delete(self, plugin: str, snapshot_id: str) -> None:
        """Remove one snapshot for good. Raise :class:`StateError` when there is none of that id."""
        self._store.delete(plugin, snapshot_id)
        self._created.pop(canonical_name(plugin), None)  # it may have been the newest

    def snapshot_all(self, exporters: Mapping[str, Callable[[], Exported | None]], *, reason: str = "manual") -> Report:
        """Ask every plugin for its state and keep it. One that fails is reported and stops no other; None means it has no state."""

        def save(plugin: str) -> str | None:
            exported = exporters[plugin]()
            if exported is None:
                return None
            facts = attrs.asdict(exported, recurse=False)
            return self.save(plugin, **facts, reason=reason).id

        return _each(exporters, save)

    def restore_all(self, importers: Mapping[str, Callable[[Snapshot], None]]) -> Report:
        """Give every plugin its newest whole snapshot. One that fails is reported and stops no other."""

        def restore(plugin: str) -> str | None:
            snapshot = self.latest(plugin)
            if snapshot is None:
                return None
            importers[plugin](snapshot)
            return snapshot.id

        return _each(importers, restore)

    def dump_file(self, snapshot: Snapshot, path: Path, *, limit: int = STATE_CAP) -> None:
        """Write ``snapshot`` to a file of its own, replacing ``path`` in one step. ``limit`` is the most bytes its state may have."""
        dump_file(snapshot, path, limit=limit)

    def load_file(self, path: Path, plugin: str, *, limit: int = STATE_CAP) -> Snapshot:
        """Return the snapshot of ``plugin`` in a file from :meth:`dump_file`. It is not in the store until it is saved."""
        return load_file(path, plugin, limit=limit)

    def close(self) -> None:
        """Close the store."""
        self._store.close()


def _each(plugins: Mapping[str, object], act: Callable[[str], str | None]) -> Report:
    done: dict[str, str] = {}
    failed: dict[str, Exception] = {}
    without: list[str] = []
    for plugin in plugins:
        try:
            done_id = act(plugin)
        except Exception as error:
            failed[plugin] = error
        else:
            if done_id is None:
                without.append(plugin)
            else:
                done[plugin] = done_id
    return Report(done, failed, tuple(without))
