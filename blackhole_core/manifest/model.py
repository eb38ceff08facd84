"""What a plugin declares about itself, as frozen values. No rule is here: see :mod:`~blackhole_core.manifest.check`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from blackhole_core.ids import Isolation, PluginId

__all__ = ["Container", "Dependency", "Manifest", "Resources", "SnapshotPolicy", "StateDeclaration", "VirtualMachine"]


@attrs.frozen
class Dependency:
    """Another plugin this one needs. ``version`` is a PEP 440 range such as ``>=1.2,<2``; empty means any."""

    name: str
    version: str = ""
    optional: bool = False


@attrs.frozen
class Resources:
    """What the plugin may use; ``None`` means no limit was declared."""

    cpu: float | None = None  #: percent of one core
    memory: float | None = None  #: MB
    disk: float | None = None  #: MB
    network: float | None = None  #: Mbps
    pids: int | None = None  #: processes and threads


@attrs.frozen
class SnapshotPolicy:
    """When the host saves the plugin's state by itself, beside what swaps and operators do."""

    every: float | None = None  #: seconds between two snapshots; None = not by the clock
    on_change: bool = False  #: when the plugin says that its state changed


@attrs.frozen
class Container:
    """What a container of the plugin is to be; None: the host decides."""

    runtime: str | None = None  #: the engine that runs it
    image: str | None = None  #: what is in it beside the plugin


@attrs.frozen
class VirtualMachine:
    """What a virtual machine of the plugin is to be; None: as if the key were not there."""

    spare: bool | None = None  #: whether another one stands by, for when this one dies


@attrs.frozen
class StateDeclaration:
    """The schema version of the plugin's own data; a new version of the plugin with another number needs a migration."""

    version: int = 1
    migrates: tuple[int, ...] | None = None  #: other versions its migration reads and writes; None = not said, ask it
    snapshot: SnapshotPolicy | None = None


@attrs.frozen
class Manifest:
    """A checked ``plugin.yaml``. Field for field what the author wrote, defaults filled in."""

    name: str
    version: str
    description: str = ""
    author: str = ""
    license: str = ""
    capabilities: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()  #: what it asks to touch, as it is written; without one of them it does not start
    optional_permissions: tuple[str, ...] = ()  #: what it asks for and can do without
    resources: Resources = Resources()
    isolation: Isolation = Isolation.PROCESS
    container: Container = Container()
    vm: VirtualMachine = VirtualMachine()
    dependencies: tuple[Dependency, ...] = ()
    config: Mapping[str, Any] = attrs.field(factory=dict)
    config_schema: Mapping[str, Any] | None = None
    state: StateDeclaration = StateDeclaration()
    threads: int = 1  #: calls that may run at once at levels thread and process
    timeout: float | None = None  #: seconds a caller waits for one call; None = the host's default
    entry: str | None = None  #: "module:attribute" of the plugin object, for a source without entry points
    extensions: Mapping[str, Any] = attrs.field(factory=dict)  #: the author's own ``x-…`` keys

    @property
    def id(self) -> PluginId:
        return PluginId(self.name, self.version)
