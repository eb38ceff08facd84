"""Loading and unloading plugins: all or nothing, and one bad plugin never stops the others."""

from __future__ import annotations

import contextlib
import graphlib
from collections.abc import Callable, Mapping

import attrs

from blackhole_core.errors import BlackholeError, DependencyError, LoadFailed, PluginError, SwapInProgress
from blackhole_core.hooks.manager import HookManager
from blackhole_core.ids import Isolation, canonical_name
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.phase import Phase
from blackhole_core.lifecycle.standstill import FROM_INSIDE, Standstill
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.loader.validate import validate_sources
from blackhole_core.registry.candidate import Candidate, Origin
from blackhole_core.registry.registry import PluginRegistry
from blackhole_core.registry.requirements import missing_requirements
from blackhole_core.registry.resolve import dependants, refusals, start_order

__all__ = ["LoadReport", "Loader"]


@attrs.frozen
class LoadReport:
    """What became of each plugin that was found: loaded (in start order), or failed with the reason."""

    loaded: tuple[str, ...] = ()
    failed: Mapping[str, BlackholeError] = attrs.field(factory=dict)

    @property
    def ok(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} loaded, {len(self.failed)} failed"]
        lines += [f"{name}: {error}" for name, error in self.failed.items()]
        return "\n".join(lines)


