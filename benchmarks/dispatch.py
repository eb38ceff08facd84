"""A hook call at level none beside pluggy's own: ``python -m benchmarks.dispatch [--json FILE] [--check]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pluggy

from benchmarks.harness import Case, main, statement
from blackhole_core.hooks.manager import HookManager

hookspec = pluggy.HookspecMarker("bench")
hookimpl = pluggy.HookimplMarker("bench")

_BOUND: Final = "hook(a=1, b=2)"
#: Runs on pluggy's own path, and pays a lock and a ticket on top so that a gate can wait for it.
_EXTRA: Final = "call_extra, 5 impl (pluggy's path, counted)"
_SPELLED_OUT: Final = "pm.hook.{}(a=1, b=2)"


class Specs:
    """Two arguments, as the hooks of real hosts have."""

    @hookspec
    def every(self, a: int, b: int) -> None: ...

    @hookspec(firstresult=True)
    def first(self, a: int, b: int) -> None: ...


class Answering:
    """An implementation as small as can be: what is measured is the way to it."""

    @hookimpl
    def every(self, a: int, b: int) -> int:
        return a

    @hookimpl
    def first(self, a: int, b: int) -> int:
        return b


class Wrapping:
    """A new-style wrapper that does nothing."""

    @hookimpl(wrapper=True)
    def every(self, a: int, b: int) -> Any:
        return (yield)


class OldWrapping:
    """An old-style wrapper that does nothing."""

    @hookimpl(hookwrapper=True)
    def every(self, a: int, b: int) -> Iterator[None]:
        yield


def manager(kind: type[pluggy.PluginManager], *plugins: tuple[type, int]) -> pluggy.PluginManager:
    """Return a manager with so many instances of each class registered."""
    pm = kind("bench")
    pm.add_hookspecs(Specs)
    for plugin, count in plugins:
        for _ in range(count):
            pm.register(plugin())
    return pm


def cases() -> Iterator[Case]:
    """Yield each row for pluggy and for us."""
    for contender, kind in (("pluggy", pluggy.PluginManager), ("blackhole", HookManager)):
        for count in (1, 5, 10, 50):
            pm = manager(kind, (Answering, count))
            yield Case(f"{count} impl, pm.hook.x(...)", contender, statement(_SPELLED_OUT.format("every"), {"pm": pm}))
            yield Case(f"{count} impl, h = pm.hook.x", contender, statement(_BOUND, {"hook": pm.hook.every}))
        for count in (1, 10):
            pm = manager(kind, (Answering, count))
            yield Case(f"firstresult, {count} impl", contender, statement(_SPELLED_OUT.format("first"), {"pm": pm}))
        for wrappers, count in ((1, 1), (1, 5), (2, 5)):
            pm = manager(kind, (Answering, count), (Wrapping, wrappers))
            yield Case(f"{wrappers} wrapper, {count} impl", contender, statement(_SPELLED_OUT.format("every"), {"pm": pm}))
        pm = manager(kind, (Answering, 1), (OldWrapping, 1))
        yield Case("1 old-style wrapper, 1 impl", contender, statement(_SPELLED_OUT.format("every"), {"pm": pm}))
        pm = manager(kind, (Answering, 5))
        yield Case(_EXTRA, contender, statement("pm.hook.every.call_extra([], {'a': 1, 'b': 2})", {"pm": pm}))


#: How many times faster than pluggy each row has to be.
TARGETS: Final = {
    ("1 impl, pm.hook.x(...)", "pluggy"): 6.0,
    ("5 impl, pm.hook.x(...)", "pluggy"): 7.0,
    ("10 impl, pm.hook.x(...)", "pluggy"): 8.0,
    ("50 impl, pm.hook.x(...)", "pluggy"): 8.0,
    ("firstresult, 1 impl", "pluggy"): 7.0,
    ("firstresult, 10 impl", "pluggy"): 7.0,
    ("1 wrapper, 1 impl", "pluggy"): 3.0,
    ("1 wrapper, 5 impl", "pluggy"): 3.0,
    ("2 wrapper, 5 impl", "pluggy"): 3.0,
}


if __name__ == "__main__":
    raise SystemExit(main("A hook call at level none", "blackhole", list(cases()), known_slower=[_EXTRA], targets=TARGETS))
