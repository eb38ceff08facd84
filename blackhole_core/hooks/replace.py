"""Replace what stands behind the hooks of a plugin by another plugin, in one step, and back.

A plugin is never unregistered on the way: callers, held references, order and recorded historic calls stay. Everything that
can be refused is refused before anything changes, and everything that takes time (looking at the new plugin, compiling its
callers) is done before; the switch itself is one sweep over all hooks concerned.

What was compiled before is used only if the hook has not changed since: a caller's ``revision`` says so, under the manager's lock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
from pluggy import HookImpl

from blackhole_core.errors import BlackholeError, UnknownPlugin
from blackhole_core.hooks.caller import HookCaller
from blackhole_core.hooks.gate import Begun
from blackhole_core.hooks.order import replaced
from blackhole_core.hooks.switching import Compiled, Store, sweep

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from blackhole_core.hooks.manager import HookManager

__all__ = ["Replacement", "Undo", "replace_plugin"]


#: Hooks that are compiled between two pauses; together they take less than a millisecond.
_AT_ONCE: Final = 20


@attrs.frozen(eq=False)
class _Change:
    """One hook's implementations from before and after, both lists kept alive until the replacement is forgotten."""

    caller: HookCaller
    before: list[HookImpl]
    after: list[HookImpl]


@attrs.frozen(eq=False)
class _Ready:
    """A change with the code that carries it out, compiled when the caller stood at ``revision``."""

    change: _Change
    code: Compiled
    revision: int

    def is_current(self) -> bool:
        return self.change.caller.revision == self.revision and self.change.caller._hookimpls is self.change.before


def replace_plugin(
    manager: HookManager, name: str, plugin: object, *, replay_history: bool = False, distribution: Distribution | None = None
) -> Undo:
    """Do :meth:`HookManager.replace`."""
    return Replacement(manager, name, plugin, distribution=distribution).commit(replay_history=replay_history)


