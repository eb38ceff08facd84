"""Circuit breaker and bulkhead of one instance, at any level: calls are let through, counted, or refused at once.

A plugin for which neither is configured has no guard, and its calls pass nothing of this. With one, each of its functions is called through a
stub, at level none as well, and ``map`` makes its calls one by one. Hook wrappers are let through: what they wrap is other plugins' work.

Invariant: ``_breaker`` and ``_running`` change under ``_lock``, which is never held while plugin code or a listener runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs

from blackhole_core.errors import BreakerOpen, CannotCross, PluginUnloaded, PoisonedCall, TooManyCalls
from blackhole_core.executor.proxy import PluginProxy, make_proxy
from blackhole_core.ids import Isolation, PluginId
from blackhole_core.lifecycle.breaker import Breaker, BreakerPolicy, Standing, after_call, before_call
from blackhole_core.messages import Implementation, Surface

__all__ = ["Guard", "GuardPolicy"]

_R = TypeVar("_R")

#: What is not the plugin's failure: it never got the call.
_NOT_ITS_FAULT: Final = (BreakerOpen, TooManyCalls, CannotCross, PoisonedCall, PluginUnloaded)
#: Seconds between two words on a plugin that is asked more than it may be: a flood of calls must not become a flood of events.
_QUIET: Final = 1.0


@attrs.frozen
class GuardPolicy:
    """What the operator wants; None: not that."""

    breaker: BreakerPolicy | None = None
    max_calls: int | None = None  #: calls that may wait or run at once

    def __bool__(self) -> bool:
        return self.breaker is not None or self.max_calls is not None


class _Here(PluginProxy):
    """Stands for a plugin whose code runs in the caller's thread after all."""

    __elsewhere__ = False


class Guard:
    """One instance's; a new version begins with a closed breaker."""

    def __init__(
        self, plugin: PluginId, policy: GuardPolicy, emit: Callable[..., object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plugin = plugin
        self._policy = policy
        self._emit = emit
        self._clock = clock
        self._lock = threading.Lock()
        self._breaker = Breaker()
        self._running = 0
        self._said = float("-inf")  # when it was last told that there are too many calls

    @property
    def standing(self) -> Standing | None:
        """How the breaker stands now; None when there is none."""
        policy = self._policy.breaker
        return self._breaker.standing(self._clock(), policy) if policy is not None else None

    def call(self, hook: str, function: Callable[..., _R], *args: Any) -> _R:
        """Return ``function(*args)``.

        :raises BreakerOpen: the plugin failed too often; nothing was called.
        :raises TooManyCalls: as many calls of it wait or run as may; nothing was called.
        """
        begun = self._enter(hook)
        failed: bool | None = None
        error: Exception | None = None
        try:
            result = function(*args)
            failed = False
        except Exception as raised:
            error = raised
            failed = None if isinstance(raised, _NOT_ITS_FAULT) else True
            raise
        finally:
            self._leave(begun, failed, error)
            del error  # or its traceback holds this frame, which holds it
        return result

    def _enter(self, hook: str) -> float:
        now = self._clock()
        wait = None
        with self._lock:
            full = self._policy.max_calls is not None and self._running >= self._policy.max_calls
            if not full:
                if self._policy.breaker is not None:
                    self._breaker, wait = before_call(self._breaker, now, self._policy.breaker)
                if wait is None:
                    self._running += 1
                    return now
            tell, self._said = full and now - self._said >= _QUIET, now if full else self._said
        if wait is not None:
            raise BreakerOpen(str(self._plugin), hook, retry_after=wait)
        assert self._policy.max_calls is not None
        if tell:
            self._emit("plugin.overloaded", self._plugin.name, version=self._plugin.version, hook=hook, max_calls=self._policy.max_calls)
        raise TooManyCalls(str(self._plugin), hook, self._policy.max_calls)

    def _leave(self, begun: float, failed: bool | None, error: Exception | None) -> None:
        policy = self._policy.breaker
        with self._lock:
            self._running -= 1
            before = self._breaker
            if policy is not None:
                self._breaker = after_call(before, self._clock(), policy, begun=begun, failed=failed)
            after = self._breaker
        if policy is not None and after.opened is not None and after.opened != before.opened:
            why = f"{type(error).__name__}: {error}"
            self._emit(
                "breaker.opened", self._plugin.name, version=self._plugin.version, error=why, failures=policy.failures, seconds=policy.open
            )
        elif before.opened is not None and after.opened is None:
            self._emit("breaker.closed", self._plugin.name, version=self._plugin.version)

    def around(self, plugin: object, surface: Surface, level: Isolation, project: str) -> object:
        """Return what stands for ``plugin`` in the hook manager: the same functions, each called through the guard."""

        def target(_index: int, implementation: Implementation) -> Callable[..., Any]:
            function: Callable[..., Any] = getattr(plugin, implementation.attribute)
            if implementation.is_generator:
                return function
            return lambda *args: self.call(implementation.hook, function, *args)

        kind = _Here if level is Isolation.NONE else PluginProxy
        return make_proxy(str(self._plugin), project, surface, target, kind=kind)
