"""A ``pluggy.PluginManager`` whose hooks are compiled callers that can be gated and replaced while calls flow.

Nothing of pluggy is patched: this class overrides, and hands out its own callers on pluggy's own relay. Registering and
unregistering may happen in any thread while others call: a call sees the implementations from before or after a change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from pluggy import HookCaller as _PluggyCaller
from pluggy import HookImpl
from pluggy import PluginManager as _PluggyManager
from pluggy._callers import _multicall
from pluggy._hooks import normalize_hookimpl_opts
from pluggy._manager import _static_hook_attr

from blackhole_core.hooks.caller import HookCaller, SubsetHookCaller
from blackhole_core.hooks.inflight import EVIDENCE, Evidence
from blackhole_core.hooks.replace import Undo, replace_plugin

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor
    from importlib.metadata import Distribution

    from blackhole_core.hooks.asynchronous import AsyncHookRelay
    from blackhole_core.hooks.telemetry import Telemetry

__all__ = ["HookManager"]

#: Seconds that a call without a deadline waits at a closed gate. A gate is closed for milliseconds while state is handed over;
#: half a minute means that the swap hangs.
_GATE_TIMEOUT: Final = 30.0

#: Threads for awaited hooks. Such calls mostly wait for something; more than this many at once queue up.
_POOL_THREADS: Final = 16


class HookManager(_PluggyManager):
    """Drop-in for pluggy's manager."""

    #: How running calls are told, see :mod:`blackhole_core.hooks.inflight`.
    evidence: ClassVar[Evidence] = EVIDENCE

    def __init__(self, project_name: str) -> None:
        #: Guards every change of hooks and plugins; never held while plugin code runs. Re-entrant because a change may run a
        #: finaliser that makes another one.
        self.hook_lock = threading.RLock()
        #: Seconds that a call without a deadline waits at a closed gate.
        self.gate_timeout = _GATE_TIMEOUT
        #: Gives the label that failures of a plugin are noted with, or None for "do not touch its exceptions".
        self.label_of: Callable[[str], str | None] | None = None
        #: One call in so many is timed, None while nothing is counted; see :attr:`telemetry`.
        self.measuring: int | None = None
        #: Counts the changes of all hooks, under the lock.
        self.revision = 0
        self._monitored_hookexec: Any = _multicall
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        super().__init__(project_name)

    # --- callers ----------------------------------------------------------------------------------------------------------

    def caller(self, name: str) -> HookCaller | None:
        """Return the caller object behind ``pm.hook.<name>``, None if there is no such hook."""
        function = self.hook.__dict__.get(name)
        return None if function is None else cast(HookCaller, function.__hookcaller__)

    def callers(self) -> list[HookCaller]:
        """Return the caller objects of all hooks."""
        return [caller for name in list(self.hook.__dict__) if (caller := self.caller(name)) is not None]

    def calls_plainly(self) -> bool:
        """Tell whether nothing (monitoring, tracing, a host's own ``_hookexec``) must see each call on its way."""
        return self._monitored_hookexec is _multicall and type(self)._hookexec is _PluggyManager._hookexec

    @property
    def _inner_hookexec(self) -> Any:
        return self._monitored_hookexec

    @_inner_hookexec.setter
    def _inner_hookexec(self, hookexec: Any) -> None:
        # pluggy's monitoring and tracing assign this; every caller then has to take the monitored way, or may leave it again.
        with self.hook_lock:
            self._monitored_hookexec = hookexec
            for caller in self.callers():
                caller.changed()

    def subset_hook_caller(self, name: str, remove_plugins: Iterable[object]) -> _PluggyCaller:
        """Return a caller of the hook without some plugins, as pluggy does."""
        subset = super().subset_hook_caller(name, remove_plugins)
        if isinstance(subset, HookCaller):
            return subset
        return SubsetHookCaller(subset._orig, subset._remove_plugins)  # type: ignore[attr-defined]  # pluggy's own names for them

    # --- replacing ----------------------------------------------------------------------------------------------------------

    def replace(self, name: str, plugin: object, *, replay_history: bool = False, distribution: Distribution | None = None) -> Undo:
        """Let ``plugin`` stand where the plugin registered as ``name`` stands, in all its hooks at one instant.

        Places in the order are kept unless an option (tryfirst, trylast, wrapper) changed; hooks that only one of the two
        implements appear or vanish. Validated as a whole first: a refusal leaves everything as it was. Under a closed gate
        the calls that wait will run the new plugin. Recorded historic calls reach the new plugin only with ``replay_history``,
        before the switch. ``distribution`` replaces the recorded one of a plugin that came from an entry point.

        :returns: an :class:`Undo`; calling it restores the old plugin.
        :raises UnknownPlugin: nothing is registered as ``name``.
        :raises PluginValidationError: an implementation does not match its spec.
        :raises ValueError: ``plugin`` is registered already under another name.
        """
        return replace_plugin(self, name, plugin, replay_history=replay_history, distribution=distribution)

    # --- measuring ----------------------------------------------------------------------------------------------------------

    # No cached_property here, nor for ahook: it looks into __dict__, after which CPython 3.11 reads every attribute of this object more slowly,
    # ``pm.hook`` included (17 of 140 ns of a hook call).

    @property
    def telemetry(self) -> Telemetry:
        """Counts and times calls once :meth:`~blackhole_core.hooks.telemetry.Telemetry.start` was called."""
        from blackhole_core.hooks.telemetry import Telemetry  # only for who wants it

        return Telemetry(self)

    # --- the threads of ahook -----------------------------------------------------------------------------------------------

    @property
    def ahook(self) -> AsyncHookRelay:
        """The awaitable face of :attr:`hook`: ``await pm.ahook.transform(text="hi")``."""
        from blackhole_core.hooks.asynchronous import AsyncHookRelay  # asyncio takes 40 ms to import

        return AsyncHookRelay(self)

    def pool(self) -> ThreadPoolExecutor:
        """Return the threads that run awaited hooks, made at the first use."""
        with self.hook_lock:
            if self._closed:
                raise RuntimeError(f"the plugin manager of {self.project_name!r} is closed: its hooks cannot be awaited any more")
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix=f"{self.project_name}-ahook")
            return self._pool

    def close(self) -> None:
        """End the threads of :attr:`ahook`, waiting for the calls in them. Idempotent; plain calls go on working."""
        with self.hook_lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    # --- pluggy's dynamic life, safe against calls and changes from other threads -------------------------------------------

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Register a plugin and return its name, exactly as pluggy does: validated as a whole before anything changes."""
        if plugin is None:
            return None
        plugin_name = name or self.get_canonical_name(plugin)
        if self.is_blocked(plugin_name):
            return None
        self._refuse_taken(plugin, plugin_name)
        found = self.implementations(plugin, plugin_name)
        with self.hook_lock:
            self._refuse_taken(plugin, plugin_name)
            self._name2plugin[plugin_name] = plugin
        for hook_name, impl, verified in found:
            caller = self.caller_for(hook_name)
            if not verified and caller.has_spec():
                self._verify_hook(caller, impl)
            caller.join(impl)
        return plugin_name

    def implementations(self, plugin: object, plugin_name: str) -> list[tuple[str, HookImpl, bool]]:
        """Collect what ``plugin`` implements: hook name, implementation, and whether it was verified against a spec.

        :raises PluginValidationError: an implementation does not match its spec.
        """
        found = []
        for attribute in dir(plugin):
            opts = self.parse_hookimpl_opts(plugin, attribute)
            if opts is None:
                continue
            normalize_hookimpl_opts(opts)
            bound = _static_hook_attr(plugin, attribute)
            assert bound is not None, f"{plugin!r}.{attribute} is not a hookable attribute"
            impl = HookImpl(plugin, plugin_name, bound[1], opts)
            hook_name = opts.get("specname") or attribute
            caller = self.caller(hook_name)
            verified = caller is not None and caller.has_spec()
            if caller is not None and verified:
                self._verify_hook(caller, impl)
            found.append((hook_name, impl, verified))
        return found

    def caller_for(self, hook_name: str) -> HookCaller:
        """Return the hook's caller, made now if there is none."""
        with self.hook_lock:
            caller = self.caller(hook_name)
            if caller is None:
                caller = HookCaller(self, hook_name)
                setattr(self.hook, hook_name, caller.function)
            return caller

    def _refuse_taken(self, plugin: object, plugin_name: str) -> None:
        if plugin_name in self._name2plugin:
            raise ValueError(f"Plugin name already registered: {plugin_name}={plugin}\n{self._name2plugin}")
        if plugin in list(self._name2plugin.values()):
            raise ValueError(f"Plugin already registered under a different name: {plugin_name}={plugin}\n{self._name2plugin}")

    def unregister(self, plugin: object | None = None, name: str | None = None) -> Any | None:
        """Unregister a plugin and all of its implementations, as pluggy does; other threads see each hook before or after."""
        with self.hook_lock:
            return super().unregister(plugin, name)

    def set_blocked(self, name: str) -> None:
        """Block registrations of ``name``, unregister it if it is registered."""
        with self.hook_lock:
            super().set_blocked(name)

    def unblock(self, name: str) -> bool:
        """Unblock ``name``; returns whether it was blocked."""
        with self.hook_lock:
            return super().unblock(name)

    # pluggy's questions walk dicts that other threads may change meanwhile.

    def get_name(self, plugin: object) -> str | None:
        """Return the name that the plugin is registered under, or None."""
        with self.hook_lock:
            return super().get_name(plugin)

    def is_registered(self, plugin: object) -> bool:
        """Return whether the plugin is registered."""
        with self.hook_lock:
            return super().is_registered(plugin)

    def get_plugins(self) -> set[Any]:
        """Return all registered plugins."""
        with self.hook_lock:
            return super().get_plugins()

    def get_hookcallers(self, plugin: object) -> list[_PluggyCaller] | None:
        """Return the callers of the hooks that the plugin implements, or None if it is not registered."""
        with self.hook_lock:
            return super().get_hookcallers(plugin)

    def check_pending(self) -> None:
        """Raise if a hook without a specification has implementations that are not optional."""
        with self.hook_lock:
            super().check_pending()

    def add_hookspecs(self, module_or_class: Any) -> None:
        """Add the hook specifications defined in ``module_or_class``, as pluggy does."""
        names = []
        for name in dir(module_or_class):
            opts = self.parse_hookspec_opts(module_or_class, name)
            if opts is None:
                continue
            with self.hook_lock:
                caller = self.caller(name)
                if caller is None:
                    setattr(self.hook, name, HookCaller(self, name, module_or_class, opts).function)
                else:
                    caller.set_specification(module_or_class, opts)
                    for impl in caller.get_hookimpls():
                        self._verify_hook(caller, impl)
            names.append(name)
        if not names:
            raise ValueError(f"did not find any {self.project_name!r} hooks in {module_or_class!r}")
