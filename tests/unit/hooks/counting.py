"""What tests of telemetry share: a plugin that raises, many calls, the numbers of a hook, and calls that pluggy runs itself."""

from __future__ import annotations

from blackhole_core.hooks.manager import HookManager

__all__ = ["ASIDE", "Boom", "boom", "calls_of", "counts", "old_wrapper"]


class Boom(Exception):
    """What plugins of these tests raise."""


def boom(x):
    raise Boom(x)


def counts(pm: HookManager, hook: str) -> dict[str, tuple[int, int]]:
    """Return (calls, errors) of the hook and of each plugin in it."""
    calls = pm.telemetry.read().hooks[hook]
    return {
        "": (calls.total.count, calls.total.errors),
        **{name: (stats.count, stats.errors) for name, stats in calls.plugins.items()},
    }


def calls_of(times: int, call, *expected: type[BaseException]) -> None:
    for number in range(times):
        try:
            call(number)
        except expected:
            continue


def old_wrapper(x):
    yield


ASIDE = {
    "call_extra": lambda pm: pm.hook.a.call_extra([lambda x: x], {"x": 1}),
    "subset": lambda pm: pm.subset_hook_caller("a", [pm.get_plugin("other")])(x=1),
    "missing argument": lambda pm: pm.hook.a(),
    "historic": lambda pm: pm.hook.told.call_historic(kwargs={"x": 1}),
    "monitored": lambda pm: pm.hook.a(x=1),
    "old-style wrapper": lambda pm: pm.hook.a(x=1),
}
