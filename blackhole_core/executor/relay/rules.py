"""Which connections one plugin may make. Pure: the model of permissions decides, this file asks it about one connection."""

from __future__ import annotations

from typing import Final

import attrs

from blackhole_core.errors import LoadFailed
from blackhole_core.executor.confinement import Confinement, Sandbox
from blackhole_core.ids import Isolation
from blackhole_core.manifest.coverage import opens
from blackhole_core.manifest.permissions import Permission, parse_permission

__all__ = ["NOTHING", "Rules", "Target", "refuse_listening", "rules_of"]


@attrs.frozen
class Target:
    """Where a plugin wants to connect to: a name or (``literal``) an IP address, in the one spelling that permissions have for it."""

    host: str
    port: int
    literal: bool = False

    @classmethod
    def parse(cls, host: str, port: int) -> Target:
        """Return the target that a worker named.

        :raises ValueError: it names none, or more than one; the message ends a sentence that begins with it.
        """
        permission = parse_permission(f"network:connect:{f'[{host}]' if ':' in host else host}:{port}")
        address = permission.value
        assert permission.action == "connect", "nothing else begins like that"
        if getattr(address, "wildcard", False) or "/" in host:
            raise ValueError("; a connection leads to one host")
        network = getattr(address, "network", None)
        if network is not None:
            return cls(str(network.network_address), port, literal=True)
        return cls(str(address).rpartition(":")[0], port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def permission(self) -> str:
        """The permission that opens it, and nothing else."""
        return f"network:connect:{self}"


@attrs.frozen
class Rules:
    """``given`` is what is in effect for the plugin, ``granted`` what its operator granted: addresses among it may open where a given name leads to."""

    given: tuple[str, ...]
    granted: tuple[str, ...]

    def allows(self, target: Target, address: str | None = None) -> bool:
        """Whether ``target`` may be connected to, at ``address`` if that is known already. What cannot be judged is not allowed."""
        try:
            return opens(self.given, self.granted, target.host, target.port, address)
        except ValueError:
            return False  # an address of one link only (fe80::1%eth0): there is no permission for those


#: For a plugin from which everything was taken.
NOTHING: Final = Rules((), ())


def rules_of(confinement: Confinement, level: Isolation) -> Rules | None:
    """Return the rules of the relay for a worker of ``level`` that is so confined; None where it gets no relay.

    It gets none when nothing of the network is given, nor when it has no walls: then it has the network anyhow.
    """
    if level is Isolation.PROCESS and confinement.sandbox is Sandbox.OFF:
        return None
    given = [text for text in confinement.effective if _connects(parse_permission(text))]
    granted = [text for text in confinement.granted if _connects(parse_permission(text))]
    return Rules(tuple(given), tuple(granted)) if given else None


def refuse_listening(plugin: str, confinement: Confinement, level: Isolation) -> None:
    """Let a plugin pass that is given no permission to listen behind walls: the relay makes connections, and takes none.

    :raises LoadFailed: it is given one.
    """
    if level not in (Isolation.PROCESS, Isolation.CONTAINER, Isolation.VM) or (
        level is Isolation.PROCESS and confinement.sandbox is Sandbox.OFF
    ):
        return
    listening = [text for text in confinement.effective if parse_permission(text).action == "listen"]
    if listening:
        raise LoadFailed(
            plugin,
            f"it was granted {', '.join(listening)}, and this version takes no connections for a plugin behind walls. Run it without (sandbox: off at level process), "
            "or revoke that if the plugin can do without it",
        )


def _connects(permission: Permission) -> bool:
    return permission.area == "network" and permission.action in ("", "connect")
