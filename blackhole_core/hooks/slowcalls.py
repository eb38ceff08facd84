"""Calls that have no generated body: ``call_extra``, historic calls, subset callers, and what passes a closed gate.

What a generated body does for its calls is done here around pluggy's own path. It is a context manager and not a function that calls, because a warning of
pluggy's (``PluggyTeardownRaisedWarning``) finds the calling code by counting frames: there must be none that pluggy does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from pluggy import HookImpl, HookimplOpts

if TYPE_CHECKING:
    from blackhole_core.hooks.caller import HookCaller
    from blackhole_core.hooks.telemetry import SlowCall

__all__ = ["SlowPath", "with_extra"]

#: What pluggy gives to an additional method of ``call_extra``.
_NO_OPTIONS: Final[HookimplOpts] = {
    "wrapper": False,
    "hookwrapper": False,
    "optionalhook": False,
    "tryfirst": False,
    "trylast": False,
    "specname": None,
}


class SlowPath:
    """One such call: it waits at closed gates, holds a ticket, is counted and timed if anything is, and its failure is attributed."""

    __slots__ = ("_caller", "_impls", "_measured", "_ticket")

    def __init__(self, caller: HookCaller, impls: Sequence[HookImpl]) -> None:
        self._caller = caller
        self._impls = impls
        self._measured: SlowCall | None = None

    def __enter__(self) -> Self:
        self._ticket = self._caller.door.enter(self._caller.manager.gate_timeout)
        try:
            self._measured = self._caller.measured_aside()
        except BaseException:  # Ctrl-C: nobody calls __exit__ then, and a gate would wait for the ticket for ever
            self._caller.door.leave(self._ticket)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if self._measured is not None:
                self._measured.ended(failed=error is not None)
            if error is not None:
                self._caller.attribute(error, self._impls)
        finally:
            self._caller.door.leave(self._ticket)


def with_extra(impls: Sequence[HookImpl], methods: Iterable[Callable[..., object]]) -> list[HookImpl]:
    """Return ``impls`` with the methods of ``call_extra`` where pluggy puts them: behind the last that is neither a wrapper nor ``tryfirst``."""
    placed = list(impls)
    for method in methods:
        place = len(placed)
        while place and (placed[place - 1].hookwrapper or placed[place - 1].wrapper or placed[place - 1].tryfirst):
            place -= 1
        placed.insert(place, HookImpl(None, "<temp>", method, _NO_OPTIONS))
    return placed
