"""How the operator wants one plugin run. Made by the host's configuration, handed down as a value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from blackhole_core.executor.confinement import Confinement, Sandbox, Unenforced
from blackhole_core.executor.runner import Limits
from blackhole_core.ids import Isolation
from blackhole_core.lifecycle.guard import GuardPolicy
from blackhole_core.lifecycle.restart import RestartPolicy
from blackhole_core.manifest.model import Container, Resources, VirtualMachine
from blackhole_core.registry.candidate import Candidate

__all__ = ["VM_START_TIMEOUT", "Settings"]

#: Seconds that a virtual machine may take to start where the operator said nothing: where QEMU emulates the processor, a boot takes five, and half a
#: minute on a busy machine.
VM_START_TIMEOUT: Final = 120.0


@attrs.frozen
class Settings:
    """One plugin's settings. None means: as the manifest says, or the host's default."""

    isolation: Isolation | None = None
    default_isolation: Isolation = Isolation.NONE  #: for plugins without a manifest
    isolation_fallback: Isolation | None = None  #: the level that will do where the wanted one cannot run
    limits: Limits = Limits()
    call_timeout_set: bool = False  #: whether the operator named a call timeout, which then wins over the manifest's
    threads_set: bool = False  #: likewise for threads
    start_timeout_set: bool = False  #: whether the operator named a start timeout, which else depends on the level
    config: Mapping[str, Any] = attrs.field(factory=dict)
    environment: Mapping[str, str] = attrs.field(factory=dict)
    sandbox: Sandbox = Sandbox.AUTO
    unenforced: Unenforced = Unenforced.REFUSE
    data: Path | None = None  #: the plugin's own directory, which is made when it starts behind walls; None: it has none
    grant: tuple[str, ...] = ()  #: permissions that the configuration grants
    resources: Resources = Resources()  #: limits that the operator named, each of which wins over the manifest's
    container: Container = Container()  #: what the operator said, each key of which wins over the manifest's
    vm: VirtualMachine = VirtualMachine()  #: likewise
    restart: RestartPolicy = RestartPolicy()
    guard: GuardPolicy = GuardPolicy()
    probation: float = 0.0  #: seconds after a swap in which a death brings the version before back; 0: none does, an operator decides
    drain_timeout: float = 10.0  #: seconds a swap waits for calls that had begun, before it aborts (or goes on, with force)
    state_timeout: float = 30.0  #: seconds for each of export, migrate and import

    def level(self, candidate: Candidate) -> Isolation:
        """Return the level ``candidate`` runs at: the operator's word, else the manifest's, else the host's default."""
        if self.isolation is not None:
            return self.isolation
        return candidate.manifest.isolation if candidate.manifest is not None else self.default_isolation

    def limits_for(self, candidate: Candidate, level: Isolation) -> Limits:
        """Return the limits, with the manifest's own, and the level's, where the operator said nothing."""
        manifest = candidate.manifest
        changes: dict[str, Any] = {}
        if level is Isolation.VM and not self.start_timeout_set:
            changes["start_timeout"] = max(self.limits.start_timeout, VM_START_TIMEOUT)
        if manifest is None:
            return attrs.evolve(self.limits, **changes)
        if not self.threads_set:
            changes["threads"] = manifest.threads
        if not self.call_timeout_set and manifest.timeout is not None:
            changes["call_timeout"] = manifest.timeout
        return attrs.evolve(self.limits, **changes)

    def confinement_for(self, candidate: Candidate, granted: tuple[str, ...] | None = None) -> Confinement:
        """Return what confines an instance of ``candidate``: what the manifest asks for, what it is granted, the limits of both sides.

        ``granted`` is what configuration and operator grant together; left out, what the configuration does.
        """
        manifest = candidate.manifest
        declared = manifest.resources if manifest is not None else Resources()
        named = {key: value for key, value in attrs.asdict(self.resources).items() if value is not None}
        return Confinement(
            sandbox=self.sandbox,
            unenforced=self.unenforced,
            requested=(*manifest.permissions, *manifest.optional_permissions) if manifest is not None else (),
            granted=self.grant if granted is None else granted,
            resources=attrs.evolve(declared, **named),
            data=self.data,
        )

    def container_for(self, candidate: Candidate) -> Container:
        """Return what a container of ``candidate`` is to be: the manifest's word, under the operator's."""
        declared = candidate.manifest.container if candidate.manifest is not None else Container()
        return attrs.evolve(declared, **{key: value for key, value in attrs.asdict(self.container).items() if value is not None})

    def vm_for(self, candidate: Candidate) -> VirtualMachine:
        """Return what a virtual machine of ``candidate`` is to be, likewise."""
        declared = candidate.manifest.vm if candidate.manifest is not None else VirtualMachine()
        return declared if self.vm.spare is None else self.vm

    def config_for(self, candidate: Candidate) -> Mapping[str, Any]:
        """Return the plugin's configuration: the manifest's defaults under the operator's values."""
        defaults = candidate.manifest.config if candidate.manifest is not None else {}
        return {**defaults, **self.config}
