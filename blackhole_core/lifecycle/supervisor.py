"""The one owner of members and instances: who runs, who may operate on it, and what happens when one dies.

Invariants:

* ``_members`` and every field of a member change only under ``_lock``; it is never held while plugin code or a listener runs.
* At most one operation (load, unload, swap, state) has claimed a member at a time; restarts claim nothing, they belong to the
  instance: one that does not serve any more is not restarted, and what becomes of it moves no phase.
* While a swap can still be undone, what becomes of the replaced instance is kept in ``Member.replaced``: it happens when the instance is put back, and never
  when :meth:`Supervisor.leave` says that it is not coming back.
* Every thread started here is joined by :meth:`Supervisor.close`; before that, what it waits for has been ended. One that a listener or a disk keeps beyond the longest
  deadline is told of, and left.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from blackhole_core.errors import PluginBroken, SwapInProgress, UnknownPlugin, describe_exit
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.remote import RemoteRunner
from blackhole_core.executor.timers import Timers
from blackhole_core.ids import canonical_name
from blackhole_core.lifecycle.carrying import restore_newest
from blackhole_core.lifecycle.claim import Claim
from blackhole_core.lifecycle.dependencies import Dependency
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member, Replaced
from blackhole_core.lifecycle.phase import Phase, advance
from blackhole_core.lifecycle.restart import GiveUp, decide, within_period
from blackhole_core.lifecycle.settings import Settings
from blackhole_core.messages import Call
from blackhole_core.stacks import stack_lines
from blackhole_core.state.manager import StateManager

__all__ = ["Supervisor"]

#: Restarts after each of which an operator is told that the plugin keeps dying: it may stay below its intensity for ever.
_FLAPPING: Final = 10

#: Seconds after which a duty is tried again for which there was no thread.
_NO_THREAD: Final = 0.5

#: Seconds between two looks at whether an operation that is waited for has been left by an interrupt.
_CLAIM_LOOK: Final = 0.5

#: Seconds between two looks at whether the host ends while calls on a replaced version are waited for.
_RETIRE_LOOK: Final = 0.5


class Supervisor:
    """Keeps plugins running, within their restart intensity."""

    def __init__(
        self, timers: Timers, states: StateManager, emit: Callable[..., object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._timers = timers
        self._states = states
        self._emit = emit
        self._clock = clock
        # Held by itself: entering and leaving a condition are functions in Python, between whose steps Ctrl-C may come.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._members: dict[str, Member] = {}
        self._duties: set[threading.Thread] = set()
        self._retiring: set[Instance] = set()
        self._ending = False  # no operation begins any more
        self._closed = False  # no duty begins any more
        #: Told of each instance that serves from now on, and of each member that none serves any more. Set once, before the first is loaded.
        self.on_serving: Callable[[Member, Instance], object] = lambda member, instance: None
        self.on_release: Callable[[Member], object] = lambda member: None
        #: Told when one died on probation.
        self.on_failed_probation: Callable[[Member, Instance, str], object] = lambda member, instance, how: None
        #: Told when one goes down, is back, or is given up.
        self.on_change: Callable[[Member, Dependency], object] = lambda member, what: None

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
    def claim(self, member: Member, operation: str, *, patience: float = 0.0, in_background: bool = False) -> Iterator[None]:
        """Be the only operation on ``member`` for the length of the block; wait at most ``patience`` seconds for another one to end.

        ``in_background``: nobody asked for it, so whoever asks for something else meanwhile waits for its end instead of failing.

        :raises SwapInProgress: another one is, or the host ends.
        """
        claim = Claim.here(operation, in_background=in_background)
        with self._claims() as left:
            if member.claim is None or not member.claim.is_mine:  # or it would wait for itself
                if not in_background:
                    self._await(
                        lambda: member.claim is None or not member.claim.in_background or self._ending, _longest(member.settings), left
                    )
                self._await(lambda: member.claim is None or self._ending, patience, left)
            if self._ending:
                raise SwapInProgress(member.label, "the end of the host")
            if member.claim is not None:
                raise SwapInProgress(member.label, member.claim.operation)
            member.claim = claim
        try:
            yield
        finally:
            with self._lock:
                if member.claim is claim:  # else it was found to be left, by an interrupt
                    member.claim = None
                    self._changed.notify_all()

    @contextlib.contextmanager
    def _claims(self) -> Iterator[list[Claim]]:
        """Hold the lock, with those claims let go whose functions have been left; give where they stay until it is released: what lives in their frames may have finalisers."""
        left: list[Claim] = []
        with self._lock:
            self._let_go(left)
            yield left

    def _let_go(self, left: list[Claim]) -> None:
        """Let those claims go whose functions have been left, and add them to ``left``. Under the lock."""
        for member in self._members.values():
            if member.claim is not None and member.claim.is_left():
                left.append(member.claim)
                member.claim = None
                self._changed.notify_all()

    def _await(self, holds: Callable[[], bool], timeout: float, left: list[Claim]) -> None:
        """Wait, under the lock, until ``holds``, at most ``timeout`` seconds; a claim that is left meanwhile, by an interrupt, tells nobody: it is looked for."""
        until = time.monotonic() + timeout
        while not holds() and (seconds := until - time.monotonic()) > 0:
            if not self._changed.wait_for(holds, min(seconds, _CLAIM_LOOK)):
                self._let_go(left)

    def move(self, member: Member, phase: Phase, error: BaseException | None = None) -> None:
        """Take ``member`` to ``phase`` and tell the listeners."""
        with self._lock:
            before, member.phase, member.error = member.phase, advance(member.phase, phase), error
        self._tell_phase(member, before, phase, error)

    def adopt(self, member: Member, instance: Instance) -> None:
        """Make ``instance`` the one that serves, and RUNNING its phase; what served before can be put back until it is left."""
        with self._lock:
            before = member.phase
            if member.instance is not None:
                member.replaced = Replaced(member.instance, before, member.error, member.attempts, member.probation)
            member.phase = before if before is Phase.RUNNING else advance(before, Phase.RUNNING)
            member.instance, member.candidate, member.error = instance, instance.candidate, None
            member.attempts, member.probation = (), None
        if before is not Phase.RUNNING:
            self._tell_phase(member, before, Phase.RUNNING, None)

    def put_back(self, member: Member) -> None:
        """Have what was replaced serve again, in the phase it had; what has become of it meanwhile takes its course now."""
        with self._lock:
            replaced = member.replaced
            if replaced is None:
                return
            before, member.replaced = member.phase, None
            phase = Phase.RUNNING if replaced.phase is Phase.DRAINING else replaced.phase
            member.phase = before if before is phase else advance(before, phase)
            member.instance, member.candidate, member.error = replaced.instance, replaced.instance.candidate, replaced.error
            member.attempts, member.probation = replaced.attempts, replaced.probation
        if before is not phase:
            self._tell_phase(member, before, phase, replaced.error)
        for happens in replaced.kept:
            happens()

    def _does_not_serve(self, member: Member, instance: Instance, happens: Callable[[], object]) -> bool:
        """Whether ``instance`` does not serve; ``happens`` is kept for when it does again, else its runner is given up."""
        with self._lock:
            if member.instance is instance:
                return False
            if member.replaced is not None and member.replaced.instance is instance:
                member.replaced.kept.append(happens)
                return True
        self._leave(instance)
        return True

    def begin_draining(self, member: Member) -> None:
        """Say that the calls of a running plugin are held back; one that is being restarted stays STARTING."""
        self._move_from(member, Phase.RUNNING, Phase.DRAINING)

    def end_draining(self, member: Member) -> None:
        """Say that they are not any more."""
        self._move_from(member, Phase.DRAINING, Phase.RUNNING)

    def _move_from(self, member: Member, expected: Phase, phase: Phase) -> None:
        with self._lock:
            if member.phase is not expected:
                return
            member.phase = advance(expected, phase)
        self._tell_phase(member, expected, phase, None)

    def watch(self, member: Member, instance: Instance) -> None:
        """Restart ``instance`` from now on when its worker dies; if it has died already, now."""
        instance.watch(lambda ended: self._died(member, instance, ended))
        self.on_serving(member, instance)
        self.on_change(member, Dependency.BACK)  # a swap may have put it in the place of one that was given up

    def release(self, member: Member) -> None:
        """Let go of the instance that serves: its deaths are nobody's business from now on."""
        with self._lock:
            member.instance = None
        self.on_release(member)

    def _move_if_serving(
        self, member: Member, instance: Instance, froms: tuple[Phase, ...], phase: Phase, error: BaseException | None
    ) -> None:
        """Move a member on behalf of ``instance``, unless another one serves or an operation has taken it to another phase meanwhile."""
        with self._lock:
            before = member.phase
            if member.instance is not instance or before not in froms:
                return
            member.phase, member.error = advance(before, phase), error
        self._tell_phase(member, before, phase, error)

    def _tell_phase(self, member: Member, before: Phase, phase: Phase, error: BaseException | None) -> None:
        facts = {"error": f"{type(error).__name__}: {error}"} if error is not None else {}
        version = member.candidate.id.version if member.candidate is not None else None
        self._emit("plugin.phase", member.name, version=version, before=before.value, phase=phase.value, **facts)

    # --- death and restart -------------------------------------------------------------------------------------------

    def _died(self, member: Member, instance: Instance, ended: Ended) -> None:
        """Told by the I/O thread of a worker that nobody asked to end."""
        how = ended.reason or f"its worker {describe_exit(ended.exit)}"
        self._emit(
            "worker.died",
            member.name,
            version=instance.id.version,
            exit=ended.exit,
            reason=how,
            tail=list(ended.tail),
            stack=list(ended.stack),
            limit=attrs.asdict(ended.limit) if ended.limit is not None else None,
        )
        self._went_down(member, instance, how)

    def _went_down(self, member: Member, instance: Instance, how: str) -> None:
        if self._does_not_serve(member, instance, lambda: self._went_down(member, instance, how)):
            return
        self.on_change(member, Dependency.DOWN)
        if self._ends_probation(member, instance):
            self.on_failed_probation(member, instance, how)
        self._decide(member, instance, how, None)

    def put_on_probation(self, member: Member) -> None:
        """Have the version before it come back when what serves from now on dies within the plugin's ``probation``; there is one to come back to."""
        with self._lock:
            member.probation = self._clock() + member.settings.probation if member.settings.probation else None

    def _ends_probation(self, member: Member, instance: Instance) -> bool:
        """Whether ``instance`` has died on probation; told once."""
        with self._lock:
            until = member.probation
            if until is None or member.instance is not instance or self._ending:
                return False
            member.probation = None
            return self._clock() < until

    def _decide(self, member: Member, instance: Instance, how: str, error: Exception | None) -> None:
        if self._does_not_serve(member, instance, lambda: self._decide(member, instance, how, error)):
            return
        with self._lock:
            if self._closed:
                return
            now, policy = self._clock(), member.settings.restart
            decision = decide(member.attempts, now, policy, error)
            if not isinstance(decision, GiveUp):
                member.attempts = (*within_period(member.attempts, now, policy), now + decision.delay)
        if isinstance(decision, GiveUp):
            self._give_up(member, instance, f"{decision.reason}; the last time {how}")
            return
        self._move_if_serving(member, instance, (Phase.RUNNING, Phase.DRAINING), Phase.STARTING, error)
        self._timers.after(decision.delay, lambda: self._restart_on_duty(member, instance))

    def _restart_on_duty(self, member: Member, instance: Instance) -> None:
        self.on_duty(f"restart-{member.name}", lambda: self._restart(member, instance))

    def _give_up(self, member: Member, instance: Instance, reason: str) -> None:
        runner = _remote(instance)
        runner.give_up(reason)
        broken = PluginBroken(str(instance.id), reason)
        self._move_if_serving(member, instance, (Phase.RUNNING, Phase.DRAINING, Phase.STARTING), Phase.BROKEN, broken)
        self._emit("plugin.broken", member.name, version=instance.id.version, reason=reason)
        if member.instance is instance:
            self.on_change(member, Dependency.BROKEN)

    def leave(self, member: Member, instance: Instance) -> None:
        """Take in that ``instance`` was replaced for good: if its worker is dead, none is started any more."""
        with self._lock:
            member.replaced = None
        if isinstance(instance.runner, RemoteRunner) and instance.runner.pid is None:
            self._leave(instance)

    @staticmethod
    def _leave(instance: Instance) -> None:
        """Have calls that had begun on what was replaced, and wait for its next worker, fail now and not at their deadlines."""
        _remote(instance).give_up("its worker died and another version has taken its place")

    def _restart(self, member: Member, instance: Instance) -> None:
        if self._does_not_serve(member, instance, lambda: self._restart_on_duty(member, instance)):
            return
        runner = _remote(instance)
        try:
            ages: list[float | None] = []
            runner.restart(lambda via: ages.append(self._prepare(member, instance, via)))
        except Exception as error:
            self._restart_failed(member, instance, error)
            return
        self._restarted(member, instance, ages[-1])

    def _restart_failed(self, member: Member, instance: Instance, error: Exception) -> None:
        if self._does_not_serve(member, instance, lambda: self._restart_failed(member, instance, error)):
            return  # it was ended meanwhile, which is no failure
        self._emit("worker.restart_failed", member.name, version=instance.id.version, error=f"{type(error).__name__}: {error}")
        self._decide(member, instance, f"it could not be started again: {error}", error)

    def _restarted(self, member: Member, instance: Instance, age: float | None) -> None:
        with self._lock:
            if member.instance is not instance:
                if member.replaced is not None and member.replaced.instance is instance:
                    member.replaced.kept.append(lambda: self._restarted(member, instance, age))
                return
            member.restarts += 1
            restarts = member.restarts
            is_back = (
                member.phase is Phase.STARTING and _remote(instance).pid is not None
            )  # else it has died again, and what comes of that is told
            if is_back:
                member.phase, member.error = advance(Phase.STARTING, Phase.RUNNING), None
        if is_back:
            self._tell_phase(member, Phase.STARTING, Phase.RUNNING, None)
        self._emit(
            "worker.restarted", member.name, version=instance.id.version, pid=_remote(instance).pid, restarts=restarts, state_age=age
        )
        if is_back:
            self.on_change(member, Dependency.BACK)
        if restarts % _FLAPPING == 0:
            self._emit("plugin.flapping", member.name, version=instance.id.version, restarts=restarts)

    def _prepare(self, member: Member, instance: Instance, via: Callable[[Call], Any]) -> float | None:
        """Start the plugin in a new worker and give it the newest state that was kept; return how old that is, seconds, None when it got none."""
        instance.begin(via)
        return restore_newest(instance, self._states, self._emit, member.settings.state_timeout, via)

    # --- ending ------------------------------------------------------------------------------------------------------

    def retire(self, instance: Instance, drained: Callable[[float], bool]) -> None:
        """End an instance that was replaced, as soon as the calls that had begun on it are over; does not wait for them."""
        with self._lock:
            self._retiring.add(instance)

        def duty() -> None:
            while not drained(_RETIRE_LOOK) and not self._closed:
                continue
            self._end_retired(instance)

        self.on_duty(f"retire-{instance.id.name}", duty)

    def _end_retired(self, instance: Instance) -> None:
        with self._lock:
            if instance not in self._retiring:
                return
            self._retiring.discard(instance)
        instance.end()
        self._emit("plugin.retired", instance.id.name, version=instance.id.version, generation=instance.generation)
        instance.leaks()

    def operation_here(self) -> str | None:
        """Return the operation that the calling thread is in the middle of, as words, or None."""
        with self._claims():
            claims = [(member, member.claim) for member in self._members.values() if member.claim is not None]
        return next((f"{claim.operation} of plugin {member.label}" for member, claim in claims if claim.is_mine), None)

    def end_operations(self) -> None:
        """Let no operation begin any more and wait for those under way, each as long as all its deadlines together allow."""
        with self._claims():
            self._ending = True
            self._changed.notify_all()
        for member in self.members():
            left = self._unfinished(member, _longest(member.settings))
            if left is not None:
                self._emit("host.operation_left", member.name, operation=left.operation)

    def _unfinished(self, member: Member, timeout: float) -> Claim | None:
        """Wait for the end of the operation on a member and return None, or its claim when that takes longer than ``timeout`` seconds."""
        with self._claims() as left:
            self._await(lambda: member.claim is None, timeout, left)
            return member.claim

    def close(self) -> None:
        """End instances that are still retiring, refuse new duties, and wait for those under way, as long as all the deadlines of an operation together allow."""
        until = self._clock() + max((_longest(member.settings) for member in self.members()), default=0.0)
        with self._lock:
            retiring = set(self._retiring)
        for instance in retiring:  # each by a thread, to which no Ctrl-C comes
            self.on_duty(f"end-{instance.id.name}", functools.partial(self._end_retired, instance))
        with self._lock:
            self._closed = True
            duties = self._duties - {threading.current_thread()}
        for duty in duties:
            duty.join(max(0.0, until - self._clock()))
            if duty.is_alive():
                self._emit("host.duty_left", duty=duty.name, stack="".join(stack_lines(duty)))
        for instance in retiring:  # one for which there was no thread
            self._end_retired(instance)

    def on_duty(self, name: str, action: Callable[[], object]) -> None:
        """Run ``action`` on a thread of its own that :meth:`close` waits for; later, when there is no thread to be had just now."""

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
            try:
                thread.start()
                self._duties.add(thread)  # it takes itself out under the lock, so later
            except RuntimeError:  # too many threads, of the host or of the system
                self._timers.after(_NO_THREAD, lambda: self.on_duty(name, action))


def _remote(instance: Instance) -> RemoteRunner:
    assert isinstance(instance.runner, RemoteRunner), "only a worker can die without its host"
    return instance.runner


def _longest(settings: Settings) -> float:
    """Return the seconds after which an operation must have met one of its own deadlines, everything slow included."""
    limits = settings.limits
    # A swap has four state contracts: prepare_shutdown, export, migrate, import.
    return limits.start_timeout + settings.drain_timeout + 4 * settings.state_timeout + 2 * limits.stop_grace
