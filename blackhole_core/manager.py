"""The front door: a ``pluggy.PluginManager`` that can also isolate, swap, watch and supervise.

This file wires parts together and gives them a name; what they do is decided where they are.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blackhole_core.config import HostConfig, parse_config
from blackhole_core.errors import SourceError, UnknownPlugin
from blackhole_core.events import EventBus, Listener
from blackhole_core.executor.levels import Levels
from blackhole_core.executor.runner import Host
from blackhole_core.executor.timers import Timers
from blackhole_core.hooks.asynchronous import AsyncHookRelay
from blackhole_core.hooks.manager import HookManager
from blackhole_core.ids import Isolation
from blackhole_core.lifecycle.execute import execute
from blackhole_core.lifecycle.handle import Plugin
from blackhole_core.lifecycle.instance import Instance, start_instance
from blackhole_core.lifecycle.loading import Loader, LoadReport
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.reloading import Reloader
from blackhole_core.lifecycle.report import SwapReport
from blackhole_core.lifecycle.specs import SpecBook
from blackhole_core.lifecycle.stateful import StateCarrier
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.lifecycle.swap import Swapper, SwapRequest
from blackhole_core.registry.candidate import Candidate
from blackhole_core.registry.registry import PluginRegistry
from blackhole_core.registry.store import WheelStore
from blackhole_core.state.manager import StateManager
from blackhole_core.state.snapshot import Snapshot
from blackhole_core.state.store import StateStore

__all__ = ["Plugin", "PluginManager"]


class PluginManager(HookManager):
    """Hosts the plugins of one project.

    :param project_name: the project of the hook markers, and the entry point group that is searched.
    :param config: a mapping shaped like ``blackhole.yaml``, the path of such a file, or None.
    :param state_dir: where snapshots and unpacked wheels are kept; without it (and without ``state_dir`` in the configuration) they live as
        long as the manager.
    :param default_isolation: level of plugins that have no manifest.
    :raises ConfigError: the configuration cannot be obeyed.
    """

    def __init__(
        self,
        project_name: str,
        *,
        config: Mapping[str, Any] | HostConfig | Path | str | None = None,
        state_dir: Path | str | None = None,
        default_isolation: Isolation | str = Isolation.NONE,
    ) -> None:
        super().__init__(project_name)
        self.config = parse_config(config)
        self._default_isolation = Isolation(default_isolation)
        self._state_dir = Path(state_dir) if state_dir is not None else self._configured_state_dir()
        self._closing = threading.Lock()
        self._closed = False
        self._parts: _Parts | None = None
        self._events = EventBus(time.time)

    def _configured_state_dir(self) -> Path | None:
        return self.config.path(self.config.state_dir) if self.config.state_dir is not None else None

    # --- parts -------------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> _Parts:
        """The machinery, made when it is first needed: a host that only uses pluggy's part of us never pays for it."""
        if self._parts is None:
            with self._closing:
                if self._closed:
                    raise RuntimeError(f"the plugin manager of project {self.project_name!r} is closed")
                if self._parts is None:
                    self._parts = _Parts(self, self._state_dir)
                    self.label_of = self._parts.label_of
                    atexit.register(_close_at_exit, weakref.ref(self))
        return self._parts

    @property
    def registry(self) -> PluginRegistry:
        """What plugins there are, loaded or not."""
        return self.parts.registry

    @property
    def state(self) -> StateManager:
        """The snapshots of all plugins."""
        return self.parts.states

    @functools.cached_property
    def ahook(self) -> AsyncHookRelay:
        """The hooks for code on an event loop: ``await pm.ahook.transform(text="hi")``."""
        return AsyncHookRelay(self)

    # --- plugins in and out ------------------------------------------------------------------------------------------

    def load(
        self, name: str, *, source: Path | str | None = None, version: str | None = None, isolation: Isolation | str | None = None
    ) -> Plugin:
        """Load one plugin and return its handle.

        ``source`` is a directory with a plugin in it, a wheel, or a directory of wheels; without it the installed distributions and the sources
        given so far are searched. Without ``version`` the highest one is taken. ``isolation`` overrides configuration and manifest.

        :raises LoadFailed: nothing of it is left behind; ``pm.plugin(name)`` shows it as FAILED with the reason, and it may be tried again.
        :raises UnknownPlugin: there is no such plugin.
        """
        parts = self.parts
        candidate = parts.find(name, version, source)
        member = parts.enrol(candidate.name)
        parts.loader.load(member, candidate, _level(isolation))
        return Plugin(member)

    def load_all(self) -> LoadReport:
        """Load every plugin that is found and allowed, dependencies first. A bad one never stops the others."""
        return self.parts.load_all()

    def unload(self, name: str) -> None:
        """Take a plugin out; calls that had begun on it end first.

        :raises DependencyError: a running plugin needs it.
        """
        self.parts.loader.unload(self.parts.supervisor.member(name))

    def plugins(self) -> tuple[Plugin, ...]:
        """Return a handle of every plugin that was loaded or tried, failed ones included."""
        return tuple(Plugin(member) for member in self._members())

    def plugin(self, name: str) -> Plugin:
        """Return the handle of one plugin.

        :raises UnknownPlugin: nothing of that name was loaded or tried.
        """
        return Plugin(self.parts.supervisor.member(name))

    def _members(self) -> tuple[Member, ...]:
        return self._parts.supervisor.members() if self._parts is not None else ()

    # --- swap --------------------------------------------------------------------------------------------------------

    def swap(
        self,
        name: str,
        version: str | None = None,
        *,
        source: Path | str | None = None,
        isolation: Isolation | str | None = None,
        timeout: float | None = None,
        force: bool = False,
    ) -> SwapReport:
        """Replace a running plugin by another version (or level) while calls flow.

        Without ``version`` and ``source`` the highest version that is found is taken: after ``pip install -U`` the new one.

        :param timeout: seconds to wait for calls that had begun, for a plugin with state; the default is its ``drain_timeout``.
        :param force: go on when they have not ended by then.
        :raises SwapFailed: the old version serves on with its state; ``phase`` and ``cause`` say why.
        :raises SwapInProgress: another operation on this plugin is under way.
        """
        parts = self.parts
        member = parts.supervisor.member(name)
        request = SwapRequest(lambda: parts.find(member.name, version, source), _level(isolation), timeout, force)
        return parts.swapper.swap(member, request)

    def reload(self, name: str) -> SwapReport | None:
        """Swap a plugin to what stands at its own source now; load it if it is not running (then there is no report)."""
        parts = self.parts
        member = parts.supervisor.member(name)
        current = member.candidate
        if member.instance is None or current is None:
            self.load(member.name, source=_source_of(current))
            return None
        level = member.instance.level
        return parts.swapper.swap(member, SwapRequest(lambda: parts.find(member.name, None, _source_of(current)), level))

    def rollback(self, name: str, *, force: bool = False) -> SwapReport:
        """Swap a plugin back to the version before the last swap, with the state it has now.

        :param force: when the state cannot be migrated back, give the old version the state it had handed over; the report then says what was lost.
        :raises SwapFailed: there is no previous version, it is gone, or its state cannot be migrated; the present one serves on.
        """
        parts = self.parts
        return parts.swapper.swap(member := parts.supervisor.member(name), parts.rollback_request(member, force))

    def watch(self, *names: str) -> None:
        """Reload plugins when their source changes; without names every running plugin whose source can change."""
        self.parts.watch(names)

    # --- calls and state ---------------------------------------------------------------------------------------------

    def execute(self, name: str, method: str | None = None, *, params: Mapping[str, Any] | None = None, data: bytes = b"") -> Any:
        """Send one request to one plugin's ``plugin_handle``, at whatever level it runs, and return the answer."""
        return execute(self.parts.supervisor.member(name), method, params, data)

    def export_state(self, name: str) -> Snapshot | None:
        """Save the state of a running plugin and return the snapshot, None when it has no state."""
        return self.parts.export(self.parts.supervisor.member(name), "export")

    def import_state(self, name: str, snapshot: Snapshot) -> None:
        """Give a snapshot to a running plugin, migrated to its state version."""
        self.parts.carrier.import_snapshot(self.parts.supervisor.member(name), snapshot)

    def snapshot_all(self) -> Any:
        """Save the state of every running plugin; the report names those that failed and those without state."""
        return self.parts.snapshot_all()

    def restore_all(self) -> Any:
        """Give every running plugin its newest whole snapshot."""
        return self.parts.restore_all()

    # --- events and end ----------------------------------------------------------------------------------------------

    def on_event(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` of everything that happens; the returned function ends that."""
        return self._events.subscribe(listener)

    def close(self) -> None:
        """Stop every plugin, dependants first, and end every thread and process of this manager. Idempotent."""
        with self._closing:
            self._closed = True
            parts, self._parts = self._parts, None
        relay = self.__dict__.pop("ahook", None)
        if relay is not None:
            relay.close()
        if parts is not None:
            parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        parts = getattr(self, "_parts", None)
        if parts is not None and parts.supervisor.running():
            warnings.warn(f"the plugin manager of project {self.project_name!r} was not closed", ResourceWarning, source=self, stacklevel=1)


class _Parts:
    """Everything behind the front door, made once, closed in reverse."""

    def __init__(self, manager: PluginManager, state_dir: Path | None) -> None:
        self._hooks = manager
        self._config = manager.config
        self._default_isolation = manager._default_isolation
        self.emit = manager._events.emit
        self._stack = contextlib.ExitStack()
        specs = SpecBook(manager)
        self.timers = Timers()
        self._stack.callback(self.timers.close)
        self.registry = self._make_registry(manager.project_name, state_dir)
        self.states = StateManager(_make_store(state_dir, self._config.keep_snapshots), emit=self.emit)
        self._stack.callback(self.states.close)
        self._host = Host(
            hook=manager.hook,
            signature=specs.signature,
            hook_names=specs.names,
            is_firstresult=specs.is_firstresult,
            exception_type=specs.exception_type,
            timers=self.timers,
            emit=self.emit,
        )
        self._levels = Levels(self._host)
        self._stack.callback(self._levels.close)
        self.supervisor = Supervisor(self.timers, self.states, self.emit)
        self._stack.callback(self.supervisor.close)
        self.loader = Loader(self.supervisor, self.registry, manager, self.emit, self._start)
        self._stack.callback(self.loader.unload_all)
        self.swapper = Swapper(self.supervisor, manager, self.states, self.emit, self._start, self.loader.admit)
        self.carrier = StateCarrier(self.supervisor, manager)
        self._reloader: Reloader | None = None

    def _make_registry(self, group: str, state_dir: Path | None) -> PluginRegistry:
        if state_dir is None:
            root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="blackhole-store-")))
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
        """Return how failures of a plugin at level none are labelled; None for plugins that were only registered."""
        member = next((known for known in self.supervisor.members() if known.name == plugin_name), None)
        return str(member.instance.id) if member is not None and member.instance is not None else None

    def enrol(self, name: str) -> Member:
        return self.supervisor.enrol(name, self._config.settings(name, self._default_isolation))

    def find(self, name: str, version: str | None, source: Path | str | None) -> Candidate:
        """Find a plugin; a source that is named is searched alone, and remembered."""
        if source is None:
            return self.registry.find(name, version=version)
        candidate = self.registry.find(name, version=version, source=source)
        self.registry.add_source(source)
        return candidate

    def _start(self, member: Member, candidate: Candidate, isolation: Isolation | None) -> Instance:
        member.started += 1
        return start_instance(
            candidate,
            member.started,
            member.settings,
            self._host,
            self._levels.make,
            isolation=isolation,
            project=self._hooks.project_name,
        )

    def load_all(self) -> LoadReport:
        if self._config.safe_mode:
            self.emit("host.safe_mode")
            return LoadReport()
        self.registry.refresh()
        return self.loader.load_all(self._choose, self.enrol)

    def _choose(self, name: str, found: tuple[Candidate, ...]) -> Candidate | None:
        """Return the version to load of a plugin that was found, None when the operator does not want it."""
        from blackhole_core.registry.source import select

        said = self._config.plugin(name)
        if not said.enabled:
            return None
        source = self._config.path(said.source) if said.source is not None else None
        return self.registry.find(name, version=said.version, source=source) if source or said.version else select(found, name)

    def rollback_request(self, member: Member, force: bool) -> SwapRequest:
        previous = member.previous

        def find() -> Candidate:
            if previous is None:
                raise SourceError(f"plugin {member.label} was not swapped since it was loaded, there is nothing to roll back to")
            return self.registry.again(previous.candidate)

        fallback = None
        if force and previous is not None and previous.snapshot is not None:
            fallback = self.states.get(member.name, previous.snapshot)
        return SwapRequest(find, previous.isolation if previous is not None else None, force=force, fallback=fallback)

    def watch(self, names: tuple[str, ...]) -> None:
        if self._reloader is None:
            self._reloader = Reloader(self._hooks.reload, self._hooks.unload, self.emit)
            self._stack.callback(self._reloader.close)
        for name in names or [member.name for member in self.supervisor.running()]:
            member = self.supervisor.member(name)
            if member.candidate is None:
                raise UnknownPlugin(name)
            self._reloader.watch(member.name, member.candidate)

    # --- state -------------------------------------------------------------------------------------------------------

    def export(self, member: Member, reason: str) -> Snapshot | None:
        exported = self.carrier.export(member)
        if exported is None:
            return None
        return self.states.save(
            member.name,
            plugin_version=exported.plugin_version,
            state_version=exported.state_version,
            generation=exported.generation,
            reason=reason,
            data=exported.data,
        )

    def snapshot_all(self) -> Any:
        return self.states.snapshot_all(
            {member.name: functools.partial(self.carrier.export, member) for member in self.supervisor.running()}
        )

    def restore_all(self) -> Any:
        return self.states.restore_all(
            {member.name: functools.partial(self.carrier.import_snapshot, member) for member in self.supervisor.running()}
        )

    def close(self) -> None:
        self._stack.close()


def _make_store(state_dir: Path | None, keep: int) -> StateStore:
    if state_dir is None:
        from blackhole_core.state.memory import MemoryStateStore

        return MemoryStateStore(keep=keep)
    from blackhole_core.state.files import FileStateStore

    return FileStateStore(state_dir / "state", keep=keep)


def _level(isolation: Isolation | str | None) -> Isolation | None:
    return None if isolation is None else Isolation(isolation)


def _source_of(candidate: Candidate | None) -> Path | None:
    """Return where to look for a plugin again: its own directory or wheel; None for an installed one."""
    from blackhole_core.registry.candidate import Origin

    return None if candidate is None or candidate.origin is Origin.INSTALLED else candidate.source


def _close_at_exit(reference: weakref.ref[PluginManager]) -> None:
    manager = reference()
    if manager is not None:
        manager.close()
