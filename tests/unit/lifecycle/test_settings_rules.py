"""Whose word counts for one plugin: the operator's, the manifest's, the host's default."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from blackhole_core.executor.runner import Limits
from blackhole_core.ids import Isolation, PluginId
from blackhole_core.lifecycle.settings import Settings
from blackhole_core.manifest.model import Manifest, VirtualMachine
from blackhole_core.registry.candidate import Candidate, Origin

PLAIN = Candidate(PluginId("upper"), Origin.DIRECTORY, Path("/s"), "upper", Path("/s"), ("upper",), "0" * 64)
MANIFEST = Manifest("upper", "1.0.0", isolation=Isolation.THREAD, threads=4, timeout=7.0, config={"a": 1, "b": 2})
DECLARED = attrs.evolve(PLAIN, manifest=MANIFEST)


@pytest.mark.parametrize(
    ("settings", "candidate", "level"),
    [
        (Settings(), PLAIN, Isolation.NONE),
        (Settings(default_isolation=Isolation.PROCESS), PLAIN, Isolation.PROCESS),
        (Settings(default_isolation=Isolation.PROCESS), DECLARED, Isolation.THREAD),
        (Settings(isolation=Isolation.NONE), DECLARED, Isolation.NONE),
    ],
)
def test_the_operator_decides_the_level_then_the_manifest_then_the_default(
    settings: Settings, candidate: Candidate, level: Isolation
) -> None:
    """The default is for plugins without a manifest only."""
    assert settings.level(candidate) is level


def test_the_manifest_sets_limits_where_the_operator_said_nothing() -> None:
    """Threads and the call timeout may be declared."""
    limits = Settings().limits_for(DECLARED, Isolation.PROCESS)
    assert (limits.threads, limits.call_timeout) == (4, 7.0)


def test_the_operators_limits_win_over_the_manifest() -> None:
    """What was said of the plugin stands."""
    settings = Settings(limits=Limits(threads=1, call_timeout=3.0), call_timeout_set=True, threads_set=True)
    limits = settings.limits_for(DECLARED, Isolation.PROCESS)
    assert (limits.threads, limits.call_timeout) == (1, 3.0)


def test_a_manifest_without_a_timeout_keeps_the_hosts() -> None:
    """None declared is not "no deadline"."""
    candidate = attrs.evolve(PLAIN, manifest=attrs.evolve(MANIFEST, timeout=None))
    assert Settings(limits=Limits(call_timeout=3.0)).limits_for(candidate, Isolation.PROCESS).call_timeout == 3.0


@pytest.mark.parametrize(("declared", "named", "spare"), [(None, None, None), (True, None, True), (True, False, False), (None, True, True)])
def test_the_operator_decides_whether_a_machine_stands_by_then_the_manifest(
    declared: bool | None, named: bool | None, spare: bool | None
) -> None:
    """It is his memory."""
    candidate = attrs.evolve(PLAIN, manifest=attrs.evolve(MANIFEST, vm=VirtualMachine(declared)))
    assert Settings(vm=VirtualMachine(named)).vm_for(candidate).spare is spare


def test_the_configuration_is_merged_key_by_key_over_the_manifests_defaults() -> None:
    """The operator changes one key and keeps the others."""
    assert Settings(config={"b": 3, "c": 4}).config_for(DECLARED) == {"a": 1, "b": 3, "c": 4}
    assert Settings(config={"c": 4}).config_for(PLAIN) == {"c": 4}
