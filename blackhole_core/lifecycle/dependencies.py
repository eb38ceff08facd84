"""Telling plugins what became of a plugin that they depend on: it is down, it is back, it was given up.

Invariants: ``_pending``, ``_telling`` and ``_said`` change under ``_lock``, which is never held while plugin code or a listener runs. One thread tells at a time, in the
order in which things happened, and exists only while there is something to tell; the host waits for it at its end. Nobody waits for who is told: each dependant has
a deadline, and one that fails at it is an event.
"""

from __future__ import annotations

import collections
import enum
import threading
from collections.abc import Callable
from typing import Final

from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.phase import Phase

__all__ = ["TOLD_SECONDS", "Dependencies", "Dependency"]

#: Seconds a dependant has to take notice. It is told by a call, so it may be in the middle of another one.
TOLD_SECONDS: Final = 5.0

_CONTRACT: Final = "plugin_dependency_changed"


class Dependency(enum.StrEnum):
    """What became of a plugin that others depend on."""

    DOWN = "down"  #: its worker ended; it is being started again, and calls wait for that
    BACK = "back"  #: it serves again
    BROKEN = "broken"  #: it was given up; calls fail


class Dependencies:
    """``dependants`` returns who depends on a plugin, each after what it needs itself; ``on_duty`` runs an action on a thread that the host waits for."""

    def __init__(
        self,
        dependants: Callable[[Member], tuple[Member, ...]],
        on_duty: Callable[[str, Callable[[], object]], object],
        emit: Callable[..., object],
    ) -> None:
        self._dependants = dependants
        self._on_duty = on_duty
        self._emit = emit
        self._lock = threading.Lock()
        self._pending: collections.deque[tuple[Member, Dependency, tuple[Member, ...]]] = collections.deque()
        self._telling = False
        self._said: dict[str, Dependency] = {}  # of each plugin, what was said of it last

    def changed(self, member: Member, what: Dependency) -> None:
        """Take in what became of ``member``, and tell who depends on it. Returns at once; any thread."""
        with self._lock:
            if what is self._said.get(member.name, Dependency.BACK):
                return  # no news: a first start, an ordinary swap, or one that has died again before it was back
            self._said[member.name] = what
        dependants = self._dependants(member)
        if not dependants:
            return
        names = [dependant.name for dependant in dependants]
        self._emit("plugin.dependency_changed", member.name, change=what.value, dependants=names)
        with self._lock:
            self._pending.append((member, what, dependants))
            begin, self._telling = not self._telling, True
        if begin:
            self._on_duty("dependants", self._tell_all)

    def _tell_all(self) -> None:
        while (news := self._next()) is not None:
            member, what, dependants = news
            for dependant in dependants:
                self._tell(dependant, member, what)

    def _next(self) -> tuple[Member, Dependency, tuple[Member, ...]] | None:
        with self._lock:
            if self._pending:
                return self._pending.popleft()
            self._telling = False
            return None

    def _tell(self, dependant: Member, member: Member, what: Dependency) -> None:
        instance = dependant.instance
        if instance is None or dependant.phase is Phase.BROKEN or not instance.takes_part(_CONTRACT):
            return
        try:
            instance.bounded_contract(_CONTRACT, TOLD_SECONDS, name=member.name, phase=what.value)
        except Exception as error:
            if dependant.instance is instance:  # else it has ended meanwhile, and need not know
                self._emit(
                    "plugin.dependency_untold",
                    dependant.name,
                    version=instance.id.version,
                    dependency=member.name,
                    change=what.value,
                    error=f"{type(error).__name__}: {error}",
                )
