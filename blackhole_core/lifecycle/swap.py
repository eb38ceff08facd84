"""Replacing one version of a plugin by another while calls flow.

The order, and why: everything that is slow or can fail without the old version's help comes first, while the old one serves
(*prepare*: is it allowed, is there a migration; *load*: import, start, health). Then the gate closes: new calls wait. The
calls that had begun end (drain), the old version gives its state (*export*), the new one takes it, migrated (*import*), and
what stands behind the hook callers is replaced (*switch*). The gate opens. *cleanup* ends the old version.

Every step before the switch can be undone, and is: the gate opens, the old version goes on with the state it never lost, and
the new one is released. After the switch nothing can fail any more; a fault while cleaning up is an event.

A plugin without state hooks needs no drain: its gate is shut for the switch alone, and the old version ends when the calls
that had begun on it are over. A plugin that is BROKEN cannot be asked for its state: the new version gets the newest snapshot.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import attrs

from blackhole_core.callcontext import chain
from blackhole_core.errors import BlackholeError, StateError, SwapFailed
from blackhole_core.hooks.manager import HookManager
from blackhole_core.ids import Isolation
from blackhole_core.lifecycle.carrying import plan_by, restore_newest
from blackhole_core.lifecycle.handover import Drained, Handover
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member, Previous
from blackhole_core.lifecycle.phase import Phase
from blackhole_core.lifecycle.report import PHASES, SwapReport
from blackhole_core.lifecycle.standstill import FROM_INSIDE, Standstill
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.registry.candidate import Candidate
from blackhole_core.state.manager import StateManager
from blackhole_core.state.snapshot import Snapshot

__all__ = ["Swap", "SwapRequest", "Swapper"]


@attrs.frozen
class SwapRequest:
    """What is wanted. The candidate is found by a function, so that finding and unpacking it is part of the swap."""

    find: Callable[[], Candidate]
    isolation: Isolation | None = None  #: None = the level that was asked for last, else what configuration or manifest says
    timeout: float | None = None  #: seconds to wait for calls that had begun; None = the plugin's ``drain_timeout``
    force: bool = False  #: go on when they do not end in time, and give ``fallback`` when state cannot be migrated
    fallback: Callable[[], Snapshot] | None = None  #: the state that the wanted version handed over when it was replaced
    patience: float = 0.0  #: seconds to wait for another operation on the plugin to end


@attrs.frozen
class Swapper:
    """What every swap of a host works with."""

    supervisor: Supervisor
    hooks: HookManager
    states: StateManager
    emit: Callable[..., object]
    start: Callable[[Member, Candidate, Isolation | None], Instance]
    admit: Callable[[Member, Candidate], None]  #: raises when the operator, a dependency or a missing requirement forbids the new version

    def swap(self, member: Member, request: SwapRequest) -> SwapReport:
        """Carry out one swap.

        :raises SwapInProgress: another operation on the plugin is running.
        :raises SwapFailed: the old version serves on; ``phase`` and ``cause`` say what happened.
        """
        with self.supervisor.claim(member, "a swap", patience=request.patience):
            return Swap(self, member, request).run()


class Swap:
    """One swap of one member, from the first phase to the last. Used once, by one thread."""

    def __init__(self, tools: Swapper, member: Member, request: SwapRequest) -> None:
        old = member.instance
        if old is None:
            raise SwapFailed(member.label, "prepare", f"it is not running (phase {member.phase}); load it instead")
        self._tools = tools
        self._member = member
        self._request = request
        self._old = old
        self._new: Instance | None = None
        self._broken = member.phase is Phase.BROKEN
        self._handover = Handover(old, member.settings, tools.states)
        self._phase = "prepare"
        self._times = dict.fromkeys(PHASES, 0.0)
        self._gate_seconds = 0.0
        self._fallback: Snapshot | None = None
        self._state_lost: str | None = None

    # --- the whole ---------------------------------------------------------------------------------------------------

    def run(self) -> SwapReport:
        """Go through all phases; on a failure everything is as before."""
        still = None
        try:
            with self._timed("prepare"):
                candidate = self._request.find()
                level = self._request.isolation or self._member.isolation or self._member.settings.level(candidate)
                if self._serves_already(candidate, level):
                    return self._report(self._old, unchanged=True)
                self._prepare(candidate)
            with self._timed("load"):
                new = self._new = self._load(candidate, level)
            still = Standstill(self._tools.hooks, self._member, self._old, new.hooks)
            self._replace(new, still)
        except (Exception, SystemExit) as error:
            raise self._abort(error) from error
        except BaseException as error:  # Ctrl-C: leave one whole version, then go where it wanted to go
            if still is not None and self._new is not None and self._member.instance is self._new:
                self._clean_up(self._new, still)
            else:
                self._abort(error)
            raise
        retiring = self._clean_up(new, still)
        report = self._report(new, retiring=retiring)
        self._tools.emit("swap.done", self._member.name, report=report.as_dict())
        return report

    def _report(self, serving: Instance, *, unchanged: bool = False, retiring: bool = False) -> SwapReport:
        return SwapReport(
            plugin=self._member.name,
            from_version=self._old.id.version,
            to_version=serving.id.version,
            generation=serving.generation,
            unchanged=unchanged,
            gate_seconds=self._gate_seconds,
            drain_seconds=self._handover.drain_seconds,
            migrate_seconds=self._handover.migrate_seconds,
            state_bytes=self._handover.state_bytes,
            phases=dict(self._times),
            retiring=retiring,
            state_lost=self._state_lost,
        )

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Run a phase: tell the listeners that it begins, and take its time."""
        self._phase = phase
        self._tools.emit("swap.phase", self._member.name, phase=phase, from_version=self._old.id.version)
        begun = time.monotonic()
        try:
            yield
        finally:
            self._times[phase] += time.monotonic() - begun

    def _abort(self, error: BaseException) -> SwapFailed:
        """Release the new version; the gate is open and the old one serves already."""
        failed_in = self._phase
        if self._new is not None and self._member.instance is not self._new:
            self._new.end()
        failure = SwapFailed(self._member.label, failed_in, error)
        self._tools.emit("swap.failed", self._member.name, phase=failed_in, error=f"{type(error).__name__}: {error}")
        return failure

    # --- while the old version serves --------------------------------------------------------------------------------

    def _serves_already(self, candidate: Candidate, level: Isolation) -> bool:
        old = self._old
        same = candidate.digest == old.candidate.digest and candidate.id == old.id and level is old.level
        return same and not self._broken

    def _prepare(self, candidate: Candidate) -> None:
        """Refuse what can be refused before anything is started."""
        self._refuse_from_inside()
        self._tools.admit(self._member, candidate)
        if self._old.takes_part("plugin_export_state") and not self._broken:
            self._plan(candidate)

    def _refuse_from_inside(self) -> None:
        """A call cannot wait for its own end: refuse a swap that a call of the very plugin asks for."""
        if self._member.turnstile.inside() or any(active.runner is self._old.runner for active in chain.get()):
            raise RuntimeError(FROM_INSIDE)

    def _plan(self, candidate: Candidate) -> None:
        """Find the chain of migrations. The side that knows the higher version declares it."""
        have, want = self._old.state_version, candidate.manifest.state.version if candidate.manifest is not None else 1
        try:
            self._handover.steps = plan_by(candidate if want > have else self._old.candidate, have, want)
        except StateError as error:
            self._fall_back(error)

    def _fall_back(self, error: BlackholeError) -> None:
        """Take the state that the wanted version once handed over, where the operator forces it; else raise ``error``."""
        if not (self._request.force and self._request.fallback is not None):
            raise error
        self._fallback = self._request.fallback()
        written_by = f"{self._member.name}@{self._fallback.plugin_version}"
        self._state_lost = f"{error}; the state that {written_by} handed over before (snapshot {self._fallback.id}) was given back instead"

    def _load(self, candidate: Candidate, level: Isolation) -> Instance:
        new = self._tools.start(self._member, candidate, level)
        try:
            new.plugin_object()  # made now, so that it costs no time behind the gate
            if self._broken:
                restore_newest(new, self._tools.states, self._tools.emit, self._member.settings.state_timeout)
        except BaseException:
            new.end()
            raise
        return new

    # --- behind the gate ---------------------------------------------------------------------------------------------

    def _replace(self, new: Instance, still: Standstill) -> None:
        """Hold the plugin still, carry the state over, switch; on a failure everything stands as before."""
        supervisor, member = self._tools.supervisor, self._member
        stateful = not self._broken and self._old.takes_part("plugin_export_state") and new.takes_part("plugin_import_state")
        try:
            with still:
                if still.waits_for_this_call():
                    raise RuntimeError(FROM_INSIDE)
                if stateful:
                    supervisor.begin_draining(member)
                    self._carry(new, still)
                with self._timed("switch"):
                    self._switch(new, stateful=stateful)
        finally:
            self._gate_seconds = still.seconds
            supervisor.end_draining(member)

    def _carry(self, new: Instance, still: Standstill) -> None:
        settings, request, handover = self._member.settings, self._request, self._handover
        with self._timed("export"):
            timeout = settings.drain_timeout if request.timeout is None else request.timeout
            data = handover.export(still, Drained(timeout, request.force))
        with self._timed("import"):
            if self._fallback is None:
                try:
                    data = handover.migrate(data, new)
                except StateError as error:
                    self._fall_back(error)
            handover.give(data if self._fallback is None else self._fallback.data, new)

    def _switch(self, new: Instance, *, stateful: bool) -> None:
        """The one step: from here on the new version serves. State tells a new version what historic calls told the old one."""
        member, snapshot = self._member, self._handover.snapshot
        undo = self._tools.hooks.replace(member.name, new.plugin_object(), replay_history=not stateful)
        try:
            self._tools.supervisor.adopt(member, new)
        except BaseException:
            if member.instance is not new:
                undo()
            raise
        member.previous = Previous(self._old.candidate, self._old.level, snapshot.id if snapshot is not None else None)
        member.isolation = self._request.isolation or member.isolation

    # --- cleanup -----------------------------------------------------------------------------------------------------

    def _clean_up(self, new: Instance, still: Standstill) -> bool:
        """Supervise the new version and end the old one; return whether calls on that are still running."""
        with self._timed("cleanup"):
            self._keep_what_was_given(new)
            self._tools.supervisor.watch(self._member, new)
            return self._end_old(still)

    def _keep_what_was_given(self, new: Instance) -> None:
        """Save migrated state, so that a worker that dies finds a snapshot of its own state version.

        Not behind the gate, where it would cost the callers a write to disk; the new version is watched only after this.
        """
        if self._handover.given is None or new.state_version == self._old.state_version:
            return
        try:
            self._handover.keep(new, self._handover.given)
        except StateError as error:
            self._tools.emit("state.not_kept", self._member.name, version=new.id.version, error=str(error))

    def _end_old(self, still: Standstill) -> bool:
        """End the old version, now or when the calls on it are over; return whether it is the latter."""
        if still.drained(0.0):
            self._old.end()
            return False
        self._tools.supervisor.retire(self._old, still.drained)
        return True
