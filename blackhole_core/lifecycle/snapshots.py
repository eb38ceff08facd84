"""Taking snapshots of running plugins as their manifests ask: every so many seconds, and after a change that the plugin tells of.

Invariants: what is below is guarded by ``_lock``, which is never held while anything of a plugin, a store or a listener runs. A plugin has at most one timer
here, or one thread that takes a snapshot, never both: the next timer is set when the snapshot is over, so none piles up. Nothing here refers to an
instance, which would keep its code alive: it is named by its generation.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

import attrs

from blackhole_core.errors import StateError, SwapInProgress
from blackhole_core.executor.timers import Timer, Timers
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member
from blackhole_core.manifest.model import SnapshotPolicy

__all__ = ["CHANGE_PAUSE", "SnapshotKeeper", "due_in"]

#: Seconds between two snapshots that changes lead to: a plugin that tells of each change must not make its host write to disk all the time.
CHANGE_PAUSE: Final = 1.0
#: Snapshots of its own that each plugin keeps; older ones are removed, or they would push out those that a rollback needs.
_KEPT: Final = 2


def due_in(policy: SnapshotPolicy, tried: float, now: float, *, changed: bool) -> float | None:
    """Return in how many seconds of ``now`` the next snapshot is due; None: not before a change.

    ``tried`` is when the last one was over, or the plugin began to serve; ``changed``: the plugin has told of a change since. Pure.
    """
    instants = []
    if policy.every is not None:
        instants.append(tried + policy.every)
    if policy.on_change and changed:
        instants.append(tried + CHANGE_PAUSE)
    return max(0.0, min(instants) - now) if instants else None


@attrs.define(eq=False)
class _Kept:
    """One instance whose state is kept."""

    member: Member
    version: str | None
    generation: int
    policy: SnapshotPolicy
    tried: float
    changed: bool = False
    taking: bool = False
    ended: bool = False
    timer: Timer | None = None
    ids: tuple[str, ...] = ()  #: of its snapshots that are still there, oldest first; touched by the thread that takes one


class SnapshotKeeper:
    """``take(member, generation, make_room)`` saves the state and returns the snapshot's id, None when there was nothing to save; ``drop`` removes a snapshot;
    ``on_duty(name, action)`` runs an action on a thread that the host waits for.
    """

    def __init__(
        self,
        timers: Timers,
        take: Callable[[Member, int, Callable[[], object]], str | None],
        drop: Callable[[str, str], object],
        on_duty: Callable[[str, Callable[[], object]], object],
        emit: Callable[..., object],
    ) -> None:
        self._timers = timers
        self._take = take
        self._drop = drop
        self._on_duty = on_duty
        self._emit = emit
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def begin(self, member: Member, instance: Instance) -> None:
        """Keep the state of an instance that serves now, if its manifest asks for that; the one before it is forgotten."""
        self.end(member)
        manifest = instance.candidate.manifest
        policy = manifest.state.snapshot if manifest is not None else None
        if policy is None or not instance.takes_part("plugin_export_state"):
            return
        kept = _Kept(member, instance.id.version, instance.generation, policy, time.monotonic())
        with self._lock:
            self._kept[member.name] = kept
            self._schedule(kept)
        instance.on_state_change(lambda: self._changed(kept))

    def end(self, member: Member) -> None:
        """Keep the state of what served as ``member`` no longer."""
        with self._lock:
            kept = self._kept.pop(member.name, None)
            if kept is not None:
                kept.ended = True
                self._unschedule(kept)

    def _changed(self, kept: _Kept) -> None:
        """Take in that the plugin says that its state changed. Any thread; never blocks."""
        with self._lock:
            if kept.changed or kept.ended or not kept.policy.on_change:
                return
            kept.changed = True
            if not kept.taking:
                self._unschedule(kept)
                self._schedule(kept)

    def _schedule(self, kept: _Kept) -> None:
        seconds = due_in(kept.policy, kept.tried, time.monotonic(), changed=kept.changed)
        if seconds is not None and not kept.ended:
            kept.timer = self._timers.after(seconds, lambda: self._begin_taking(kept))

    @staticmethod
    def _unschedule(kept: _Kept) -> None:
        if kept.timer is not None:
            kept.timer.cancel()
            kept.timer = None

    def _begin_taking(self, kept: _Kept) -> None:
        with self._lock:
            if kept.ended or kept.taking:
                return
            kept.taking, kept.timer = True, None
        self._on_duty(f"snapshot-{kept.member.name}", lambda: self._snapshot(kept))

    def _snapshot(self, kept: _Kept) -> None:
        with self._lock:
            told, kept.changed = kept.changed, False  # what is told from here on may not be in it
        busy = False
        try:
            taken = self._take(kept.member, kept.generation, lambda: self._make_room(kept))
            if taken is not None:
                kept.ids = (*kept.ids, taken)
                self._emit("state.kept", kept.member.name, snapshot=taken)
        except SwapInProgress:
            busy = True  # an operation that saves the state itself, or changes it: later
        except Exception as error:
            self._emit("state.not_kept", kept.member.name, version=kept.version, error=f"{type(error).__name__}: {error}")
        finally:
            with self._lock:
                kept.taking, kept.tried = False, time.monotonic()
                kept.changed |= told and busy
                self._schedule(kept)

    def _make_room(self, kept: _Kept) -> None:
        """Remove its own oldest snapshot, just before the next one is saved: later, the store might have dropped somebody else's for that one."""
        while len(kept.ids) >= _KEPT:
            snapshot, *rest = kept.ids
            kept.ids = tuple(rest)
            with contextlib.suppress(StateError):  # somebody removed it, or the store did: it is gone, as wanted
                self._drop(kept.member.name, snapshot)
