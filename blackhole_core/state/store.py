"""Where snapshots are kept, as an interface, and the values it speaks in.

Rules every store obeys (tests/conformance/test_state_store.py): an id is given once and never again, also after a delete; ids sort by age; what
``put`` returned is there until it is deleted or ``keep`` newer whole ones exist; a damaged snapshot is listed with its reason and refused by ``get``;
names are compared in their canonical spelling.
"""

from __future__ import annotations

import re
from typing import Final, Protocol, TypeAlias

import attrs

from blackhole_core.errors import SnapshotDamaged, StateError
from blackhole_core.ids import NAME, canonical_name
from blackhole_core.state.snapshot import Draft, Snapshot

__all__ = ["ID", "KEEP", "Latest", "SnapshotInfo", "StateStore", "format_id", "store_name", "unknown_snapshot"]

#: Snapshots kept per plugin: the current one, the one a rollback needs, and a few to look back at.
KEEP: Final = 10

#: Digits of an id: one snapshot a second would fill it after 300 million years, and the text sorts as the number does.
ID_DIGITS: Final = 16
ID: Final = re.compile(rf"[0-9]{{{ID_DIGITS}}}")

#: The newest whole snapshot, or None, and what was wrong with each newer one that had to be passed over, newest first.
Latest: TypeAlias = tuple[Snapshot | None, tuple[SnapshotDamaged, ...]]


@attrs.frozen
class SnapshotInfo:
    """What a list says of one snapshot, without its data.

    ``size`` is in bytes. ``damaged`` is None for a whole one, else the reason, and then nothing but ``id``, ``plugin`` and ``size`` is known.
    """

    id: str
    plugin: str
    size: int
    plugin_version: str | None = None
    state_version: int | None = None
    generation: int | None = None
    created: float | None = None
    reason: str | None = None
    damaged: str | None = None

    @classmethod
    def of(cls, snapshot: Snapshot, size: int) -> SnapshotInfo:
        """Return the facts of a whole snapshot whose file has ``size`` bytes."""
        return cls(
            id=snapshot.id,
            plugin=canonical_name(snapshot.plugin),
            size=size,
            plugin_version=snapshot.plugin_version,
            state_version=snapshot.state_version,
            generation=snapshot.generation,
            created=snapshot.created,
            reason=snapshot.reason,
        )


class StateStore(Protocol):
    """Keeps snapshots. All methods may be called from any thread; after ``close`` each raises :class:`StateError`."""

    def put(self, draft: Draft) -> Snapshot:
        """Keep ``draft`` under a new id. When this returns the snapshot is safe; when it raises :class:`StateError` nothing was kept."""

    def get(self, plugin: str, snapshot_id: str) -> Snapshot:
        """Return one snapshot. Raise :class:`SnapshotDamaged` when it is not whole, :class:`StateError` when there is none."""

    def latest(self, plugin: str) -> Latest:
        """Return the newest whole snapshot and the damage of each newer one."""

    def list(self, plugin: str) -> tuple[SnapshotInfo, ...]:
        """Return the snapshots of ``plugin``, newest first, damaged ones included; empty for an unknown plugin."""

    def delete(self, plugin: str, snapshot_id: str) -> None:
        """Remove one snapshot, whole or damaged. Raise :class:`StateError` when there is none."""

    def plugins(self) -> tuple[str, ...]:
        """Return the canonical names of the plugins that have a snapshot, sorted."""

    def close(self) -> None:
        """Release what the store holds open. Further calls do nothing."""


def store_name(plugin: str) -> str:
    """Return the name a plugin is kept under: letters, digits and ``-`` only, so it is a file name that cannot leave its directory."""
    if not NAME.fullmatch(plugin):
        raise StateError(
            f"{plugin!r} is not a plugin name: wanted 1 to 100 ASCII letters, digits, '.', '_' or '-', beginning and ending with a letter or digit"
        )
    return canonical_name(plugin)


def format_id(number: int) -> str:
    """Return the id of the ``number``-th snapshot. Raise :class:`StateError` when it would no longer sort."""
    if number >= 10**ID_DIGITS:
        raise StateError(
            f"no snapshot id is left after {10**ID_DIGITS - 1}: a file with that number was not made by this store, move it away"
        )
    return f"{number:0{ID_DIGITS}d}"


def unknown_snapshot(plugin: str, snapshot_id: str) -> StateError:
    """Return the error of an id that is not there."""
    return StateError(
        f"plugin {plugin} has no snapshot {snapshot_id!r}: it was deleted, was dropped for newer ones or never existed; "
        "list the plugin's snapshots to see which are there"
    )
