"""Replace what stands behind the hooks of a plugin by another plugin, in one step, and back.

A plugin is never unregistered on the way: callers, held references, order and recorded historic calls stay. Everything that
can be refused is refused before anything changes; the switch itself is one sweep over all hooks concerned.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from pluggy import HookImpl

from blackhole_core.errors import BlackholeError, UnknownPlugin
from blackhole_core.hooks.caller import HookCaller, inserted
from blackhole_core.hooks.switching import Store, sweep

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from blackhole_core.hooks.manager import HookManager

__all__ = ["Undo", "replace_plugin", "replaced"]


@attrs.frozen(eq=False)
class _Change:
    """One hook's implementations from before and after, both lists kept alive until the replacement is forgotten."""

    caller: HookCaller
    before: list[HookImpl]
    after: list[HookImpl]


def replaced(impls: Sequence[HookImpl], old: object, new: Sequence[HookImpl]) -> list[HookImpl]:
    """Return ``impls`` with those of plugin ``old`` replaced by ``new``, given in the order of registration.

    A new implementation takes the exact place of an old one with the same options. What finds none (an option changed, or
    there are more new ones than old) goes where pluggy would put it; old ones without a successor vanish.
    """
    successors: dict[tuple[bool, ...], deque[HookImpl]] = defaultdict(deque)
    for impl in _in_pluggys_order(new):
        successors[_place(impl)].append(impl)
    result = []
    for impl in impls:
        if impl.plugin is not old:
            result.append(impl)
        elif successors[_place(impl)]:
            result.append(successors[_place(impl)].popleft())
    for impl in new:
        if not any(impl is present for present in result):
            result = inserted(result, impl)
    return result


def replace_plugin(
    manager: HookManager, name: str, plugin: object, *, replay_history: bool = False, distribution: Distribution | None = None
) -> Undo:
    """Do :meth:`HookManager.replace`."""
    old = manager.get_plugin(name)
    if old is None:
        raise UnknownPlugin(name, (known for known, registered in manager.list_name_plugin() if registered is not None))
    holder = manager.get_name(plugin)
    if holder not in {None, name}:
        raise ValueError(f"plugin {name!r} cannot be replaced by {plugin!r}: that is registered already, as {holder!r}")
    found = manager.implementations(plugin, name)
    if replay_history:
        _replay(manager, found)
    with manager.hook_lock:
        if manager.get_plugin(name) is not old:
            raise BlackholeError(f"plugin {name!r} was replaced or unregistered while its replacement was being checked; try again")
        created = [hook for hook, _impl, _verified in found if manager.caller(hook) is None]
        changes = _plan(manager, old, found)
        undo = Undo(manager, name, old, plugin, changes, created, list(manager._plugin_distinfo))
        _commit((change.caller, change.after) for change in changes)
        manager._name2plugin[name] = plugin
        manager._plugin_distinfo[:] = [
            (plugin, distribution or known) if registered is old else (registered, known) for registered, known in manager._plugin_distinfo
        ]
    return undo


def _replay(manager: HookManager, found: Iterable[tuple[str, HookImpl, bool]]) -> None:
    for hook, impl, _verified in found:
        caller = manager.caller(hook)
        if caller is not None and caller.is_historic():
            caller.replay(impl, list(caller._call_history))


def _plan(manager: HookManager, old: object, found: Iterable[tuple[str, HookImpl, bool]]) -> list[_Change]:
    new: dict[str, list[HookImpl]] = defaultdict(list)
    for hook, impl, _verified in found:
        new[hook].append(impl)
    had = [caller.name for caller in manager.callers() if any(impl.plugin is old for impl in caller._hookimpls)]
    callers = [manager.caller_for(hook) for hook in dict.fromkeys([*had, *new])]
    return [_Change(caller, caller._hookimpls, replaced(caller._hookimpls, old, new[caller.name])) for caller in callers]


def _commit(wanted: Iterable[tuple[HookCaller, list[HookImpl]]]) -> None:
    """Compile all, then switch all at one instant. Under a closed gate the code waits for the gate to open."""
    prepared = [(caller, impls, caller.build(impls)) for caller, impls in wanted]
    stores: list[Store] = []
    for caller, impls, state in prepared:
        stores.append((caller.function, "_hookimpls", impls))
        caller.ready = state if caller.door.gates else None
        if not caller.door.gates:
            stores.append(caller.switch.stage(state))
    dying = sweep(stores)
    del stores, prepared, dying


class Undo:
    """Call it to put the old plugin back, exactly where it was. Calling it again does nothing."""

    def __init__(
        self,
        manager: HookManager,
        name: str,
        old: object,
        new: object,
        changes: Sequence[_Change],
        created: Sequence[str],
        distinfo: list[Any],
    ) -> None:
        self._manager = manager
        self._name = name
        self._old = old
        self._new = new
        self._changes = changes
        self._created = created
        self._distinfo = distinfo
        self._done = False

    def __call__(self) -> None:
        """Restore the old plugin; changes that others made to the hooks since then stay.

        :raises BlackholeError: the new plugin was itself replaced or unregistered in the meantime.
        """
        with self._manager.hook_lock:
            if self._done:
                return
            if self._manager.get_plugin(self._name) is not self._new:
                raise BlackholeError(
                    f"the replacement of plugin {self._name!r} cannot be undone: it was replaced again or unregistered since"
                )
            _commit([(change.caller, self._restored(change)) for change in self._changes])
            self._manager._name2plugin[self._name] = self._old
            self._restore_distributions()
            for hook in self._created:
                caller = self._manager.caller(hook)
                if caller is not None and not caller._hookimpls and not caller.has_spec():
                    delattr(self._manager.hook, hook)
            self._done = True

    def _restored(self, change: _Change) -> list[HookImpl]:
        current = change.caller._hookimpls
        if current is change.after:
            return change.before
        olds = [impl for impl in change.before if impl.plugin is self._old]
        return replaced(current, self._new, olds)

    def _restore_distributions(self) -> None:
        before = [known for registered, known in self._distinfo if registered is self._old]
        current = self._manager._plugin_distinfo
        current[:] = [
            (self._old, before.pop(0)) if registered is self._new and before else (registered, known) for registered, known in current
        ]


def _place(impl: HookImpl) -> tuple[bool, ...]:
    return (impl.tryfirst, impl.trylast, impl.wrapper or impl.hookwrapper)


def _in_pluggys_order(impls: Iterable[HookImpl]) -> list[HookImpl]:
    ordered: list[HookImpl] = []
    for impl in impls:
        ordered = inserted(ordered, impl)
    return ordered
