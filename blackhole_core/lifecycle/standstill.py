"""Holding one plugin still: new calls wait, and it is known when those that had begun have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar

from blackhole_core.hooks.gate import Begun, HookGate
from blackhole_core.hooks.manager import HookManager
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member

__all__ = ["FROM_INSIDE", "Standstill"]

#: Why an operation that must wait for calls to end is refused to such a call.
FROM_INSIDE = "it was asked for from inside a call of this plugin or of one of its hooks, which would have to end first"


_T = TypeVar("_T")


class Standstill:
    """The closed gates of one plugin, for the length of a ``with`` block: over ``execute``, and over its hooks unless ``hooks_open``.

    They are open again when the block is left, however it is left. What had begun when they closed can be waited for afterwards as well; where the hooks stayed
    open, what had begun when they were switched, which :meth:`switched` tells.
    """

    def __init__(
        self, manager: HookManager, member: Member, instance: Instance, more_hooks: Iterable[str] = (), *, hooks_open: bool = False
    ) -> None:
        self._manager = manager
        self._turnstile = member.turnstile
        self._instance = instance
        self._hooks = instance.hooks.union(more_hooks)
        gated = () if hooks_open else self._hooks
        self._gate = HookGate(manager, gated, plugin=member.label, part_of_other=self._turnstile.inside, of=member.name)
        self._hooks_open = hooks_open
        self._begun = self._gate.begun
        self._shut: float | None = None  # when they closed, until they open
        self.seconds = 0.0  #: how long new calls were held back, once the gates are open again

    def __enter__(self) -> Self:
        self._shut = time.monotonic()
        try:
            self._gate.close()
            self._turnstile.close()
        except BaseException:
            self.open()
            raise
        self._begun = self._gate.begun
        self._shut = self._gate.closed_at
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.open()

    def open(self) -> None:
        """Let calls begin again; nothing happens when they may. For who must be sure of it: an interrupt may come just before ``__exit__`` begins."""
        try:
            self._gate.open()
        finally:
            self._turnstile.open()
            if self._shut is not None:
                self.seconds, self._shut = time.monotonic() - self._shut, None

    def during(self, action: Callable[[Self], _T]) -> _T:
        """Return what ``action`` returns for this, called while the gates are closed."""
        try:
            with self:
                return action(self)
        finally:
            self.open()

    def waits_for_this_call(self) -> bool:
        """Whether the calling code is inside a call that would have to end first."""
        return self._turnstile.inside() or (self._inside_open_hooks() if self._hooks_open else self._gate.waits_for_this_call())

    def _inside_open_hooks(self) -> bool:
        running = Begun()
        with self._manager.hook_lock:
            running.add_running_calls_of(caller for name in self._hooks if (caller := self._manager.caller(name)) is not None)
        return running.includes_this_call()

    def switched(self, begun: Begun) -> None:
        """Wait from now on for ``begun`` as well: the calls that ran on what was replaced while the hooks were open."""
        if self._hooks_open:
            self._begun = begun

    def drained(self, timeout: float) -> bool:
        """Wait for what had begun: hook calls, ``execute`` calls, and what the runner still holds for callers that gave up.

        Right at any time, the gates open again or not, as long as the instance has been replaced by then: what began since is not counted.
        """
        until = time.monotonic() + timeout

        def left() -> float:
            return max(0.0, until - time.monotonic())

        return self._begun.drained(left()) and self._turnstile.drained(self._instance, left()) and self._instance.runner.drained(left())
