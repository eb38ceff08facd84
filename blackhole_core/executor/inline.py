"""Level none: the plugin's functions are called where the hook is called. No stub, no extra frame, no protection."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blackhole_core.errors import PluginUnloaded
from blackhole_core.executor.context import leases_of
from blackhole_core.executor.enforcement import Layer, report
from blackhole_core.executor.failure import attribute
from blackhole_core.executor.hosted import Hosted, host_object, instantiate
from blackhole_core.executor.leases import Leases
from blackhole_core.executor.limits.enforcing import limit_enforcement
from blackhole_core.executor.limits.tree import Abilities
from blackhole_core.executor.runner import Host, RunnerSpec, call_one_by_one
from blackhole_core.ids import Isolation
from blackhole_core.loader.universe import Universe
from blackhole_core.messages import Call, Calls, Replies, Surface

if TYPE_CHECKING:
    from blackhole_core.executor.auditor import Auditor

__all__ = ["InlineRunner", "hosted_enforcement", "load_hosted", "release_hosted", "report_leases", "universe_of"]

_tags = itertools.count(1)


def load_hosted(spec: RunnerSpec, universe: Universe, auditor: Auditor | None = None) -> Hosted:
    """Import the plugin into ``universe`` and make its object; on any failure the universe is released again."""
    if auditor is not None and spec.declared:
        auditor.watch(spec, universe)
    try:
        return host_object(instantiate(universe.load(spec.entry, spec.imported)), spec.project)
    except BaseException:
        release_hosted(universe, auditor)
        raise


def release_hosted(universe: Universe, auditor: Auditor | None) -> None:
    """Let go of the modules of a plugin, and watch it no longer."""
    if auditor is not None:
        auditor.unwatch(universe)
    universe.release()


def universe_of(spec: RunnerSpec) -> Universe:
    """Return the empty module universe of one instance; its tag is unique in the process, several managers included."""
    return Universe(spec.packages, spec.path, tag=f"{spec.generation}-{next(_tags)}", fresh=spec.changeable)


def report_leases(problems: tuple[str, ...], spec: RunnerSpec, host: Host) -> None:
    """Tell what could not be undone when the plugin stopped."""
    for problem in problems:
        host.emit("plugin.lease_failed", spec.id.name, version=spec.id.version, generation=spec.generation, error=problem)


def hosted_enforcement(level: Isolation, spec: RunnerSpec, host: Host) -> Mapping[str, str]:
    """Return what enforces the permissions of a plugin in this process: nothing, but an audit hook may notice."""
    confinement = spec.confinement
    layers = [Layer.AUDIT] if host.auditor is not None else []
    return report(confinement.requested, layers) | limit_enforcement(level, confinement, Abilities)


class InlineRunner:
    """Runs calls on the caller's thread. What is in flight is known to the hook gate, not here."""

    level = Isolation.NONE

    def __init__(self, spec: RunnerSpec, host: Host) -> None:
        self._spec = spec
        self._host = host
        #: What the plugin takes through its context.
        self.leases: Leases = leases_of(spec.id, spec.generation)
        self.universe = universe_of(spec)
        self._hosted: Hosted | None = None

    def start(self) -> Surface:
        self._hosted = load_hosted(self._spec, self.universe, self._host.auditor)
        return self._hosted.surface

    def plugin_object(self) -> Any:
        return self._require("plugin_object").plugin

    def call(self, call: Call) -> Any:
        try:
            return self._require(call.hook).function(call.space, call.hook, call.index)(*call.args)
        except Exception as error:
            attribute(error, self._spec.id, call.hook, self.level)
            raise

    def call_many(self, calls: Calls) -> Replies:
        return call_one_by_one(self.call, calls)

    def _require(self, hook: str) -> Hosted:
        if self._hosted is None:
            raise PluginUnloaded(str(self._spec.id), hook)
        return self._hosted

    def enforcement(self) -> Mapping[str, str]:
        return hosted_enforcement(self.level, self._spec, self._host)

    def drained(self, timeout: float | None) -> bool:
        return True

    def stop(self) -> None:
        report_leases(self.leases.end(self._spec.limits.stop_grace), self._spec, self._host)
        self._hosted = None
        release_hosted(self.universe, self._host.auditor)
