"""Replacing plugins by other versions while calls flow: one plugin, or several as one step.

The order, and why: everything that is slow or can fail without the old version's help comes first, while the old one serves
(*prepare*: is it allowed, is there a migration; *load*: import, start, health). Then the gate closes: new calls wait. The
calls that had begun end (drain), the old version gives its state (*export*), the new one takes it, migrated (*import*), and
what stands behind the hook callers is replaced (*switch*). The gate opens. *cleanup* ends the old version.

Every step before the switch can be undone, and is: the gate opens, the old version goes on with the state it never lost, and
the new one is released. After the switch nothing can fail any more; a fault while cleaning up is an event.

A plugin that gives no state needs no drain and, where all hooks change in one step (not on free-threaded builds, nor with an audit hook), no gate: its hooks are switched while calls flow, what runs on the old version ends there, and the
old version ends after it. Only ``execute`` is held back, for the switch alone, so that it never answers older than the hooks. A plugin that is BROKEN cannot be asked for its state: the new version gets the newest snapshot.

Several plugins (one, and those that imported its code) go through each phase together, behind gates that are shut at the same
time: either all of them are new, or none is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from blackhole_core.callcontext import chain
from blackhole_core.errors import BlackholeError, StateError, SwapFailed
from blackhole_core.executor.runner import InProcess
from blackhole_core.hooks.manager import HookManager
from blackhole_core.hooks.pausing import let_others_go_first
from blackhole_core.hooks.replace import Replacement
from blackhole_core.hooks.switching import in_one_step
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


#: Seconds to wait, the gates open again, for the last calls on the old version before they are left to it. Ordinary calls take less, and where only a
#: stored traceback seems to keep one running the gate takes two looks, 5 ms apart, to see through it.
_A_MOMENT: Final = 0.05

#: Seconds in which a crowd of callers that waited at the gate is answered: some 0.1 ms for each call in a worker.
_ANSWERED: Final = 0.005


@attrs.frozen
class SwapRequest:
    """What is wanted. The candidate is found by a function, so that finding and unpacking it is part of the swap."""

    find: Callable[[], Candidate]
    isolation: Isolation | None = None  #: None = the level that was asked for last, else what configuration or manifest says
    timeout: float | None = None  #: seconds to wait for calls that had begun; None = the plugin's ``drain_timeout``
    force: bool = False  #: go on when they do not end in time, and give ``fallback`` when state cannot be migrated
    fallback: Callable[[], Snapshot] | None = None  #: the state that the wanted version handed over when it was replaced
    patience: float = 0.0  #: seconds to wait for another operation on the plugin to end
    anew: bool = False  #: start it anew even if the same version and code serve
    rolled_back: str | None = None  #: why the host goes back by itself, None where somebody asks for it
    confirm: Callable[[], None] | None = None  #: raises when what was loaded is not wanted any more; called before anything is held still


@attrs.frozen
class Swapper:
    """What every swap of a host works with."""

    supervisor: Supervisor
    hooks: HookManager
    states: StateManager
    emit: Callable[..., object]
    start: Callable[[Member, Candidate, Isolation | None, tuple[str, ...]], Instance]  #: the last: modules to be imported at once
    admit: Callable[
        [Mapping[str, Candidate]], None
    ]  #: raises when the operator, a dependency or a missing requirement forbids these versions
    as_granted: Callable[
        [Member, Candidate], bool
    ]  #: whether what serves was started with the permissions that this version would be started with now

    def swap(self, member: Member, request: SwapRequest, *also: tuple[Member, SwapRequest]) -> SwapReport:
        """Swap ``member``, and with it, as one step, those in ``also``, which come after what they depend on.

        :returns: the report on ``member``; ``also`` in it has the others'.
        :raises SwapInProgress: another operation on one of the plugins is running.
        :raises SwapFailed: every old version serves on; ``phase`` and ``cause`` say what happened.
        """
        wanted = [(member, request), *also]
        with contextlib.ExitStack() as claims:
            for one, its in wanted:
                claims.enter_context(self.supervisor.claim(one, "a swap", patience=its.patience))
            return _SwapOfMany([Swap(self, one, its, alone=not also) for one, its in wanted], self).run()


class _SwapOfMany:
    """Swaps that happen as one: through each phase together, all or none. Used once, by one thread."""

    def __init__(self, swaps: Sequence[Swap], tools: Swapper) -> None:
        self._swaps = swaps
        self._tools = tools
        self._at = swaps[0]  # whose turn it is, or was when something failed
        self._told = False

    def run(self) -> SwapReport:
        """Go through all phases; on a failure everything is as before."""
        try:
            self._each(Swap.find)
            if self._swaps[0].unchanged:
                return self._swaps[0].report()
            self._at = self._swaps[0]
            self._tools.admit({swap.member.name: swap.candidate for swap in self._swaps})
            self._each(Swap.prepare)
            self._each(Swap.load)
            self._each(Swap.confirm)
            self._hand_over()
            return self._clean_up()
        except BaseException as error:  # Ctrl-C as well: leave whole versions, then go where it wanted to go
            if all(swap.has_switched for swap in self._swaps):
                self._finish()
                raise
            failure = self._abort(error)
            if isinstance(error, Exception | SystemExit):
                raise failure from error
            raise

    def _each(self, step: Callable[[Swap], object], swaps: Sequence[Swap] | None = None) -> None:
        for swap in self._swaps if swaps is None else swaps:
            self._at = swap
            step(swap)

    def _hand_over(self) -> None:
        """Hold the plugins still, carry their state over, switch; on a failure everything stands as before."""
        let_others_go_first()  # from here on it should take so little that nobody has to be let in between
        try:
            with contextlib.ExitStack() as gates:
                for swap in self._swaps:
                    gates.enter_context(swap.still)
                self._each(Swap.refuse_from_inside)
                with contextlib.ExitStack() as inside:
                    # What a plugin calls while it hands over belongs to the swap, and may not wait for its end.
                    for swap in self._swaps:
                        inside.enter_context(swap.member.turnstile.counted_inside())
                    self._each(Swap.carry, self._swaps[::-1])  # dependants first: they may still need what they depend on
                self._switch()
        finally:
            for swap in self._swaps:
                swap.still.open()  # again: an interrupt may have kept the block from being entered, or left, as a whole
                self._tools.supervisor.end_draining(swap.member)

    def _switch(self) -> None:
        try:
            self._each(Swap.switch)
        except BaseException:
            for swap in self._swaps[::-1]:
                swap.unswitch()
            raise

    def _abort(self, error: BaseException) -> SwapFailed:
        """Release the new versions; the gates are open and the old ones serve already."""
        failed = self._at
        for swap in self._swaps[::-1]:
            swap.release()
        asked = self._swaps[0].member
        failure = SwapFailed(asked.label, failed.phase, error)
        if failed.member is not asked:
            failure.add_note(f"it was plugin {failed.member.label} that failed, which is swapped together with {asked.label}")
        if not failed.unwanted:  # that is no news: who asked for the swap has changed its mind
            self._tools.emit("swap.failed", asked.name, phase=failed.phase, error=f"{type(error).__name__}: {error}")
        return failure

    def _clean_up(self) -> SwapReport:
        for swap in self._swaps:
            swap.settle()
        # New code answers them now, and ending an old version takes a while: its process computes for 10 ms, beside the one that they wait for.
        if any(swap.ends_a_worker for swap in self._swaps):
            time.sleep(_ANSWERED)
        else:
            let_others_go_first()
        reports = [swap.clean_up() for swap in self._swaps]
        # When all have ended: a dependant's old version holds the code of what it depends on.
        report, *others = [attrs.evolve(report, leaks=swap.leaks()) for swap, report in zip(self._swaps, reports, strict=True)]
        report = attrs.evolve(report, also=tuple(others))
        self._tell(report)
        return report

    def _finish(self) -> None:
        """Bring an interrupted clean-up to its end. No look for leaks is made: somebody wants to go on."""
        for swap in self._swaps:
            swap.finish()
        if not self._told:
            report, *others = [swap.report() for swap in self._swaps]
            self._tell(attrs.evolve(report, also=tuple(others)))

    def _tell(self, report: SwapReport) -> None:
        self._told = True
        self._tools.emit("swap.done", report.plugin, report=report.as_dict())


class Swap:
    """One plugin's part in a swap, from the first phase to the last."""

    def __init__(self, tools: Swapper, member: Member, request: SwapRequest, *, alone: bool) -> None:
        old = member.instance
        if old is None:
            raise SwapFailed(member.label, "prepare", f"it is not running (phase {member.phase}); load it instead")
        self.member = member
        self.candidate = old.candidate  #: the wanted one, once it was found
        self.phase = "prepare"  #: the phase it is in, or failed in
        self.unchanged = False  #: whether what is wanted serves already
        self.unwanted = False  #: whether what was loaded is not wanted any more
        self._tools = tools
        self._request = request
        self._alone = alone
        self._old = old
        self._new: Instance | None = None
        self._level = old.level
        self._broken = member.phase is Phase.BROKEN
        self._handover = Handover(old, member.settings, tools.states)
        self._still: Standstill | None = None
        self._replacement: Replacement | None = None
        self._retiring = False
        self._ended = False  # whether the old version's end is seen to
        self._times = dict.fromkeys(PHASES, 0.0)
        self._fallback: Snapshot | None = None
        self._state_lost: str | None = None

    def report(self) -> SwapReport:
        """Return what was done to this plugin."""
        serving = self._old if self._new is None else self._new
        return SwapReport(
            plugin=self.member.name,
            from_version=self._old.id.version,
            to_version=serving.id.version,
            generation=serving.generation,
            unchanged=self.unchanged,
            gate_seconds=self._still.seconds if self._still is not None else 0.0,
            drain_seconds=self._handover.drain_seconds,
            migrate_seconds=self._handover.migrate_seconds,
            state_bytes=self._handover.state_bytes,
            phases=dict(self._times),
            retiring=self._retiring,
            state_lost=self._state_lost,
            rolled_back=self._request.rolled_back,
        )

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Run a phase: tell the listeners that it begins, and take its time."""
        self.phase = phase
        self._tools.emit("swap.phase", self.member.name, phase=phase, from_version=self._old.id.version)
        begun = time.monotonic()
        try:
            yield
        finally:
            self._times[phase] += time.monotonic() - begun

    # --- while the old version serves --------------------------------------------------------------------------------

    def find(self) -> None:
        """Find the wanted version, and whether it serves already."""
        member, old = self.member, self._old
        with self._timed("prepare"):
            self.candidate = self._request.find()
            self._level = self._request.isolation or member.isolation or member.settings.level(self.candidate)
            same = self.candidate.digest == old.candidate.digest and self.candidate.id == old.id and self._level is old.level
            self.unchanged = same and not self._broken and not self._request.anew and self._tools.as_granted(member, self.candidate)

    def prepare(self) -> None:
        """Refuse what can be refused before anything is started."""
        with self._timed("prepare"):
            # A call cannot wait for its own end: refuse a swap that a call of the very plugin asks for.
            if self.member.turnstile.inside() or any(active.runner is self._old.runner for active in chain.get()):
                raise RuntimeError(FROM_INSIDE)
            if self._hands_over:
                self._plan(self.candidate)

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
        written_by = f"{self.member.name}@{self._fallback.plugin_version}"
        self._state_lost = f"{error}; the state that {written_by} handed over before (snapshot {self._fallback.id}) was given back instead"

    def load(self) -> None:
        """Bring the new version up; the old one goes on serving."""
        with self._timed("load"):
            let_others_go_first()
            self._new = new = self._tools.start(self.member, self.candidate, self._level, self._imported())
            let_others_go_first()
            # Looked at and compiled now, so that it costs no time behind the gate.
            self._replacement = Replacement(self._tools.hooks, self.member.name, new.plugin_object(), pause=let_others_go_first)
            if self._broken:
                self._restore(new)
            self._still = Standstill(
                self._tools.hooks, self.member, self._old, new.hooks, hooks_open=self._alone and not self._hands_over and in_one_step()
            )

    def _restore(self, new: Instance) -> None:
        """Give the new version the newest snapshot, as the old one cannot be asked; or what it handed over itself, where it cannot read that and the operator forces it."""
        seconds, request = self.member.settings.state_timeout, self._request
        age = restore_newest(new, self._tools.states, self._tools.emit, seconds)
        if age is None and request.force and request.fallback is not None and new.takes_part("plugin_import_state"):
            before = request.fallback()
            new.import_state(before.data, seconds)
            self._state_lost = f"{self._old.id} is broken, and its state is not {new.id}'s; that got back what it had handed over before (snapshot {before.id})"

    def confirm(self) -> None:
        """Ask whether the new version is still wanted: loading it took a while."""
        if self._request.confirm is None:
            return
        try:
            self._request.confirm()
        except Exception:
            self.unwanted = True
            raise

    def _imported(self) -> tuple[str, ...]:
        """Return what the old version has imported, however late: an error in one of these modules must show before the new one serves."""
        imported = self._old.imported()
        if imported is None:
            self._tools.emit("swap.imports_unknown", self.member.name, version=self._old.id.version)
        return imported or ()

    @property
    def _hands_over(self) -> bool:
        """Whether the old version is asked for its state; it may not change from then on."""
        return not self._broken and self._old.takes_part("plugin_export_state")

    @property
    def _loaded(self) -> Instance:
        assert self._new is not None, "load() comes first"
        return self._new

    # --- behind the gate ---------------------------------------------------------------------------------------------

    @property
    def still(self) -> Standstill:
        """The gates over what the old and the new version answer."""
        assert self._still is not None, "load() comes first"
        return self._still

    def refuse_from_inside(self) -> None:
        """Refuse a swap that a call asks for which it would have to wait for; only the closed gate knows."""
        if self.still.waits_for_this_call():
            raise RuntimeError(FROM_INSIDE)

    def carry(self) -> None:
        """Let the calls that had begun end and the new version take over the old one's state; a swap without state needs neither.

        State that the new version does not take is kept as a snapshot, and given back by a rollback: it is never dropped unsaid.
        """
        if self._broken:
            return
        new = self._loaded
        takes = new.takes_part("plugin_import_state")
        if self._hands_over:
            self._tools.supervisor.begin_draining(self.member)
            data = self._export()
            if takes:
                self._import(data, new)
            elif self._handover.snapshot is not None:
                self._state_lost = f"{new.id} takes no state; what {self._old.id} had is kept as snapshot {self._handover.snapshot.id}"
        elif takes and self._request.fallback is not None:
            before = self._request.fallback()
            self._state_lost = f"{self._old.id} gives no state; {new.id} got back what it had handed over before (snapshot {before.id})"
            with self._timed("import"):
                self._handover.give(before.data, new)

    def _export(self) -> Any:
        settings, request = self.member.settings, self._request
        with self._timed("export"):
            timeout = settings.drain_timeout if request.timeout is None else request.timeout
            return self._handover.export(self.still, Drained(timeout, request.force))

    def _import(self, data: Any, new: Instance) -> None:
        with self._timed("import"):
            if self._fallback is None:
                try:
                    data = self._handover.migrate(data, new)
                except StateError as error:
                    self._fall_back(error)
            self._handover.give(data if self._fallback is None else self._fallback.data, new)

    def switch(self) -> None:
        """The one step: from here on the new version serves. State tells a new version what historic calls told the old one."""
        with self._timed("switch"):
            new, replacement = self._loaded, self._replacement
            assert replacement is not None, "load() comes first"
            # It serves only when it was told of all: while somebody waits for it, its death must end the waiting.
            replacement.commit(replay_history=not self._handover.done, confirm=new.serve)
            self.still.switched(replacement.begun)
            self._tools.supervisor.adopt(self.member, new)

    @property
    def ends_a_worker(self) -> bool:
        """Whether a process ends with the old version."""
        return not isinstance(self._old.runner, InProcess)

    @property
    def has_switched(self) -> bool:
        """Whether the new version serves."""
        return self._new is not None and self.member.instance is self._new

    def unswitch(self) -> None:
        """Put the old version back, as far as it was replaced: the swap was interrupted, or cannot be for another plugin. The gates are still shut."""
        if self._replacement is not None and self._replacement.undo is not None:
            self._replacement.undo()
            self._tools.supervisor.put_back(self.member)

    def release(self) -> None:
        """End the new version, if it does not serve."""
        if self._new is not None and not self.has_switched:
            self._new.end()

    # --- cleanup -----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Take in that the old version does not come back: calls that had begun on its dead worker fail now, not at their deadlines."""
        self._tools.supervisor.leave(self.member, self._old)

    def clean_up(self) -> SwapReport:
        """Supervise the new version, end the old one, and return the report."""
        with self._timed("cleanup"):
            self._supervise()
            self._retiring = self._end_old(self.still)
            self._ended = True
        return self.report()

    def finish(self) -> None:
        """Do again what an interrupt may have kept from being done; the old version is ended by a thread, to which no signal comes."""
        self.settle()
        self._supervise()
        if not self._ended:
            self._retiring = True
            self._tools.supervisor.retire(self._old, self.still.drained)

    def _supervise(self) -> None:
        """Take the new version for the one that serves."""
        member, snapshot, new = self.member, self._handover.snapshot, self._loaded
        member.previous = Previous(self._old.candidate, self._old.level, snapshot.id if snapshot is not None else None)
        member.isolation = self._request.isolation or member.isolation
        self._replacement = None  # it holds the old version's functions
        self._keep_what_was_given(new)
        if self._alone and self._request.rolled_back is None:
            self._tools.supervisor.put_on_probation(member)
        self._tools.supervisor.watch(member, new)

    def leaks(self) -> tuple[str, ...] | None:
        """Return what the old version left behind; None when it has not ended, or that is not known."""
        return None if self._retiring else self._old.leaks()

    def _keep_what_was_given(self, new: Instance) -> None:
        """Save migrated state, so that a worker that dies finds a snapshot of its own state version.

        Not behind the gate, where it would cost the callers a write to disk; the new version is watched only after this.
        """
        if not self._handover.done or new.state_version == self._old.state_version:
            return
        try:
            self._handover.keep(new, self._handover.given)
        except StateError as error:
            self._tools.emit("state.not_kept", self.member.name, version=new.id.version, error=str(error))

    def _end_old(self, still: Standstill) -> bool:
        """End the old version, now or when the calls on it are over; return whether it is the latter."""
        if still.drained(_A_MOMENT):
            self._old.end()
            return False
        self._tools.supervisor.retire(self._old, still.drained)
        return True
