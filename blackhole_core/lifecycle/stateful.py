"""Taking the state of running plugins out of them and giving it back, outside a swap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs

from blackhole_core.errors import StateError
from blackhole_core.hooks.manager import HookManager
from blackhole_core.ids import Isolation
from blackhole_core.lifecycle.carrying import upgraded
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.phase import Phase
from blackhole_core.lifecycle.standstill import FROM_INSIDE, Standstill
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.state.manager import Exported
from blackhole_core.state.plain import plain
from blackhole_core.state.snapshot import Snapshot

__all__ = ["StateCarrier"]

_T = TypeVar("_T")

#: Seconds for which a snapshot that nobody waits for holds new calls back, while those that had begun end.
_STILL: Final = 0.1


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
            data = self._with_no_call(member, instance, lambda: instance.export(member.settings.state_timeout))
            plain(data, what="state")
            return Exported(data, instance.state_version, instance.id.version, instance.generation)

    def keep(self, member: Member, generation: int, save: Callable[[Exported], str]) -> str | None:
        """Save the state of a plugin that serves on, as a duty of the host's own, and return the snapshot's id; None when that instance does not serve now.

        No other operation fails because of it: it waits. Callers are held back only where calls may run beside the export, and then not for long.

        :raises SwapInProgress: an operation is under way.
        :raises StateError: what it gave is not plain data, or calls went on all the time.
        """
        with self.supervisor.claim(member, "a snapshot", in_background=True):
            instance = member.instance
            if instance is None or instance.generation != generation or member.phase is not Phase.RUNNING:
                return None
            if instance.level is not Isolation.NONE and instance.spec.limits.threads == 1:
                data = instance.export(member.settings.state_timeout)  # it runs one thing at a time, and this is one
            else:
                data = self._export_still(member, instance)
            plain(data, what="state")
            # Inside the claim: a swap that came between would save newer state, and this one would pass for the newest.
            return save(Exported(data, instance.state_version, instance.id.version, instance.generation))

    def _export_still(self, member: Member, instance: Instance) -> Any:
        def export(still: Standstill) -> Any:
            if not still.drained(_STILL):
                raise StateError(f"calls of plugin {member.label} that had begun did not end within {_STILL:g} s; it is tried again later")
            return instance.export(member.settings.state_timeout)

        return Standstill(self.hooks, member, instance).during(export)

    def import_snapshot(self, member: Member, snapshot: Snapshot) -> None:
        """Give ``snapshot`` to the running plugin, migrated to its state version.

        :raises NoMigrationPath: it cannot be; nothing was touched.
        :raises StateError: the plugin takes no state, or the snapshot is of a newer state version.
        """
        with self.supervisor.claim(member, "a state import"):
            instance = _running(member)
            if not instance.takes_part("plugin_import_state"):
                raise StateError(f"plugin {instance.id} implements no plugin_import_state, it takes no state")
            data = upgraded(snapshot, instance, member.settings.state_timeout)
            self._with_no_call(member, instance, lambda: instance.import_state(data, member.settings.state_timeout))

    def _with_no_call(self, member: Member, instance: Instance, action: Callable[[], _T]) -> _T:
        """Return what ``action`` returns, made while no call runs."""

        def quietly(still: Standstill) -> _T:
            _await_calls(member, still)
            return action()

        return Standstill(self.hooks, member, instance).during(quietly)


def _running(member: Member) -> Instance:
    if member.instance is None:
        raise StateError(f"plugin {member.label} is not running (phase {member.phase}), it has no state to speak of")
    return member.instance


def _await_calls(member: Member, still: Standstill) -> None:
    if still.waits_for_this_call():
        raise StateError(f"the state of plugin {member.label} was refused: {FROM_INSIDE}")
    if not still.drained(member.settings.drain_timeout):
        raise StateError(f"calls of plugin {member.label} that had begun did not end within {member.settings.drain_timeout:g} s")
