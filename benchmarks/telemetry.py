"""What telemetry costs a hook call: ``python -m benchmarks telemetry [--json FILE] [--check]``.

The subject is the sampled call, so 0.80 times beside "off" means that sampling makes it 1.25 times as long. "never on" is a manager
that has no telemetry: turned off again, the call must be the same. "each timed" is for who wants every call in the histogram.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.dispatch import Specs, hookimpl
from benchmarks.harness import Case, main, statement
from blackhole_core.hooks.manager import HookManager
from blackhole_core.hooks.telemetry import DEFAULT_SAMPLE

_SUBJECT: Final = f"1 in {DEFAULT_SAMPLE} timed"
#: The call may take 1.25 times as long when it is sampled.
_ALLOWED: Final = 1 / 1.25


class Answering:
    """An implementation as small as can be: what is measured is the way to it."""

    @hookimpl
    def every(self, a: int, b: int) -> int:
        return a

    @hookimpl(trylast=True)
    def first(self, a: int, b: int) -> int:
        return b


class Passing:
    """An implementation that leaves the answer to another."""

    @hookimpl
    def first(self, a: int, b: int) -> None: ...


class Wrapping:
    """A new-style wrapper that does nothing."""

    @hookimpl(wrapper=True)
    def every(self, a: int, b: int) -> Any:
        return (yield)


class Raising:
    """An implementation that fails."""

    @hookimpl(tryfirst=True)
    def every(self, a: int, b: int) -> None:
        raise LookupError


def manager(contender: str, *plugins: tuple[type, int]) -> HookManager:
    """Return a manager with so many instances of each class registered, and telemetry as the contender has it."""
    pm = HookManager("bench")
    pm.add_hookspecs(Specs)
    for plugin, count in plugins:
        for _ in range(count):
            pm.register(plugin())
    if contender != "never on":
        pm.telemetry.start(sample=1 if contender == "each timed" else DEFAULT_SAMPLE)
    if contender == "off":
        pm.telemetry.stop()
    return pm


def swallowing(hook: Any) -> Any:
    """Return a function that calls the hook and expects it to fail."""

    def call() -> None:
        try:
            hook(a=1, b=2)
        except LookupError:
            return
        raise AssertionError("the hook was to fail")

    return call


_ROWS: Final[dict[str, tuple[str, tuple[tuple[type, int], ...]]]] = {
    **{f"{count} impl, pm.hook.x(...)": ("pm.hook.every(a=1, b=2)", ((Answering, count),)) for count in (1, 2, 5, 10)},
    **{f"{count} impl, h = pm.hook.x": ("h(a=1, b=2)", ((Answering, count),)) for count in (1, 2, 5, 10)},
    "firstresult, the first of 10 answers": ("pm.hook.first(a=1, b=2)", ((Answering, 10),)),
    "firstresult, the last of 10 answers": ("pm.hook.first(a=1, b=2)", ((Answering, 1), (Passing, 9))),
    "1 wrapper, 1 impl": ("pm.hook.every(a=1, b=2)", ((Answering, 1), (Wrapping, 1))),
    "2 wrappers, 5 impl": ("pm.hook.every(a=1, b=2)", ((Answering, 5), (Wrapping, 2))),
    "1 impl that raises": ("failing()", ((Raising, 1),)),
}


def cases() -> Iterator[Case]:
    """Yield each row for each contender."""
    for row, (source, plugins) in _ROWS.items():
        for contender in (_SUBJECT, "off", "never on", "each timed"):
            pm = manager(contender, *plugins)
            yield Case(row, contender, statement(source, {"pm": pm, "h": pm.hook.every, "failing": swallowing(pm.hook.every)}))


if __name__ == "__main__":
    within = {(row, "off"): _ALLOWED for row in _ROWS if row != "1 impl that raises"}
    sys.exit(main("Telemetry of a hook call at level none", _SUBJECT, list(cases()), known_slower=_ROWS, targets=within))
