"""Holding one plugin still: new calls wait, and it is known when those that had begun have ended."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from blackhole_core.hooks.gate import HookGate
from blackhole_core.hooks.manager import HookManager
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member

__all__ = ["FROM_INSIDE", "Standstill"]

#: Why an operation that must wait for calls to end is refused to such a call.
FROM_INSIDE = "it was asked for from inside a call of this plugin or of one of its hooks, which would have to end first"


class Standstill:
    """The closed gates of one plugin, for the length of a ``with`` block: over its hooks, and over ``execute``.

    Both are open again when the block is left, however it is left. What had begun when they closed can be waited for afterwards as well.
    """

    def __init__(self, manager: HookManager, member: Member, instance: Instance, more_hooks: Iterable[str] = ()) -> None:
        self._turnstile = member.turnstile
        self._instance = instance
        self._gate = HookGate(manager, instance.hooks.union(more_hooks), plugin=member.label, part_of_other=self._turnstile.inside)
        self._begun = self._gate.begun
        self._shut = 0.0
        self.seconds = 0.0  #: how long the gates were shut, once they are open again

    def __enter__(self) -> Self:
        self._shut = time.monotonic()
        try:
            self._gate.close()
            self._turnstile.close()
        except BaseException:
            self._open()
            raise
        self._begun = self._gate.begun
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._open()

    def _open(self) -> None:
        try:
            self._gate.open()
        finally:
            self._turnstile.open()
            self.seconds = time.monotonic() - self._shut

    def waits_for_this_call(self) -> bool:
        """Whether the calling code is inside a call that would have to end first."""
        return self._turnstile.inside() or self._gate.waits_for_this_call()

    def drained(self, timeout: float) -> bool:
        """Wait for what had begun: hook calls, ``execute`` calls, and what the runner still holds for callers that gave up.

        Right at any time, the gates open again or not, as long as the instance has been replaced by then: what began since is not counted.
        """
        until = time.monotonic() + timeout

        def left() -> float:
            return max(0.0, until - time.monotonic())

        return self._begun.drained(left()) and self._turnstile.drained(self._instance, left()) and self._instance.runner.drained(left())
