"""Whether a worker that owes an answer is slow or hung. Pure.

The host asks a worker that owes it something, every ``heartbeat`` seconds, to say a word; the worker's reader thread answers, whatever the
plugin's threads do. So a worker that does not answer cannot run at all: it is stopped, or code in it keeps the interpreter to itself.
How long a call takes says nothing about that.

Only time counts in which the worker could have answered: none while the host held it still itself, and of the time since the last look no more
than ``heartbeat``. A host that was stopped or starved wakes up with the answer unread before it, and must not take its own silence for the worker's.
"""

from __future__ import annotations

import enum

import attrs

__all__ = ["Beat", "HeartbeatPolicy", "Pulse", "beat"]


class Beat(enum.Enum):
    """What to do after a look."""

    REST = "rest"  #: look no more, until the worker owes something again
    ASK = "ask"  #: ask it to answer
    WAIT = "wait"  #: look again
    HUNG = "hung"  #: end it


@attrs.frozen
class HeartbeatPolicy:
    """How often a worker is asked, and how long it may say nothing."""

    heartbeat: float = 1.0  #: seconds between two looks: rare enough to cost nothing beside calls, often enough for a silence of seconds
    hung_after: float = (
        30.0  #: seconds of silence; a pure function in C that keeps the interpreter so long is rarer than one that never ends. 0: never
    )

    def __bool__(self) -> bool:
        """Whether there is a heartbeat at all."""
        return self.hung_after > 0


@attrs.frozen
class Pulse:
    """What is known of a worker after a look at ``at`` (seconds of any clock that never goes back).

    ``asked``: it was asked and has not answered. ``silent``: for how many seconds that count.
    """

    at: float
    asked: bool = False
    silent: float = 0.0

    def answered(self) -> Pulse:
        """Return the pulse after an answer."""
        return Pulse(self.at)

    def resumed(self, now: float) -> Pulse:
        """Return the pulse of a worker that was not looked at for a while."""
        return attrs.evolve(self, at=now)


def beat(pulse: Pulse, now: float, policy: HeartbeatPolicy, *, owes: bool, paused: bool = False) -> tuple[Pulse, Beat]:
    """Look at a worker at ``now``: return what is known of it from now on, and what to do.

    ``owes``: it has not answered every call. ``paused``: the host itself holds it still, or did a moment ago.
    """
    if not owes:
        return attrs.evolve(pulse, at=now), Beat.REST
    if not pulse.asked:
        return Pulse(now, asked=True), Beat.ASK
    passed = 0.0 if paused else min(now - pulse.at, policy.heartbeat)
    silent = pulse.silent + passed
    return Pulse(now, True, silent), Beat.HUNG if silent >= policy.hung_after else Beat.WAIT
