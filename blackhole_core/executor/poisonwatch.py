"""Looks out for the call that kills the workers of one plugin, by the rules of :mod:`~blackhole_core.executor.poison`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final

from blackhole_core.errors import PoisonedCall
from blackhole_core.executor.outgoing import Outgoing
from blackhole_core.executor.poison import Fingerprint, PoisonPolicy, Quarantine, after_answer, after_death, recent
from blackhole_core.messages import HOST

__all__ = ["PoisonWatch"]


class PoisonWatch:
    """Owned by one runner. ``lock`` guards what is known, and is the runner's: what dies with a worker is judged while nothing else changes.

    ``armed`` may be read without it: whether there is anything to look out for, which there mostly is not.
    """

    def __init__(self, plugin: str, deaths: int, lock: threading.Lock) -> None:
        self._plugin: Final = plugin
        self._policy: Final = PoisonPolicy(deaths)
        self._lock = lock
        self._quarantine = Quarantine()
        self.armed = False

    @property
    def deaths(self) -> int:
        """How many deaths convict a call."""
        return self._policy.deaths

    def on_guard(self) -> bool:
        """Whether there is still something to look out for."""
        with self._lock:
            self._know(recent(self._quarantine, time.monotonic(), self._policy))
            return self.armed

    def identify(self, outgoing: Outgoing) -> Fingerprint:
        """Return the fingerprint of a call.

        :raises PoisonedCall: it is one that is not run any more.
        """
        call = outgoing.fingerprint()
        if call in self._quarantine.convicted:
            raise self.error(call)
        return call

    def error(self, call: Fingerprint) -> PoisonedCall:
        """Return what the caller of a convicted call is told."""
        return PoisonedCall(self._plugin, call.hook, deaths=self._policy.deaths, call=str(call))

    def answered(self, call: Fingerprint) -> None:
        """Take in that a call was answered, so that no death was its doing."""
        with self._lock:
            if self._quarantine.suspects(call):
                self._know(after_answer(self._quarantine, call))

    def died(self, running: Iterable[Outgoing]) -> Fingerprint | None:
        """Take in that a worker died with these calls on it; return the one that was convicted by that. Under the lock."""
        suspects = [call.fingerprint() for call in running if call.space != HOST or call.index >= 0]  # not a request for many
        quarantine, convicted = after_death(self._quarantine, time.monotonic(), suspects, self._policy)
        self._know(quarantine)
        return convicted

    @property
    def convicted(self) -> tuple[str, ...]:
        """The calls that are not run any more, by hook and digest, oldest first."""
        return tuple(str(call) for call in self._quarantine.convicted)

    def release(self) -> tuple[str, ...]:
        """Run such calls again, and forget what is held against others; return the former."""
        with self._lock:
            released = self.convicted
            self._know(Quarantine())
        return released

    def _know(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine
        self.armed = bool(quarantine)