@attrs.frozen
class Loader:
    """Admits, starts and registers plugins, and takes them out again."""

    supervisor: Supervisor
    registry: PluginRegistry
    hooks: HookManager
    emit: Callable[..., object]
    start: Callable[[Member, Candidate, Isolation | None], Instance]
    permit: Callable[..., None]  #: raises when ``(name, candidate, serving=…)`` asks for what it was not granted

    # --- in ----------------------------------------------------------------------------------------------------------

    def load(self, member: Member, candidate: Candidate, isolation: Isolation | None = None) -> None:
        """Bring one plugin up.

        :raises LoadFailed: nothing of it is left behind; it stays listed as FAILED with this reason.
        """
        with self.supervisor.claim(member, "a load"):
            if member.instance is not None:
                raise LoadFailed(str(candidate.id), f"{member.label} is loaded already; swap it, or unload it first")
            self._enter(member, candidate, isolation)
            member.previous = None  # what was swapped before this load is not gone back to
            try:
                instance = self._bring_up(member, candidate, isolation)
            except (Exception, SystemExit) as error:
                failure = error if isinstance(error, LoadFailed) else LoadFailed(str(candidate.id), f"{type(error).__name__}: {error}")
                self._fail(member, failure, failure.reason)
                raise failure from error
            except BaseException as error:  # Ctrl-C: leave nothing behind, then go where it wanted to go
                self._fail(member, error, f"it was interrupted by {type(error).__name__}")
                raise
            self.emit("plugin.loaded", member.name, version=candidate.id.version, level=instance.level.value)

    def _bring_up(self, member: Member, candidate: Candidate, isolation: Isolation | None) -> Instance:
        self.admit({member.name: candidate})
        self.supervisor.move(member, Phase.ADMITTED)
        self.supervisor.move(member, Phase.STARTING)
        instance = self.start(member, candidate, isolation)
        try:
            self._register(member, instance)
        except BaseException:
            self.supervisor.release(member)
            instance.end()
            raise
        return instance

    def _register(self, member: Member, instance: Instance) -> None:
        plugin = instance.plugin_object()
        try:
            if self.hooks.register(plugin, name=member.name) is None:
                raise LoadFailed(str(instance.id), "its name is blocked (pm.set_blocked)")
            # Only now that it was told what historic calls had told others: until it serves, its death ends a call that waits for it.
            instance.serve()
            self.supervisor.adopt(member, instance)
            self.supervisor.watch(member, instance)
        except BaseException:
            if self.hooks.get_plugin(member.name) is plugin:  # in all its hooks, or in those that register had come to
                self.hooks.unregister(name=member.name)
            raise

    def _fail(self, member: Member, error: BaseException, reason: str) -> None:
        self.supervisor.move(member, Phase.FAILED, error)
        version = member.candidate.id.version if member.candidate is not None else None
        self.emit("plugin.failed", member.name, version=version, reason=reason)

    def load_all(self, choose: Callable[[str, tuple[Candidate, ...]], Candidate | None], enrol: Callable[[str], Member]) -> LoadReport:
        """Load what the registry knows and the operator wants, dependencies first; every failure is noted and passed over.

        ``choose`` picks the version of a plugin that was found, or None to leave it out.
        """
        failed: dict[str, BlackholeError] = {}
        for problem in self.registry.problems():
            failed[problem.name] = problem.error
            self.note_failure(enrol(problem.name), problem.error)
        chosen: dict[str, Candidate] = {}
        for name, found in self.registry.candidates().items():
            if self.registry.allows(name) is not None:
                self.emit("plugin.denied", name, reason=self.registry.allows(name))
                continue
            try:
                candidate = choose(name, found)
            except BlackholeError as error:
                failed[name] = error
                self.note_failure(enrol(name), error)
                continue
            if candidate is not None:
                chosen[candidate.name] = candidate
        chosen = {name: candidate for name, candidate in chosen.items() if enrol(name).instance is None}
        resolution = start_order({**self._running_candidates(), **chosen})
        for name, reasons in resolution.refused.items():
            if name in chosen:
                failed[name] = LoadFailed(str(chosen[name].id), "; ".join(reasons))
                self.note_failure(enrol(name), failed[name])
        loaded = [name for name in resolution.order if name in chosen and self._load_one(enrol(name), chosen[name], failed)]
        return LoadReport(tuple(loaded), failed)

    def _load_one(self, member: Member, candidate: Candidate, failed: dict[str, BlackholeError]) -> bool:
        try:
            self.load(member, candidate)
        except BlackholeError as error:
            failed[member.name] = error
            return False
        return True

    def note_failure(self, member: Member, error: BlackholeError) -> None:
        """List a plugin that did not get as far as being loaded as FAILED, unless a version of it is running or another operation decides."""
        try:
            with self.supervisor.claim(member, "a load"):
                if member.instance is None:
                    self._enter(member, member.candidate, member.isolation)
                    self._fail(member, error, str(error))
                    return
        except SwapInProgress:
            pass  # what that operation finds is newer; the caller is told of this failure all the same
        self.emit("plugin.failed", member.name, version=None, reason=str(error))

    def _enter(self, member: Member, candidate: Candidate | None, isolation: Isolation | None) -> None:
        if member.phase in {Phase.STARTING, Phase.RUNNING, Phase.DRAINING}:  # nothing runs: Ctrl-C came before the last step of its end
            self.supervisor.move(member, Phase.STOPPED)
        if member.phase is not Phase.FOUND:
            self.supervisor.move(member, Phase.FOUND)
        member.candidate, member.isolation = candidate, isolation

    def admit(self, candidates: Mapping[str, Candidate]) -> None:
        """Raise what forbids ``candidates`` (by the names they run under) to run here together, before any of their code runs.

        The operator's word, files of the store that were changed, a missing requirement, a syntax error, a permission that was not granted, a plugin
        they need or one that needs them.
        """
        running = self._running_candidates()
        for name, candidate in candidates.items():
            self._admit_alone(candidate)
            self.permit(name, candidate, serving=canonical_name(name) in running)
        others = {**running, **{canonical_name(name): candidate for name, candidate in candidates.items()}}
        refused = refusals(others)
        if refused:
            raise DependencyError([reason for reasons in refused.values() for reason in reasons])

    def _admit_alone(self, candidate: Candidate) -> None:
        refusal = self.registry.allows(candidate.name)
        if refusal is not None:
            raise LoadFailed(str(candidate.id), refusal)
        if candidate.origin is Origin.WHEEL:
            self.registry.store.verify(candidate.path)
        faults = missing_requirements(candidate) or validate_sources(candidate.path, candidate.packages, candidate.entry)
        if faults:
            raise LoadFailed(str(candidate.id), "; ".join(str(fault) for fault in faults))

    def _running_candidates(self) -> dict[str, Candidate]:
        return {
            canonical_name(member.name): member.instance.candidate for member in self.supervisor.running() if member.instance is not None
        }

    # --- out ---------------------------------------------------------------------------------------------------------

    def unload(self, member: Member) -> None:
        """Take one plugin out: new calls do not see it, calls that had begun end, then it stops.

        :raises DependencyError: a running plugin needs it.
        """
        with self.supervisor.claim(member, "an unload"):
            needed_by = dependants(canonical_name(member.name), self._running_candidates())
            if needed_by:
                raise DependencyError(
                    [f"plugin {member.label} cannot be unloaded, {name} needs it; unload that first" for name in needed_by]
                )
            self._take_out(member, at_the_end=False)

    def dependants_of(self, member: Member) -> tuple[Member, ...]:
        """Return the running plugins that declare that they need ``member`` or have imported its code, directly or through others.

        Each comes after what it needs itself, except in a circle of imports, which has no order.
        """
        running = {canonical_name(one.name): one.instance for one in self.supervisor.running() if one.instance is not None}
        needs = {name: self._needs(instance, running) for name, instance in running.items()}
        needing: set[str] = set()
        while more := {name for name, needed in needs.items() if needed & (needing | {canonical_name(member.name)})} - needing:
            needing |= more
        needing.discard(canonical_name(member.name))
        try:
            order = graphlib.TopologicalSorter({name: needs[name] & needing for name in sorted(needing)}).static_order()
            return tuple(self.supervisor.member(name) for name in order)
        except graphlib.CycleError:
            return tuple(self.supervisor.member(name) for name in sorted(needing))

    @staticmethod
    def _needs(instance: Instance, running: Mapping[str, Instance]) -> set[str]:
        manifest = instance.candidate.manifest
        declared = {canonical_name(dependency.name) for dependency in manifest.dependencies} if manifest is not None else set()
        imported = {name for name, other in running.items() if instance.imports.intersection(other.candidate.packages)}
        return (declared | imported) & running.keys()

    def unload_all(self) -> None:
        """Take every plugin out, dependants first; for the end of the host: no other operation begins any more."""
        self.supervisor.end_operations()
        order = start_order(self._running_candidates()).order
        position = {name: place for place, name in enumerate(order)}
        running = sorted(self.supervisor.running(), key=lambda member: position.get(canonical_name(member.name), -1), reverse=True)
        with contextlib.ExitStack() as stack:  # one that cannot be taken out does not keep the others in
            for member in reversed(running):
                stack.callback(self._take_out, member, at_the_end=True)

    def _take_out(self, member: Member, *, at_the_end: bool) -> None:
        instance = member.instance
        if instance is None:
            if member.phase is Phase.FAILED:
                self.supervisor.move(member, Phase.STOPPED)
            return
        still = Standstill(self.hooks, member, instance)
        leaving = at_the_end
        try:
            with still:
                from_inside = still.waits_for_this_call()
                if from_inside and not at_the_end:
                    raise PluginError(member.label, f"plugin {member.label} was not unloaded: {FROM_INSIDE}")
                leaving = True
                self._withdraw(member)
            with_calls = from_inside or not still.drained(member.settings.drain_timeout)
            instance.end()
        except BaseException:
            still.open()
            if leaving:  # Ctrl-C: it leaves as a whole, and its end is left to a thread, to which no signal comes
                self._withdraw(member)
                self.supervisor.retire(instance, still.drained)
            raise
        finally:
            if leaving:
                self.supervisor.move(member, Phase.STOPPED)
        self.emit("plugin.unloaded", member.name, version=instance.id.version, with_calls=with_calls)
        if not at_the_end and not with_calls:
            instance.leaks()

    def _withdraw(self, member: Member) -> None:
        """Let no call reach what serves as ``member``, as far as that has not been done."""
        if member.instance is None:
            return
        self.supervisor.begin_draining(member)
        if self.hooks.has_plugin(member.name):
            self.hooks.unregister(name=member.name)
        self.supervisor.release(member)