class Replacement:
    """``plugin``, ready to take the place of the one registered as ``name``. Making one changes nothing and holds nobody back.

    Used once. One that is not committed is simply forgotten. ``pause`` is called now and then, with no lock held: while calls flow it should let them go
    first. Not behind a closed gate, where that would be the only moment in which callers run, and they would find it closed each time.

    :raises UnknownPlugin: nothing is registered as ``name``.
    :raises PluginValidationError: an implementation does not match its spec.
    :raises ValueError: ``plugin`` is registered already under another name.
    """

    def __init__(
        self,
        manager: HookManager,
        name: str,
        plugin: object,
        *,
        distribution: Distribution | None = None,
        pause: Callable[[], object] = lambda: None,
    ) -> None:
        old = manager.get_plugin(name)
        if old is None:
            raise UnknownPlugin(name, (known for known, registered in manager.list_name_plugin() if registered is not None))
        holder = manager.get_name(plugin)
        if holder not in {None, name}:
            raise ValueError(f"plugin {name!r} cannot be replaced by {plugin!r}: that is registered already, as {holder!r}")
        self._manager = manager
        self._name = name
        self._old = old
        self._plugin = plugin
        self._distribution = distribution
        self._revision = manager.revision  # read first: what changes from here on is looked at again
        self._found = manager.implementations(plugin, name)
        self._ready = dict(_compiled(manager, self._changes(self._existing()), pause))
        #: The calls that were running on what was replaced, once it is.
        self.begun = Begun()
        #: Takes the replacement back, as far as it got: it is here before anything changes, so that whatever interrupts :meth:`commit` can be undone.
        self.undo: Undo | None = None

    def commit(self, *, replay_history: bool = False, confirm: Callable[[], object] = lambda: None) -> Undo:
        """Let the new plugin stand where the old one stood, in all hooks at one instant; under a closed gate, when that opens.

        With ``replay_history`` it is given every recorded historic call before, outside the lock: none is missed, none given twice. ``confirm`` is called
        last, under the lock, when nothing but the switch is left: what it raises leaves the old plugin where it is.

        :raises BlackholeError: the old plugin was replaced or unregistered meanwhile.
        """
        told = [0] * len(self._found)
        while True:
            with self._manager.hook_lock:
                untold = list(self._untold(told)) if replay_history else []
                if not untold:
                    confirm()
                    return self._switch()
            for place, caller, impl, calls in untold:
                caller.replay(impl, calls)
                told[place] += len(calls)

    def _untold(self, told: Sequence[int]) -> Iterable[tuple[int, HookCaller, HookImpl, list[Any]]]:
        for place, (hook, impl, _verified) in enumerate(self._found):
            caller = self._manager.caller(hook)
            calls = caller._call_history[told[place] :] if caller is not None and caller.is_historic() else []
            if caller is not None and calls:
                yield place, caller, impl, calls

    def _switch(self) -> Undo:
        manager, name = self._manager, self._name
        if manager.get_plugin(name) is not self._old:
            raise BlackholeError(f"plugin {name!r} was replaced or unregistered while its replacement was being checked; try again")
        created = [hook for hook, _impl, _verified in self._found if manager.caller(hook) is None]
        ready = list(self._ready.values()) if manager.revision == self._revision and not created else self._ready_now()
        changes = [one.change for one in ready]
        self.undo = undo = Undo(manager, name, self._old, self._plugin, changes, created, list(manager._plugin_distinfo))
        manager._name2plugin[name] = self._plugin  # before any hook: by this an undo knows that there is something to undo
        _commit((one.change.caller, one.change.after, one.code) for one in ready)
        self._ready.clear()  # or it would keep the codes alive, which are the evidence of calls, when they are replaced in turn
        self.begun.add_calls_of(change.caller for change in changes)
        if manager._plugin_distinfo:
            manager._plugin_distinfo[:] = [
                (self._plugin, self._distribution or known) if registered is self._old else (registered, known)
                for registered, known in manager._plugin_distinfo
            ]
        return undo

    def _ready_now(self) -> list[_Ready]:
        """Return what must be done as the hooks stand now; something changed since the replacement was prepared. Under the lock.

        :raises PluginValidationError: an implementation does not match a spec that was added meanwhile.
        """
        for hook, impl, _verified in self._found:
            caller = self._manager.caller(hook)
            if caller is not None and caller.has_spec():
                self._manager._verify_hook(caller, impl)
        callers = [self._manager.caller_for(hook) for hook, _impl, _verified in self._found]
        return [
            known if (known := self._ready.get(change.caller.name)) is not None and known.is_current() else _ready(self._manager, change)
            for change in self._changes(callers)
        ]

    def _existing(self) -> list[HookCaller]:
        callers = (self._manager.caller(hook) for hook, _impl, _verified in self._found)
        return [caller for caller in callers if caller is not None]

    def _changes(self, callers: Sequence[HookCaller]) -> list[_Change]:
        """Return the changes of ``callers``, and of those that the old plugin answers and the new one may not."""
        new: dict[str, list[HookImpl]] = defaultdict(list)
        for hook, impl, _verified in self._found:
            new[hook].append(impl)
        with self._manager.hook_lock:
            had = [caller for caller in self._manager.callers() if any(impl.plugin is self._old for impl in caller._hookimpls)]
            concerned = {caller.name: caller for caller in (*had, *callers)}.values()
            return [_Change(caller, caller._hookimpls, replaced(caller._hookimpls, self._old, new[caller.name])) for caller in concerned]


def _ready(manager: HookManager, change: _Change) -> _Ready:
    with manager.hook_lock:
        return _Ready(change, change.caller.build(change.after), change.caller.revision)


def _compiled(manager: HookManager, changes: Iterable[_Change], pause: Callable[[], object]) -> Iterator[tuple[str, _Ready]]:
    for number, change in enumerate(changes):
        if number % _AT_ONCE == 0:
            pause()
        yield change.caller.name, _ready(manager, change)


def _commit(wanted: Iterable[tuple[HookCaller, list[HookImpl], Compiled]]) -> None:
    """Switch all at one instant. Under a closed gate the code waits for the gate to open. Under the lock."""
    stores: list[Store] = []
    for caller, impls, code in wanted:
        stores.append((caller.function, "_hookimpls", impls))
        caller.revise()
        caller.ready = code if caller.door.gates else None
        if not caller.door.gates:
            stores.append(caller.switch.stage(code))
    dying = sweep(stores)
    del stores, dying


class Undo:
    """Call it to put the old plugin back, exactly where it was. Where that one stands already, again or still, it does nothing."""

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
            registered = self._manager.get_plugin(self._name)
            if self._done or registered is self._old:
                return
            if registered is not self._new:
                raise BlackholeError(
                    f"the replacement of plugin {self._name!r} cannot be undone: it was replaced again or unregistered since"
                )
            restored = [(change.caller, self._restored(change)) for change in self._changes]
            _commit([(caller, impls, caller.build(impls)) for caller, impls in restored])
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
