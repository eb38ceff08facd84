"""``pm.plugin("x")``: what a host sees of one plugin. A handle names the plugin, not a version: it stays right across swaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from blackhole_core.errors import StateError
from blackhole_core.executor.limits.usage import Usage
from blackhole_core.executor.remote import RemoteRunner
from blackhole_core.hooks.callstats import PluginCalls
from blackhole_core.ids import Isolation, PluginId
from blackhole_core.lifecycle.grants import Permissions
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.phase import Phase
from blackhole_core.manifest.model import Resources

if TYPE_CHECKING:
    from blackhole_core.executor.spare import SpareFacts

__all__ = ["Plugin", "Usage"]


class Plugin:
    """The live view of one plugin."""

    __slots__ = ("_calls_of", "_member", "_permissions_of", "_snapshot_age")

    def __init__(
        self,
        member: Member,
        calls_of: Callable[[str], PluginCalls | None],
        snapshot_age: Callable[[str], float | None],
        permissions_of: Callable[[Member], Permissions],
    ) -> None:
        self._member = member
        self._calls_of = calls_of
        self._snapshot_age = snapshot_age
        self._permissions_of = permissions_of

    @property
    def _remote(self) -> RemoteRunner | None:
        """What runs it, at the levels with a worker."""
        instance = self._member.instance
        return instance.runner if instance is not None and isinstance(instance.runner, RemoteRunner) else None

    @property
    def name(self) -> str:
        return self._member.name

    @property
    def id(self) -> PluginId:
        """Name and version of what runs, or else of what was last tried."""
        member = self._member
        instance = member.instance  # once: another thread may unload it between two looks
        if instance is not None:
            return instance.id
        return member.candidate.id if member.candidate is not None else PluginId(member.name)

    @property
    def version(self) -> str | None:
        return self.id.version

    @property
    def phase(self) -> Phase:
        return self._member.phase

    @property
    def isolation(self) -> Isolation | None:
        """The level it runs at, None when it does not run."""
        instance = self._member.instance
        return instance.level if instance is not None else None

    @property
    def generation(self) -> int | None:
        """Number of the instance that serves; counts up with every one that was started under this name. None when it does not run."""
        instance = self._member.instance
        return instance.generation if instance is not None else None

    @property
    def restarts(self) -> int:
        """How often its worker was started again after a death."""
        return self._member.restarts

    @property
    def pid(self) -> int | None:
        """Process id of its worker, None at the levels without one and while it is being restarted."""
        remote = self._remote
        return remote.pid if remote is not None else None

    @property
    def transport(self) -> str | None:
        """How calls reach its worker: ``shared memory``, or ``pipes`` where that is not to be had. None at the levels without a worker."""
        remote = self._remote
        return remote.facts.transport if remote is not None else None

    @property
    def start(self) -> str | None:
        """How its worker was started: ``zygote`` (forked), or ``exec`` and why so where a zygote was wanted. None at the levels without a worker."""
        remote = self._remote
        return remote.facts.start_way if remote is not None else None

    @property
    def spare(self) -> SpareFacts | None:
        """The worker that stands by for when the one that serves dies (``vm.spare``): its ``phase``, ``pid``, ``usage``, ``reason``. None where none is wanted."""
        remote = self._remote
        return remote.spare if remote is not None else None

    @property
    def lost_lines(self) -> int | None:
        """How many lines and log records its worker wrote that were not logged, because there were too many. None at the levels without a worker."""
        remote = self._remote
        return remote.facts.lost_lines if remote is not None else None

    @property
    def source(self) -> Path | None:
        """Where its code came from."""
        candidate = self._member.candidate
        return candidate.source if candidate is not None else None

    @property
    def last_error(self) -> BaseException | None:
        """Why it failed or was given up, None when it is well."""
        return self._member.error

    @property
    def usage(self) -> Usage:
        """What it uses now; only a plugin with a process of its own can be measured."""
        remote = self._remote
        return remote.facts.usage if remote is not None else Usage()

    @property
    def limits(self) -> Resources:
        """Its limits: the operator's where he named one, else the manifest's; None where there is none."""
        member = self._member
        instance = member.instance
        if instance is not None:
            return instance.spec.confinement.resources
        return member.settings.confinement_for(member.candidate).resources if member.candidate is not None else Resources()

    @property
    def calls(self) -> PluginCalls | None:
        """How often its hooks were called, failed and how long they took, None as long as ``pm.telemetry`` has not been on."""
        return self._calls_of(self.name)

    @property
    def breaker(self) -> str | None:
        """How its circuit breaker stands: ``closed``, ``open`` (calls are refused) or ``half-open`` (one is tried). None when it has none, or does not run."""
        instance = self._member.instance
        return instance.guard.standing if instance is not None and instance.guard is not None else None

    @property
    def poisoned(self) -> tuple[str, ...]:
        """The calls that are not run any more because they ended worker after worker, as ``hook:digest of the arguments``."""
        remote = self._remote
        return remote.poisoned if remote is not None else ()

    def release_poison(self) -> tuple[str, ...]:
        """Have such calls run again, and return them; nothing at the levels without a worker."""
        remote = self._remote
        return remote.release_poison() if remote is not None else ()

    @property
    def snapshot_age(self) -> float | None:
        """Seconds since its state was last saved: what a worker that dies now would lose. None when no snapshot of it is kept, or the host has closed."""
        try:
            return self._snapshot_age(self.name)
        except StateError:
            return None

    @property
    def permissions(self) -> Permissions:
        """What it asks for, was granted, and has.

        :raises GrantsError: the file of grants cannot be used.
        """
        return self._permissions_of(self._member)

    @property
    def enforcement(self) -> Mapping[str, str]:
        """How each permission that it asks for, and each limit, is enforced: ``kernel``, ``broker``, ``advisory`` or ``none``. Empty when it does not run.

        The keys are permissions in canonical spelling, and ``resources.memory`` and the like.
        """
        instance = self._member.instance
        return instance.runner.enforcement() if instance is not None else {}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON."""
        calls, spare = self.calls, self.spare
        return {
            "name": self.name,
            "version": self.version,
            "phase": self.phase.value,
            "isolation": self.isolation.value if self.isolation is not None else None,
            "generation": self.generation,
            "restarts": self.restarts,
            "pid": self.pid,
            "transport": self.transport,
            "start": self.start,
            "spare": attrs.asdict(spare) if spare is not None else None,
            "lost_lines": self.lost_lines,
            "source": str(self.source) if self.source is not None else None,
            "last_error": str(self.last_error) if self.last_error is not None else None,
            "breaker": self.breaker,
            "poisoned": list(self.poisoned),
            "snapshot_age": self.snapshot_age,
            "usage": attrs.asdict(self.usage),
            "limits": attrs.asdict(self.limits),
            "calls": calls.as_dict() if calls is not None else None,
            "enforcement": dict(self.enforcement),
        }

    def __repr__(self) -> str:
        level = f" at level {self.isolation}" if self.isolation is not None else ""
        return f"<Plugin {self.id} {self.phase}{level}, generation {self.generation}>"
