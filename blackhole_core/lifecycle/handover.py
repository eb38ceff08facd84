"""What happens to a plugin's state behind the closed gate of a swap: drain, export, migrate, import.

A hand-over changes nothing that the old version needs: it may be abandoned at any point, and the old one goes on with the state
it never lost.
"""

from __future__ import annotations

import time
from typing import Any

import attrs

from blackhole_core.errors import CallTimeout
from blackhole_core.executor.wire.plain import encode_plain
from blackhole_core.lifecycle.carrying import migrated
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.settings import Settings
from blackhole_core.lifecycle.standstill import Standstill
from blackhole_core.state.manager import StateManager
from blackhole_core.state.migrate import Step
from blackhole_core.state.plain import plain
from blackhole_core.state.snapshot import Snapshot

__all__ = ["Drained", "Handover"]


@attrs.frozen
class Drained:
    """How long a swap waits for calls that had begun, seconds, and whether it goes on without them."""

    timeout: float
    force: bool


@attrs.define(eq=False)
class Handover:
    """The state of one swap on its way. Used once, by the thread that swaps."""

    old: Instance
    settings: Settings
    states: StateManager
    steps: tuple[Step, ...] = ()
    drain_seconds: float = 0.0
    migrate_seconds: float = 0.0
    state_bytes: int | None = None
    snapshot: Snapshot | None = None  #: what the old version gave, as it was kept
    done: bool = False  #: whether the new version has taken state over
    given: Any = None  #: what it took

    def export(self, still: Standstill, drain: Drained) -> Any:
        """Drain the old version and return its state, kept as a snapshot as well.

        :raises TimeoutError: calls that had begun did not end in time.
        """
        self._drain(still, drain)
        data = self.old.export(self.settings.state_timeout)
        plain(data, what="state")
        self.state_bytes = len(encode_plain(data))
        self.snapshot = self.keep(self.old, data)
        return data

    def _drain(self, still: Standstill, drain: Drained) -> None:
        begun = time.monotonic()
        told = self._tell_old(drain.timeout)
        drained = still.drained(max(0.0, drain.timeout - (time.monotonic() - begun))) and told
        self.drain_seconds = time.monotonic() - begun
        if not drained and not drain.force:
            raise TimeoutError(f"calls that had begun did not end within {drain.timeout:g} s (force=True goes on without them)")

    def _tell_old(self, seconds: float) -> bool:
        """Tell the old version that it ends; False when it has no thread free for that: a call keeps them all."""
        try:
            self.old.bounded_contract("plugin_prepare_shutdown", seconds)
        except CallTimeout:
            return False
        return True

    def migrate(self, data: Any, new: Instance) -> Any:
        """Return ``data`` in the state version of ``new``; the side with the higher version does it."""
        knowing = new if new.state_version > self.old.state_version else self.old
        begun = time.monotonic()
        try:
            return migrated(data, self.steps, knowing, self.settings.state_timeout)
        finally:
            self.migrate_seconds = time.monotonic() - begun

    def give(self, data: Any, new: Instance) -> None:
        """Let the new version take ``data`` over."""
        new.import_state(data, self.settings.state_timeout)
        self.given, self.done = data, True

    def keep(self, instance: Instance, data: Any) -> Snapshot:
        """Save ``data`` as the newest snapshot, as state of ``instance``."""
        return self.states.save(
            instance.id.name,
            plugin_version=instance.id.version,
            state_version=instance.state_version,
            generation=instance.generation,
            reason="swap",
            data=data,
        )
