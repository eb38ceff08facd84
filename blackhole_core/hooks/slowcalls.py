"""Calls that have no generated body: ``call_extra``, historic calls, subset callers, and what passes a closed gate.

What a generated body does for its calls is done here around pluggy's own path. It is a context manager and not a function that calls, because a warning of
pluggy's (``PluggyTeardownRaisedWarning``) finds the calling code by counting frames: there must be none that pluggy does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from pluggy import HookCaller as PluggyHookCaller
from pluggy import HookImpl

if TYPE_CHECKING:
    from blackhole_core.hooks.caller import HookCaller
    from blackhole_core.hooks.telemetry import SlowCall

__all__ = ["SlowPath", "with_extra"]


class SlowPath:
    """One such call: it waits at closed gates, holds a ticket, is counted and timed if anything is, and its failure is attributed."""

    __slots__ = ("_caller", "_impls", "_measured", "_ticket")

    def __init__(self, caller: HookCaller, impls: Sequence[HookImpl]) -> None:
        self._caller = caller
        self._impls = impls
        self._measured: SlowCall | None = None

    def __enter__(self) -> Self:
        self._ticket = self._caller.door.enter(self._caller.manager.gate_timeout)
        self._measured = self._caller.measured_aside()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if self._measured is not None:
                self._measured.ended(failed=error is not None)
            if error is not None:
                self._caller.attribute(error, self._impls)
        finally:
            self._caller.door.leave(self._ticket)


def with_extra(impls: Sequence[HookImpl], methods: Sequence[Callable[..., object]]) -> list[HookImpl]:
    """Return ``impls`` with the methods of ``call_extra`` at the places that pluggy gives them."""
    scratch = PluggyHookCaller("", _implementations)
    scratch._hookimpls.extend(impls)
    return cast(list[HookImpl], scratch.call_extra(methods, {}))


def _implementations(_name: str, impls: Sequence[HookImpl], _arguments: Mapping[str, object], _firstresult: bool) -> Any:
    """Stand for the call: hand out what would be called."""
    return impls
