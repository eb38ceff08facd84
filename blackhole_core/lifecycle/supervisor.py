"""The one owner of members and instances: who runs, who may operate on it, and what happens when one dies.

Invariants:

* ``_members`` and every field of a member change only under ``_lock``; the lock is never held while plugin code runs.
* At most one operation (load, unload, swap) has claimed a member at a time; restarts claim nothing, they belong to the
  instance and die with it.
* Every thread started here is joined by :meth:`Supervisor.close`; before that, what it waits for has been ended.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from blackhole_core.errors import SwapInProgress, UnknownPlugin, describe_exit
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.remote import RemoteRunner
from blackhole_core.executor.timers import Timers
from blackhole_core.ids import canonical_name
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.phase import TRANSITIONS, Phase, advance
from blackhole_core.lifecycle.restart import GiveUp, decide
from blackhole_core.lifecycle.settings import Settings
from blackhole_core.messages import Call
from blackhole_core.state.manager import StateManager

__all__ = ["Supervisor"]


class Supervisor:
    """Keeps plugins running, within their restart intensity."""

    def __init__(
        self, timers: Timers, states: StateManager, emit: Callable[..., object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timers = timers
        self._states = states
        self._emit = emit
        self._clock = clock
        self._lock = threading.RLock()
        self._members: dict[str, Member] = {}
        self._duties: set[threading.Thread] = set()
        self._retiring: set[Instance] = set()
        self._closed = False

    # --- members -----------------------------------------------------------------------------------------------------

    def member(self, name: str) -> Member:
        """Return the member called ``name``.

        :raises UnknownPlugin: nothing of that name was ever loaded here.
        """
        with self._lock:
            member = self._members.get(canonical_name(name))
            if member is None:
                raise UnknownPlugin(name, (known.name for known in self._members.values()))
            return member

    def enrol(self, name: str, settings: Settings) -> Member:
        """Return the member called ``name``, made if it is new; its settings are renewed."""
        with self._lock:
            member = self._members.setdefault(canonical_name(name), Member(name, settings))
            member.settings = settings
            return member

    def members(self) -> tuple[Member, ...]:
        """Return every member in the order of enrolment."""
        with self._lock:
            return tuple(self._members.values())

    def running(self) -> tuple[Member, ...]:
        """Return the members that have an instance."""
        return tuple(member for member in self.members() if member.instance is not None)

    @contextlib.contextmanager
    def claim(self, member: Member, operation: str) -> Iterator[None]:
        """Be the only operation on ``member`` for the length of the block.

        :raises SwapInProgress: another one is.
        """
        with self._lock:
            if member.busy is not None:
                raise SwapInProgress(member.label, member.busy)
            member.busy = operation
        try:
            yield
        finally:
            with self._lock:
                member.busy = None

    def move(self, member: Member, phase: Phase, error: BaseException | None = None) -> None:
        """Take ``member`` to ``phase`` and tell the listeners."""
        with self._lock:
            before, member.phase = member.phase, advance(member.phase, phase)
            member.error = error
        facts = {"error": f"{type(error).__name__}: {error}"} if error is not None else {}
        self._emit("plugin.phase", member.name, version=_version(member), before=before.value, phase=phase.value, **facts)

    def adopt(self, member: Member, instance: Instance) -> None:
        """Make ``instance`` the one that serves, and be told of its deaths from now on."""
        with self._lock:
            member.instance = instance
            member.candidate = instance.candidate
            member.deaths = ()
        if isinstance(instance.runner, RemoteRunner):
            instance.runner.watch(lambda ended: self._died(member, instance, ended))

    def release(self, member: Member) -> Instance | None:
        """Let go of the instance that serves: its deaths are nobody's business from now on."""
        with self._lock:
            instance, member.instance = member.instance, None
            return instance

    # --- death and restart -------------------------------------------------------------------------------------------

    def _died(self, member: Member, instance: Instance, ended: Ended) -> None:
        """Told by the I/O thread of a worker that nobody asked to end."""
        how = ended.reason or f"its worker {describe_exit(ended.exit)}"
        self._emit("worker.died", member.name, version=instance.id.version, exit=ended.exit, reason=how, tail=list(ended.tail))
        self._decide(member, instance, how, None)

    def _decide(self, member: Member, instance: Instance, how: str, error: BaseException | None) -> None:
        runner = instance.runner
        assert isinstance(runner, RemoteRunner)
        with self._lock:
            if member.instance is not instance or self._closed:
                return
            now = self._clock()
            member.deaths = (*member.deaths, now)[-100:]
            decision = decide(member.deaths, now, member.settings.restart)
        if isinstance(decision, GiveUp):
            reason = f"{decision.reason}; the last time {how}"
            runner.give_up(reason)
            self._try_move(member, Phase.BROKEN, error)
            self._emit("plugin.broken", member.name, version=instance.id.version, reason=reason)
            return
        self._try_move(member, Phase.STARTING, error)
        self._timers.after(decision.delay, lambda: self._on_duty(f"restart-{member.name}", lambda: self._restart(member, instance)))

    def _restart(self, member: Member, instance: Instance) -> None:
        runner = instance.runner
        assert isinstance(runner, RemoteRunner)
        try:
            runner.restart(lambda via: self._prepare(member, instance, via))
        except Exception as error:
            self._emit("worker.restart_failed", member.name, version=instance.id.version, error=f"{type(error).__name__}: {error}")
            self._decide(member, instance, f"it could not be started again: {error}", error)
            return
        with self._lock:
            member.restarts += 1
        self._try_move(member, Phase.RUNNING)
        self._emit("worker.restarted", member.name, version=instance.id.version, pid=runner.pid, restarts=member.restarts)

    def _prepare(self, member: Member, instance: Instance, via: Callable[[Call], Any]) -> None:
        """Start the plugin in a new worker and give it the newest state that was kept."""
        instance.begin(via)
        if not instance.takes_part("plugin_import_state"):
            return
        snapshot = self._states.latest(member.name)
        if snapshot is None:
            return
        if snapshot.state_version != instance.state_version:
            self._emit("state.skipped", member.name, snapshot=snapshot.id, wanted=instance.state_version, got=snapshot.state_version)
            return
        instance.contract("plugin_import_state", via=via, state=snapshot.data, version=snapshot.state_version)
        self._emit("state.restored", member.name, snapshot=snapshot.id, created=snapshot.created)

    def _try_move(self, member: Member, phase: Phase, error: BaseException | None = None) -> None:
        """Move a member whose phase an operation may have changed meanwhile; the operation's phase then stands."""
        with self._lock:
            if phase in TRANSITIONS[member.phase]:
                self.move(member, phase, error)

    # --- ending ------------------------------------------------------------------------------------------------------

    def retire(self, instance: Instance, drained: Callable[[float], bool]) -> None:
        """End an instance that was replaced, as soon as the calls that had begun on it are over; does not wait for them."""
        with self._lock:
            self._retiring.add(instance)

        def duty() -> None:
            while not drained(0.5) and not self._closed:
                continue
            self._end_retired(instance)

        self._on_duty(f"retire-{instance.id.name}", duty)

    def _end_retired(self, instance: Instance) -> None:
        with self._lock:
            if instance not in self._retiring:
                return
            self._retiring.discard(instance)
        instance.end()
        self._emit("plugin.retired", instance.id.name, version=instance.id.version, generation=instance.generation)

    def close(self) -> None:
        """Refuse new duties, end instances that are still retiring, and wait for the duties to end."""
        with self._lock:
            self._closed = True
            duties, retiring = set(self._duties), set(self._retiring)
        for instance in retiring:
            self._end_retired(instance)
        for duty in duties:
            if duty is not threading.current_thread():
                duty.join()

    def _on_duty(self, name: str, action: Callable[[], object]) -> None:
        """Run ``action`` on a thread of its own that :meth:`close` waits for."""

        def run() -> None:
            try:
                action()
            finally:
                with self._lock:
                    self._duties.discard(threading.current_thread())

        with self._lock:
            if self._closed:
                return
            thread = threading.Thread(target=run, name=f"blackhole-{name}", daemon=True)
            self._duties.add(thread)
            thread.start()


def _version(member: Member) -> str | None:
    return member.candidate.id.version if member.candidate is not None else None
