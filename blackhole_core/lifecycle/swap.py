"""Replacing one version of a plugin by another while calls flow.

The order, and why: everything that is slow or can fail without the old version's help comes first, while the old one serves
(*prepare*: is it allowed, is there a migration; *load*: import, start, health). Then the gate closes: new calls wait. The
calls that had begun end (drain), the old version gives its state (*export*), the new one takes it, migrated (*import*), and
what stands behind the hook callers is replaced (*switch*). The gate opens. *cleanup* ends the old version.

Every step before the switch can be undone, and is: the gate opens, the old version goes on with the state it never lost, and
the new one is released. After the switch nothing can fail any more; a fault while cleaning up is an event.

A plugin without state hooks needs no drain: its gate is shut for the switch alone, and the old version ends when the calls
that had begun on it are over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from blackhole_core.callcontext import chain
from blackhole_core.errors import SwapFailed
from blackhole_core.executor.wire.plain import encode_plain
from blackhole_core.hooks.manager import HookManager
from blackhole_core.ids import Isolation
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member, Previous
from blackhole_core.lifecycle.phase import Phase
from blackhole_core.lifecycle.report import PHASES, SwapReport
from blackhole_core.lifecycle.standstill import Standstill
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.registry.candidate import Candidate
from blackhole_core.state.manager import StateManager
from blackhole_core.state.migrate import Step, migrate, plan
from blackhole_core.state.plain import plain
from blackhole_core.state.snapshot import Snapshot

__all__ = ["Swap", "SwapRequest", "Swapper"]

_FROM_INSIDE = "it was asked for from inside a call of this plugin or of one of its hooks, which would have to end first"


@attrs.frozen
class SwapRequest:
    """What is wanted. ``candidate`` is found by a function, so that finding and unpacking it is part of the swap."""

    find: Callable[[], Candidate]
    isolation: Isolation | None = None
    timeout: float | None = None  #: seconds to wait for calls that had begun; None = the plugin's ``drain_timeout``
    force: bool = False  #: go on when they do not end in time, and when a rollback has no way to migrate the state
    fallback: Snapshot | None = None  #: the state to give a forced rollback that has no migration path


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
        with self.supervisor.claim(member, "a swap"):
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
        self._phase = "prepare"
        self._times = dict.fromkeys(PHASES, 0.0)
        self._began = time.monotonic()
        self._steps: tuple[Step, ...] = ()
        self._state_lost: str | None = None
        self._drain_seconds = 0.0
        self._gate_seconds = 0.0
        self._migrate_seconds = 0.0
        self._state_bytes: int | None = None
        self._snapshot: Snapshot | None = None
        self._still: Standstill | None = None

    # --- the whole ---------------------------------------------------------------------------------------------------

    def run(self) -> SwapReport:
        try:
            with self._timed("prepare"):
                candidate = self._request.find()
                isolation = self._request.isolation or self._member.settings.level(candidate)
                if candidate.digest == self._old.candidate.digest and candidate.id == self._old.id and isolation is self._old.level:
                    return self._report(unchanged=True)
                self._prepare(candidate)
            with self._timed("load"):
                self._new = self._tools.start(self._member, candidate, isolation)
            self._hand_over(self._new)
        except Exception as error:
            raise self._abort(error) from error
        except BaseException as error:  # Ctrl-C: put everything back, then go where it wanted to go
            self._abort(error)
            raise
        with self._timed("cleanup"):
            retiring = self._clean_up()
        report = self._report(retiring=retiring)
        self._tools.emit("swap.done", self._member.name, report=report.as_dict())
        return report

    def _report(self, *, unchanged: bool = False, retiring: bool = False) -> SwapReport:
        serving = self._old if unchanged or self._new is None else self._new
        return SwapReport(
            plugin=self._member.name,
            from_version=self._old.id.version,
            to_version=serving.id.version,
            generation=serving.generation,
            unchanged=unchanged,
            gate_seconds=self._gate_seconds,
            drain_seconds=self._drain_seconds,
            migrate_seconds=self._migrate_seconds,
            state_bytes=self._state_bytes,
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

    # --- prepare -----------------------------------------------------------------------------------------------------

    @property
    def _stateful(self) -> bool:
        new = self._new
        return self._old.takes_part("plugin_export_state") and new is not None and new.takes_part("plugin_import_state")

    def _prepare(self, candidate: Candidate) -> None:
        self._refuse_from_inside()
        self._tools.admit(self._member, candidate)
        if self._old.takes_part("plugin_export_state"):
            self._steps = self._plan(candidate)

    def _plan(self, candidate: Candidate) -> tuple[Step, ...]:
        """Find the chain of migrations before anything is touched. The side that knows the higher version declares it."""
        want = candidate.manifest.state.version if candidate.manifest is not None else 1
        have = self._old.state_version
        knowing = candidate if want > have else self._old.candidate
        declared = knowing.manifest.state.migrates if knowing.manifest is not None else None
        try:
            return plan(have, want, declared=declared, plugin=self._member.name)
        except Exception as error:
            if not (self._request.force and self._request.fallback is not None):
                raise
            self._state_lost = f"{error}; the state of {self._request.fallback.plugin_version} from before the swap was given back instead"
            return ()

    def _refuse_from_inside(self) -> None:
        """A call cannot wait for its own end: refuse a swap that a call of the very plugin asks for."""
        if self._member.turnstile.inside() or any(active.runner is self._old.runner for active in chain.get()):
            raise RuntimeError(_FROM_INSIDE)

    # --- behind the gate ---------------------------------------------------------------------------------------------

    def _hand_over(self, new: Instance) -> None:
        """Hold the plugin still, carry the state over, switch; on a failure everything stands as before."""
        supervisor, member = self._tools.supervisor, self._member
        still = self._still = Standstill(self._tools.hooks, member, self._old, new.hooks)
        try:
            with still:
                if still.waits_for_this_call():
                    raise RuntimeError(_FROM_INSIDE)
                if self._stateful:
                    supervisor.move(member, Phase.DRAINING)
                    state = self._export(still)
                    with self._timed("import"):
                        new.import_state(self._migrate(state, new), member.settings.state_timeout)
                with self._timed("switch"):
                    self._switch(new)
        finally:
            self._gate_seconds = still.seconds
            if member.phase is Phase.DRAINING:
                supervisor.move(member, Phase.RUNNING)

    def _export(self, still: Standstill) -> Any:
        settings, wanted = self._member.settings, self._request.timeout
        with self._timed("export"):
            self._old.bounded_contract("plugin_prepare_shutdown", settings.state_timeout)
            begun = time.monotonic()
            drained = still.drained(settings.drain_timeout if wanted is None else wanted)
            self._drain_seconds = time.monotonic() - begun
            if not drained and not self._request.force:
                raise TimeoutError(f"calls that had begun did not end within {self._drain_seconds:.1f} s (force=True goes on without them)")
            state = self._old.export(settings.state_timeout)
            plain(state, what="state")
            self._state_bytes = len(encode_plain(state))
            self._snapshot = self._tools.states.save(
                self._member.name,
                plugin_version=self._old.id.version,
                state_version=self._old.state_version,
                generation=self._old.generation,
                reason="swap",
                data=state,
            )
        return state

    def _migrate(self, state: Any, new: Instance) -> Any:
        if self._state_lost is not None and self._request.fallback is not None:
            return self._request.fallback.data
        knowing = new if self._steps and self._steps[0].to_version > self._steps[0].from_version else self._old
        begun = time.monotonic()

        def apply(data: Any, step: Step) -> Any:
            if not knowing.takes_part("plugin_migrate_state"):
                raise LookupError(f"plugin {knowing.id} implements no plugin_migrate_state")
            return knowing.bounded_contract(
                "plugin_migrate_state",
                self._member.settings.state_timeout,
                state=data,
                from_version=step.from_version,
                to_version=step.to_version,
            )

        try:
            return migrate(state, self._steps, apply, plugin=self._member.name)
        finally:
            self._migrate_seconds = time.monotonic() - begun

    def _switch(self, new: Instance) -> None:
        """The one step: from here on the new version serves. State tells a new version what historic calls told the old one."""
        self._tools.hooks.replace(self._member.name, new.plugin_object(), replay_history=not self._stateful)
        self._member.previous = Previous(self._old.candidate, self._old.level, self._snapshot.id if self._snapshot is not None else None)
        self._tools.supervisor.adopt(self._member, new)

    # --- cleanup -----------------------------------------------------------------------------------------------------

    def _clean_up(self) -> bool:
        """End the old version, now or when the calls on it are over; return whether it is the latter."""
        assert self._still is not None
        if self._still.left_behind(0.0):
            self._old.end()
            return False
        self._tools.supervisor.retire(self._old, self._still.left_behind)
        return True
