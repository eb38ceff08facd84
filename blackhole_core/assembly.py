"""Everything behind the front door, put together.

The one place that knows all parts. They are made in the order in which they need each other and closed in reverse.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from blackhole_core.errors import BlackholeError, SourceError, UnknownPlugin
from blackhole_core.executor.levels import Levels
from blackhole_core.executor.runner import Host
from blackhole_core.executor.timers import Timers
from blackhole_core.ids import Isolation, canonical_name
from blackhole_core.lifecycle.dependencies import Dependencies
from blackhole_core.lifecycle.execute import execute
from blackhole_core.lifecycle.grantfile import FileGrants, GrantStore, MemoryGrants
from blackhole_core.lifecycle.grants import Permissions
from blackhole_core.lifecycle.handle import Plugin
from blackhole_core.lifecycle.instance import Instance, start_instance
from blackhole_core.lifecycle.loading import Loader, LoadReport
from blackhole_core.lifecycle.permits import Permits
from blackhole_core.lifecycle.probation import Outdated, go_back
from blackhole_core.lifecycle.revoking import Revoker
from blackhole_core.lifecycle.snapshots import SnapshotKeeper
from blackhole_core.lifecycle.specs import SpecBook
from blackhole_core.lifecycle.stateful import StateCarrier
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.lifecycle.swap import Swapper, SwapRequest
from blackhole_core.registry.candidate import Candidate, Origin
from blackhole_core.registry.registry import PluginRegistry
from blackhole_core.registry.source import select
from blackhole_core.registry.store import WheelStore
from blackhole_core.scratch import Scratch
from blackhole_core.state.manager import Exported, StateManager

if TYPE_CHECKING:
    from blackhole_core.config import HostConfig
    from blackhole_core.executor.auditor import Auditor
    from blackhole_core.hooks.manager import HookManager
    from blackhole_core.lifecycle.member import Member
    from blackhole_core.lifecycle.reloading import Reloader
    from blackhole_core.lifecycle.report import SwapReport
    from blackhole_core.state.manager import Report
    from blackhole_core.state.snapshot import Snapshot
    from blackhole_core.state.store import StateStore

__all__ = ["Parts"]

#: Seconds a reload waits for another operation on its plugin. A saved file must not be forgotten because somebody was swapping by hand.
_RELOAD_PATIENCE: Final = 60.0


class Parts:
    """The machinery of one manager."""

    def __init__(
        self, hooks: HookManager, config: HostConfig, state_dir: Path | None, default_isolation: Isolation, emit: Callable[..., object]
    ) -> None:
        if state_dir is None and config.state_dir is not None:
            state_dir = config.path(config.state_dir)
        self._hooks = hooks
        self._config = config
        self._default_isolation = default_isolation
        self.emit = emit
        self._reloader: Reloader | None = None
        self._stack = contextlib.ExitStack()
        try:
            self._assemble(hooks, state_dir)
        except BaseException:
            self._stack.close()
            raise

    def _assemble(self, hooks: HookManager, state_dir: Path | None) -> None:
        specs = SpecBook(hooks)
        self._scratch = Scratch()
        self._stack.callback(self._scratch.close)
        self.timers = Timers()
        self._stack.callback(self.timers.close)
        self._data = None if state_dir is None else state_dir / "data"
        self.registry = self._make_registry(hooks.project_name, state_dir)
        self.states = StateManager(_make_store(state_dir, self._config.keep_snapshots), emit=self.emit)
        self._stack.callback(self.states.close)
        self._host = Host(
            hook=hooks.hook,
            signature=specs.signature,
            hook_names=specs.names,
            is_firstresult=specs.is_firstresult,
            exception_type=specs.exception_type,
            timers=self.timers,
            emit=self.emit,
            auditor=self._make_auditor(),
            scratch=self._scratch,
        )
        self._levels = Levels(self._host, zygote=self._config.zygote != "off")
        self._stack.callback(self._levels.close)
        if self._config.zygote == "ahead":
            self._levels.warm()
        self.supervisor = Supervisor(self.timers, self.states, self.emit)
        self._stack.callback(self.supervisor.close)
        self.permits = Permits(_make_grants(state_dir), lambda name: self._config.plugin(name).grant, self.emit)
        self.loader = Loader(self.supervisor, self.registry, hooks, self.emit, self._start, self.permits.permit)
        self._stack.callback(self.loader.unload_all)
        self.swapper = Swapper(self.supervisor, hooks, self.states, self.emit, self._start, self.loader.admit, self._as_granted)
        self.revoker = Revoker(self.permits, self.supervisor, self.swapper, self.registry.again, self.emit)
        self.carrier = StateCarrier(self.supervisor, hooks)
        keeper = SnapshotKeeper(self.timers, self._keep_state, self.states.delete, self.supervisor.on_duty, self.emit)
        self.supervisor.on_serving, self.supervisor.on_release = keeper.begin, keeper.end
        self.supervisor.on_failed_probation = self._fail_probation
        self.supervisor.on_change = Dependencies(self.loader.dependants_of, self.supervisor.on_duty, self.emit).changed

    def _make_auditor(self) -> Auditor | None:
        if not self._config.audit:
            return None
        from blackhole_core.executor.auditor import Auditor

        auditor = Auditor(self.emit)
        self._stack.callback(auditor.close)
        return auditor

    def _make_registry(self, group: str, state_dir: Path | None) -> PluginRegistry:
        if state_dir is None:
            root = self._scratch.new("store")
        else:
            root = state_dir / "store"
        registry = PluginRegistry(group, store=WheelStore(root), allow=self._config.allow, deny=self._config.deny)
        for source in self._config.sources:
            registry.add_source(self._config.path(source))
        for said in self._config.plugins.values():
            if said.source is not None:
                registry.add_source(self._config.path(said.source))
        return registry

    # --- plugins -----------------------------------------------------------------------------------------------------

    def label_of(self, plugin_name: str) -> str | None:
        """Return how failures of a plugin at level none are labelled; None for every other: a runner labels its own."""
        member = next((known for known in self.supervisor.running() if known.name == plugin_name), None)
        instance = member.instance if member is not None else None
        return str(instance.id) if instance is not None and instance.level is Isolation.NONE else None

    def enrol(self, name: str) -> Member:
        settings = self._config.settings(name, self._default_isolation)
        if self._data is not None:
            settings = attrs.evolve(settings, data=self._data / canonical_name(name))
        return self.supervisor.enrol(name, settings)

    def find(self, name: str, version: str | None, source: Path | str | None) -> Candidate:
        """Find a plugin; a source that is named is searched alone, and remembered. Where nothing is named, the operator's word counts."""
        if source is None and version is None:
            said = self._config.plugin(name)
            version, source = said.version, None if said.source is None else self._config.path(said.source)
        if source is None:
            return self.registry.find(name, version=version)
        candidate = self.registry.find(name, version=version, source=source)
        self.registry.add_source(source)
        return candidate

    def _start(self, member: Member, candidate: Candidate, isolation: Isolation | None, imported: tuple[str, ...] = ()) -> Instance:
        member.started += 1
        return start_instance(
            candidate,
            member.started,
            member.settings,
            self._host,
            self._levels.make,
            isolation=isolation,
            project=self._hooks.project_name,
            imported=imported,
            granted=self.permits.granted(member.name, candidate),
        )

    def handle(self, name: str) -> Plugin:
        return self._handle(self.supervisor.member(name))

    def handles(self) -> tuple[Plugin, ...]:
        return tuple(self._handle(member) for member in self.supervisor.members())

    def _handle(self, member: Member) -> Plugin:
        return Plugin(member, self._hooks.telemetry.plugin, self.states.age, self._permissions)

    def load(self, name: str, source: Path | str | None, version: str | None, isolation: Isolation | None) -> Plugin:
        try:
            candidate = self.find(name, version, source)
        except UnknownPlugin:
            raise
        except BlackholeError as error:
            self.loader.note_failure(self.enrol(name), error)
            raise
        member = self.enrol(candidate.name)
        self.loader.load(member, candidate, isolation)
        return self._handle(member)

    def unload(self, name: str) -> None:
        self.loader.unload(self.supervisor.member(name))

    def execute(self, name: str, method: str | None, params: Mapping[str, Any] | None, data: bytes) -> Any:
        return execute(self.supervisor.member(name), method, params, data)

    def load_all(self) -> LoadReport:
        if self._config.safe_mode:
            self.emit("host.safe_mode")
            return LoadReport()
        self.registry.refresh()
        return self.loader.load_all(self._choose, self.enrol)

    def _choose(self, name: str, found: tuple[Candidate, ...]) -> Candidate | None:
        """Return the version to load of a plugin that was found, None when the operator does not want it."""
        said = self._config.plugin(name)
        if not said.enabled:
            return None
        if said.source is not None:
            return self.registry.find(name, version=said.version, source=self._config.path(said.source))
        return select(found, name, said.version)

    # --- swap --------------------------------------------------------------------------------------------------------

    def swap(
        self, name: str, source: Path | str | None, version: str | None, isolation: Isolation | None, *, timeout: float | None, force: bool
    ) -> SwapReport:
        member = self.supervisor.member(name)
        return self.swapper.swap(member, SwapRequest(lambda: self.find(member.name, version, source), isolation, timeout, force))

    def reload(self, name: str, *, patience: float = 0.0, confirm: Callable[[], None] | None = None) -> SwapReport | None:
        """Swap a plugin to what stands at its own source now, and those that depend on it with it; load it if it is not running.

        ``confirm`` raises when what was loaded for a swap is not wanted any more.
        """
        member = self.supervisor.member(name)
        source = _source_of(member.candidate)
        if member.instance is None:
            self.load(member.name, source, None, member.isolation)
            return None
        dependants = [(other, self._anew(other, patience)) for other in self.loader.dependants_of(member)]
        request = SwapRequest(lambda: self.find(member.name, None, source), patience=patience, confirm=confirm)
        return self.swapper.swap(member, request, *dependants)

    def _anew(self, member: Member, patience: float) -> SwapRequest:
        """Return the request for a plugin that is started anew because one that it depends on changes."""
        source = _source_of(member.candidate)
        return SwapRequest(lambda: self.find(member.name, None, source), patience=patience, anew=True)

    def _fail_probation(self, member: Member, instance: Instance, how: str) -> None:
        def confirm() -> None:
            if member.instance is not instance:
                raise Outdated

        def rollback() -> SwapReport:
            return self.rollback(member.name, force=True, patience=_RELOAD_PATIENCE, rolled_back=reason, confirm=confirm)

        reason = f"{instance.id} died within its probation of {member.settings.probation:g} s: {how}"
        self.supervisor.on_duty(f"probation-{member.name}", lambda: go_back(member, instance.generation, reason, rollback, self.emit))

    def rollback(
        self, name: str, *, force: bool, patience: float = 0.0, rolled_back: str | None = None, confirm: Callable[[], None] | None = None
    ) -> SwapReport:
        member = self.supervisor.member(name)
        previous = member.previous

        def find() -> Candidate:
            if previous is None:
                raise SourceError(f"plugin {member.label} was not swapped since it was loaded, there is nothing to roll back to")
            return self.registry.again(previous.candidate)

        if previous is None or previous.snapshot is None:
            fallback = None
        else:
            fallback = functools.partial(self.states.get, member.name, previous.snapshot)
        isolation = previous.isolation if previous is not None else None
        request = SwapRequest(find, isolation, force=force, fallback=fallback, patience=patience, rolled_back=rolled_back, confirm=confirm)
        return self.swapper.swap(member, request)

    def watch(self, names: tuple[str, ...]) -> None:
        if self._reloader is None:
            from blackhole_core.lifecycle.reloading import Reloader  # watchfiles is only for who watches

            self._reloader = Reloader(functools.partial(self.reload, patience=_RELOAD_PATIENCE), self.unload, self.emit)
            self._stack.callback(self._reloader.close)
        for member in [self.supervisor.member(name) for name in names] or self._changeable():
            if member.candidate is None:
                raise UnknownPlugin(member.name)
            self._reloader.watch(member.name, member.candidate)

    def _changeable(self) -> list[Member]:
        """Return the running plugins whose source can change."""
        return [
            member for member in self.supervisor.running() if member.candidate is not None and member.candidate.origin is not Origin.WHEEL
        ]

    # --- permissions -------------------------------------------------------------------------------------------------

    def _permissions(self, member: Member) -> Permissions:
        instance = member.instance
        candidate = instance.candidate if instance is not None else member.candidate
        if candidate is None:
            return Permissions()
        return self.permits.permissions(member.name, candidate, instance.spec.confinement.effective if instance is not None else None)

    def _as_granted(self, member: Member, candidate: Candidate) -> bool:
        """Whether what serves was started with the permissions that ``candidate`` would be started with now."""
        assert member.instance is not None, "only what runs is swapped"
        now = member.settings.confinement_for(candidate, self.permits.granted(member.name, candidate))
        return set(now.effective) == set(member.instance.spec.confinement.effective)

    # --- state -------------------------------------------------------------------------------------------------------

    def export_state(self, name: str) -> Snapshot | None:
        member = self.supervisor.member(name)
        exported = self.carrier.export(member)
        if exported is None:
            return None
        return self.states.save(
            member.name,
            plugin_version=exported.plugin_version,
            state_version=exported.state_version,
            generation=exported.generation,
            reason="export",
            data=exported.data,
        )

    def _keep_state(self, member: Member, generation: int, make_room: Callable[[], object]) -> str | None:
        def save(exported: Exported) -> str:
            make_room()
            return self.states.save(member.name, **attrs.asdict(exported, recurse=False), reason="periodic").id

        return self.carrier.keep(member, generation, save)

    def import_state(self, name: str, snapshot: Snapshot) -> None:
        self.carrier.import_snapshot(self.supervisor.member(name), snapshot)

    def snapshot_all(self) -> Report:
        return self.states.snapshot_all(
            {member.name: functools.partial(self.carrier.export, member) for member in self.supervisor.running()}
        )

    def restore_all(self) -> Report:
        return self.states.restore_all(
            {member.name: functools.partial(self.carrier.import_snapshot, member) for member in self.supervisor.running()}
        )

    def refuse_to_end_inside(self) -> None:
        """Raise when the calling thread is in the middle of an operation, which could never be waited for."""
        operation = self.supervisor.operation_here()
        if operation is not None:
            raise RuntimeError(f"the plugin manager cannot be closed from inside {operation}: close it when that has ended")

    def close(self) -> None:
        self._stack.close()


def _make_grants(state_dir: Path | None) -> GrantStore:
    return MemoryGrants() if state_dir is None else FileGrants(state_dir)


def _make_store(state_dir: Path | None, keep: int) -> StateStore:
    if state_dir is None:
        from blackhole_core.state.memory import MemoryStateStore

        return MemoryStateStore(keep=keep)
    from blackhole_core.state.files import FileStateStore

    return FileStateStore(state_dir / "state", keep=keep)


def _source_of(candidate: Candidate | None) -> Path | None:
    """Return where to look for a plugin again: its own directory or wheel; None for an installed one."""
    return None if candidate is None or candidate.origin is Origin.INSTALLED else candidate.source
