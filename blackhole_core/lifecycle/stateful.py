"""Taking the state of running plugins out of them and giving it back, outside a swap."""

from __future__ import annotations

from typing import Any

import attrs

from blackhole_core.errors import StateError
from blackhole_core.hooks.manager import HookManager
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.standstill import Standstill
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.state.manager import Exported
from blackhole_core.state.migrate import Step, migrate, plan
from blackhole_core.state.plain import plain
from blackhole_core.state.snapshot import Snapshot

__all__ = ["StateCarrier"]


@attrs.frozen
class StateCarrier:
    """Exports and imports state while the plugin stands still, so that a snapshot is never torn by a call."""

    supervisor: Supervisor
    hooks: HookManager

    def export(self, member: Member) -> Exported | None:
        """Return the plugin's state, None when it has none.

        :raises StateError: what it gave is not plain data, or calls that had begun did not end in time.
        """
        with self.supervisor.claim(member, "a state export"):
            instance = _running(member)
            if not instance.takes_part("plugin_export_state"):
                return None
            with Standstill(self.hooks, member, instance) as still:
                _await_calls(member, still)
                data = instance.export(member.settings.state_timeout)
            plain(data, what="state")
            return Exported(data, instance.state_version, instance.id.version, instance.generation)

    def import_snapshot(self, member: Member, snapshot: Snapshot) -> None:
        """Give ``snapshot`` to the running plugin, migrated to its state version.

        :raises NoMigrationPath: it cannot be; nothing was touched.
        :raises StateError: the plugin takes no state, or it was made by another plugin.
        """
        with self.supervisor.claim(member, "a state import"):
            instance = _running(member)
            if not instance.takes_part("plugin_import_state"):
                raise StateError(f"plugin {instance.id} implements no plugin_import_state, it takes no state")
            data = _migrated(instance, snapshot, member.settings.state_timeout)
            with Standstill(self.hooks, member, instance) as still:
                _await_calls(member, still)
                instance.import_state(data, member.settings.state_timeout)


def _running(member: Member) -> Instance:
    if member.instance is None:
        raise StateError(f"plugin {member.label} is not running (phase {member.phase}), it has no state to speak of")
    return member.instance


def _await_calls(member: Member, still: Standstill) -> None:
    if still.waits_for_this_call():
        raise StateError(
            f"the state of plugin {member.label} was asked for from inside one of its own calls, which would have to end first"
        )
    if not still.drained(member.settings.drain_timeout):
        raise StateError(f"calls of plugin {member.label} that had begun did not end within {member.settings.drain_timeout:g} s")


def _migrated(instance: Instance, snapshot: Snapshot, seconds: float) -> Any:
    manifest = instance.candidate.manifest
    declared = manifest.state.migrates if manifest is not None else None
    steps = plan(snapshot.state_version, instance.state_version, declared=declared, plugin=instance.id.name)

    def apply(data: Any, step: Step) -> Any:
        return instance.bounded_contract(
            "plugin_migrate_state", seconds, state=data, from_version=step.from_version, to_version=step.to_version
        )

    if steps and (steps[0].to_version < steps[0].from_version or not instance.takes_part("plugin_migrate_state")):
        raise StateError(
            f"the snapshot has state version {snapshot.state_version}, plugin {instance.id} has {instance.state_version} and cannot migrate it"
        )
    return migrate(snapshot.data, steps, apply, plugin=instance.id.name)
