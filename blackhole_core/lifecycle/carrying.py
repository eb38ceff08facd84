"""State on its way from one state version to another, and into an instance that has just started."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from blackhole_core.errors import StateError
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.messages import Call
from blackhole_core.registry.candidate import Candidate
from blackhole_core.state.manager import StateManager
from blackhole_core.state.migrate import Step, migrate, plan
from blackhole_core.state.snapshot import Snapshot

__all__ = ["migrated", "plan_by", "restore_newest", "upgraded"]

_Via = Callable[[Call], Any] | None


def plan_by(knowing: Candidate, have: int, want: int) -> tuple[Step, ...]:
    """Return the chain from state version ``have`` to ``want``, as the side that knows the higher version declares it.

    :raises NoMigrationPath: it declares none.
    """
    declared = knowing.manifest.state.migrates if knowing.manifest is not None else None
    return plan(have, want, declared=declared, plugin=knowing.name)


def migrated(data: Any, steps: Sequence[Step], knowing: Instance, seconds: float, via: _Via = None) -> Any:
    """Return ``data`` after all ``steps``, each run by ``knowing`` within ``seconds``.

    :raises StateError: a step failed; the sentence names it.
    """

    def apply(state: Any, step: Step) -> Any:
        if not knowing.takes_part("plugin_migrate_state"):
            raise LookupError(f"plugin {knowing.id} implements no plugin_migrate_state")
        return knowing.bounded_contract(
            "plugin_migrate_state", seconds, via=via, state=state, from_version=step.from_version, to_version=step.to_version
        )

    return migrate(data, steps, apply, plugin=knowing.id.name)


def upgraded(snapshot: Snapshot, instance: Instance, seconds: float, via: _Via = None) -> Any:
    """Return the data of ``snapshot`` in the state version of ``instance``, which alone can be asked.

    :raises StateError: it is of a newer state version, or no migration leads here.
    """
    if snapshot.state_version > instance.state_version:
        raise StateError(
            f"snapshot {snapshot.id} has state version {snapshot.state_version}, plugin {instance.id} has {instance.state_version} "
            "and cannot know a newer one; swap to the version that wrote it first"
        )
    steps = plan_by(instance.candidate, snapshot.state_version, instance.state_version)
    return migrated(snapshot.data, steps, instance, seconds, via)


def restore_newest(instance: Instance, states: StateManager, emit: Callable[..., object], seconds: float, via: _Via = None) -> float | None:
    """Give an instance that serves nobody yet the newest whole snapshot of its plugin, and tell and return how old it is, seconds; None when it got none.

    A snapshot that it cannot read is passed over with an event: it then starts without state.

    :raises Exception: the plugin refused state of its own version.
    """
    if not instance.takes_part("plugin_import_state"):
        return None
    plugin = instance.id.name
    snapshot = states.latest(plugin)
    if snapshot is None:
        return None
    try:
        data = upgraded(snapshot, instance, seconds, via)
    except StateError as error:
        emit("state.skipped", plugin, snapshot=snapshot.id, reason=str(error))
        return None
    instance.import_state(data, seconds, via)
    age = max(0.0, time.time() - snapshot.created)
    emit("state.restored", plugin, snapshot=snapshot.id, age=age)
    return age
