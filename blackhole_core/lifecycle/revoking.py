"""Taking permissions from a plugin that runs: what stops at once, what takes a new worker, and what is left to the operator.

What the host does on behalf of a worker (its relay for the network) asks for what is in effect each time, so it stops at once. Walls that the kernel holds
cannot be moved from outside, and not made narrower by the worker without trusting it: the plugin is swapped for itself behind new ones, with its
state and without losing a call. A plugin that *needs* what was revoked could not start again; ending it is the operator's decision, because others may need
it, so it goes on and the operator is told what remains open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from blackhole_core.errors import SwapFailed, SwapInProgress
from blackhole_core.ids import canonical_name
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.permits import Permits
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.lifecycle.swap import Swapper, SwapRequest
from blackhole_core.manifest.coverage import lacking
from blackhole_core.registry.candidate import Candidate

__all__ = ["Revocation", "Revoker"]

#: Seconds to wait for another operation on the plugin: what it starts was admitted with the grants of before.
_PATIENCE: Final = 60.0


@attrs.frozen
class Revocation:
    """What was taken from a plugin. ``remains`` is empty when that holds already, else a sentence on what it still can do and until when."""

    plugin: str
    permissions: tuple[str, ...]
    remains: str = ""


@attrs.frozen
class Revoker:
    """Revokes for one host. ``again`` returns a candidate whose code is still what it was."""

    permits: Permits
    supervisor: Supervisor
    swapper: Swapper
    again: Callable[[Candidate], Candidate]
    emit: Callable[..., object]

    def revoke(self, name: str, permissions: Sequence[str]) -> Revocation:
        """Take ``permissions`` away, and from a running plugin as far as that is possible while it runs.

        :raises GrantsError: one cannot be revoked, or the grants cannot be kept; nothing was changed.
        """
        taken = self.permits.revoke(name, permissions)
        if not taken:
            return Revocation(name, ())
        remains = self._narrow(name)
        self.emit("permission.revoked", name, permissions=list(taken), remains=remains)
        return Revocation(name, taken, remains)

    def _narrow(self, name: str) -> str:
        member = next((known for known in self.supervisor.members() if canonical_name(known.name) == canonical_name(name)), None)
        if member is None:
            return ""
        try:
            with self.supervisor.claim(member, "a revocation", patience=_PATIENCE):
                instance, remains = self._confine(member)
            if instance is not None and not remains:
                self.swapper.swap(member, SwapRequest(lambda: self.again(instance.candidate), anew=True))
        except (SwapFailed, SwapInProgress) as error:
            return f"what plugin {member.label} was started with stands until it starts anew, which it could not now: {error}"
        return remains

    def _confine(self, member: Member) -> tuple[Instance | None, str]:
        """Let the grants of now hold for what serves; return the instance if its walls have to be built anew, and what remains if they cannot be."""
        instance = member.instance
        if instance is None:
            return None, ""
        granted = self.permits.granted(member.name, instance.candidate)
        now = member.settings.confinement_for(instance.candidate, granted)
        had = instance.confinement.effective
        instance.confine(
            now
        )  # in any case: an address that was granted beside a name opens where that leads to, and is not in effect by itself
        if set(now.effective) == set(had):
            return None, ""
        if not instance.has_walls:
            return (
                None,
                f"plugin {instance.id} runs at level {instance.level} without walls: nothing keeps it from what it has no permission for",
            )
        manifest = instance.candidate.manifest
        if manifest is not None and lacking(manifest.permissions, granted):
            remains = f"plugin {instance.id} needs what was revoked and could not start anew; its walls stand until: blackhole unload {member.name}"
            return instance, remains
        return instance, ""
