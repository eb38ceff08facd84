"""The front door: a ``pluggy.PluginManager`` that can also isolate, swap, watch and supervise.

This file gives the parts a name; they are put together in :mod:`blackhole_core.assembly`, and what they do is decided where they
are. Nothing of that is imported before it is used: a host that only registers plugins pays for pluggy and little more.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from blackhole_core.events import EventBus, Listener
from blackhole_core.hooks.manager import HookManager
from blackhole_core.ids import Isolation

if TYPE_CHECKING:
    from blackhole_core.assembly import Parts
    from blackhole_core.config import HostConfig
    from blackhole_core.lifecycle.handle import Plugin
    from blackhole_core.lifecycle.loading import LoadReport
    from blackhole_core.lifecycle.report import SwapReport
    from blackhole_core.lifecycle.revoking import Revocation
    from blackhole_core.registry.registry import PluginRegistry
    from blackhole_core.state.manager import Report, StateManager
    from blackhole_core.state.snapshot import Snapshot

__all__ = ["PluginManager"]


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
        self._config = None if config is None else _parsed(config)
        self._default_isolation = Isolation(default_isolation)
        self._state_dir = None if state_dir is None else Path(state_dir)
        self._pid = os.getpid()
        self._closing = threading.Lock()
        self._closed = False
        self._parts: Parts | None = None
        self._at_exit: Callable[[], None] | None = None
        self._events = EventBus(time.time)
        if self._config is not None and self._config.telemetry is not None:
            self.telemetry.start(sample=self._config.telemetry.sample)

    @property
    def config(self) -> HostConfig:
        """The checked configuration."""
        if self._config is None:
            self._config = _parsed(None)
        return self._config

    # --- parts -------------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> Parts:
        """The machinery, made when it is first needed."""
        if self._parts is None:
            from blackhole_core.assembly import Parts

            with self._closing:
                if self._closed:
                    raise RuntimeError(f"the plugin manager of project {self.project_name!r} is closed")
                if self._parts is None:
                    self._parts = Parts(self, self.config, self._state_dir, self._default_isolation, self._events.emit)
                    self.label_of = self._parts.label_of
                    self._at_exit = functools.partial(_close_at_exit, weakref.ref(self))
                    atexit.register(self._at_exit)
        return self._parts

    @property
    def registry(self) -> PluginRegistry:
        """What plugins there are, loaded or not."""
        return self.parts.registry

    @property
    def state(self) -> StateManager:
        """The snapshots of all plugins."""
        return self.parts.states

    # --- plugins in and out ------------------------------------------------------------------------------------------

    def load(
        self, name: str, *, source: Path | str | None = None, version: str | None = None, isolation: Isolation | str | None = None
    ) -> Plugin:
        """Load one plugin and return its handle.

        ``source`` is a directory with a plugin in it, a wheel, or a directory of wheels; without it the installed distributions and the sources
        given so far are searched. Without ``version`` the highest one is taken. ``isolation`` overrides configuration and manifest.

        What fails is shown by ``pm.plugin(name)`` as FAILED with the reason, leaves nothing behind, and may be tried again.

        :raises LoadFailed: it may not run here, or could not be started.
        :raises ManifestError: its declaration is impossible.
        :raises SourceError: there is no usable plugin at ``source``.
        :raises NameClash: two plugins claim this name.
        :raises UnknownPlugin: there is no such plugin.
        """
        return self.parts.load(name, source, version, _level(isolation))

    def load_all(self) -> LoadReport:
        """Load every plugin that is found and allowed, dependencies first. A bad one never stops the others."""
        return self.parts.load_all()

    def unload(self, name: str) -> None:
        """Take a plugin out; calls that had begun on it end first.

        :raises DependencyError: a running plugin needs it.
        """
        self.parts.unload(name)

    def plugins(self) -> tuple[Plugin, ...]:
        """Return a handle of every plugin that was loaded or tried, failed ones included."""
        return self._parts.handles() if self._parts is not None else ()

    def plugin(self, name: str) -> Plugin:
        """Return the handle of one plugin.

        :raises UnknownPlugin: nothing of that name was loaded or tried.
        """
        return self.parts.handle(name)

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

        Without ``version`` and ``source`` the version that the configuration names is taken, else the highest that is found: after
        ``pip install -U`` the new one. Without ``isolation`` the level that was last asked for stays.

        :param timeout: seconds to wait for calls that had begun, for a plugin with state; the default is its ``drain_timeout``.
        :param force: go on when they have not ended by then.
        :raises SwapFailed: the old version serves on with its state; ``phase`` and ``cause`` say why.
        :raises SwapInProgress: another operation on this plugin is under way.
        """
        return self.parts.swap(name, source, version, _level(isolation), timeout=timeout, force=force)

    def reload(self, name: str) -> SwapReport | None:
        """Swap a plugin to what stands at its own source now; load it if it is not running (then there is no report)."""
        return self.parts.reload(name)

    def rollback(self, name: str, *, force: bool = False) -> SwapReport:
        """Swap a plugin back to the version before the last swap, with the state it has now.

        :param force: when the state cannot be migrated back, give the old version the state it had handed over; the report then says what was lost.
        :raises SwapFailed: there is no previous version, it is gone, or its state cannot be migrated; the present one serves on.
        """
        return self.parts.rollback(name, force=force)

    def watch(self, *names: str) -> None:
        """Reload plugins when their source changes; without names every running plugin whose source can change."""
        self.parts.watch(names)

    # --- permissions -------------------------------------------------------------------------------------------------

    def grant(self, name: str, *permissions: str, versions: str = "", digest: str | None = None) -> tuple[str, ...]:
        """Let the plugin ``name`` have ``permissions`` when it is next started, and return them in canonical spelling.

        They are kept in the state directory; without one, as long as the manager. The plugin need not be known yet.

        :param versions: only for versions in this PEP 440 range; empty means any.
        :param digest: only for the code with this digest (``candidate.digest``).
        :raises GrantsError: one of them is no permission or cannot be granted, or the grants cannot be kept. Nothing was granted.
        """
        return self.parts.permits.grant(name, permissions, versions, digest)

    def revoke(self, name: str, *permissions: str) -> Revocation:
        """Take ``permissions``, and whatever lies in them, from the plugin ``name``.

        What the host does for a running worker stops at once. Walls that the kernel holds cannot be moved: the plugin is swapped for itself behind new
        ones, under calls as any swap. One that needs what was revoked could not start again; it runs on, and the result says what remains.

        :raises GrantsError: only a part of what is granted was to be revoked, or the grants cannot be kept. Nothing was revoked.
        """
        return self.parts.revoker.revoke(name, permissions)

    # --- calls and state ---------------------------------------------------------------------------------------------

    def execute(self, name: str, method: str | None = None, *, params: Mapping[str, Any] | None = None, data: bytes = b"") -> Any:
        """Send one request to one plugin's ``plugin_handle``, at whatever level it runs, and return the answer."""
        return self.parts.execute(name, method, params, data)

    def export_state(self, name: str) -> Snapshot | None:
        """Save the state of a running plugin and return the snapshot, None when it has no state."""
        return self.parts.export_state(name)

    def import_state(self, name: str, snapshot: Snapshot) -> None:
        """Give a snapshot to a running plugin, migrated to its state version."""
        self.parts.import_state(name, snapshot)

    def snapshot_all(self) -> Report:
        """Save the state of every running plugin; the report names those that failed and those without state."""
        return self.parts.snapshot_all()

    def restore_all(self) -> Report:
        """Give every running plugin its newest whole snapshot."""
        return self.parts.restore_all()

    # --- events and end ----------------------------------------------------------------------------------------------

    def on_event(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` of everything that happens; the returned function ends that."""
        return self._events.subscribe(listener)

    def close(self) -> None:
        """Stop every plugin, dependants first, and end every thread and process of this manager. Idempotent.

        A swap or load under way in another thread is waited for; none begins any more. In a fork of the host nothing happens: the plugins are not its own.

        :raises RuntimeError: it was called from inside a load or swap, by a listener or by plugin code; nothing was closed.
        """
        if os.getpid() != self._pid:  # a word to a worker from here would end it for the host
            return
        with self._closing:
            if self._parts is not None:
                self._parts.refuse_to_end_inside()
            self._closed = True
            parts, self._parts = self._parts, None
        try:
            if parts is not None:
                parts.close()
        finally:
            super().close()  # after the plugins, whose end ends the calls that may still be in there
            self.label_of = None
            at_exit, self._at_exit = self._at_exit, None
            if at_exit is not None:
                atexit.unregister(at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_parts", None) is not None and os.getpid() == self._pid:
            _warn_unclosed(self)


def _level(isolation: Isolation | str | None) -> Isolation | None:
    return None if isolation is None else Isolation(isolation)


def _parsed(config: Mapping[str, Any] | HostConfig | Path | str | None) -> HostConfig:
    from blackhole_core.config import parse_config

    return parse_config(config)


def _close_at_exit(reference: weakref.ref[PluginManager]) -> None:
    manager = reference()
    if manager is not None and os.getpid() == manager._pid:
        _warn_unclosed(manager)
        manager.close()


def _warn_unclosed(manager: PluginManager) -> None:
    parts = manager._parts
    if parts is not None and parts.supervisor.running():
        warnings.warn(
            f"the plugin manager of project {manager.project_name!r} was not closed: use `with`, or call close()",
            ResourceWarning,
            source=manager,
            stacklevel=1,
        )
