"""What confines a plugin is made of its manifest, the operator's word and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from blackhole_core.executor.confinement import Confinement, Sandbox
from blackhole_core.ids import PluginId
from blackhole_core.lifecycle.settings import Settings
from blackhole_core.manifest.model import Manifest, Resources
from blackhole_core.registry.candidate import Candidate, Origin


def _candidate(manifest: Manifest | None) -> Candidate:
    return Candidate(PluginId("x", "1"), Origin.DIRECTORY, Path("/x"), "x", Path("/x"), ("x",), digest="", manifest=manifest)


def test_only_what_is_asked_for_and_granted_is_given() -> None:
    """Asking gives nothing, and neither does granting what nobody asked for."""
    confinement = Confinement(requested=("env:A", "env:B"), granted=("env:B", "env:C"))
    assert confinement.effective == ("env:B",)


def test_a_grant_is_worth_what_it_covers_of_the_request() -> None:
    """A directory covers its file, a narrower grant gives the narrower permission, in one spelling."""
    confinement = Confinement(
        requested=("filesystem:read:/srv//a.txt", "network", "filesystem:write:${data}"),
        granted=("filesystem:read:/srv", "network:connect:API.example.org:443"),
    )
    assert confinement.effective == ("filesystem:read:/srv/a.txt", "network:connect:api.example.org:443", "filesystem:write:${data}")


@pytest.mark.parametrize(
    ("named", "expected"),
    [(Resources(), Resources(cpu=50, memory=100)), (Resources(memory=20, pids=3), Resources(cpu=50, memory=20, pids=3))],
)
def test_the_operator_s_limits_win_one_by_one(named: Resources, expected: Resources) -> None:
    """A limit that the operator does not name stays the manifest's."""
    manifest = Manifest("x", "1", permissions=("env:A",), resources=Resources(cpu=50, memory=100))
    confinement = Settings(resources=named, sandbox=Sandbox.NATIVE).confinement_for(_candidate(manifest))
    assert (confinement.resources, confinement.requested, confinement.sandbox) == (expected, ("env:A",), Sandbox.NATIVE)


def test_a_plugin_without_a_manifest_asks_for_nothing() -> None:
    """What is granted to it is not given."""
    assert Settings(grant=("env:A",)).confinement_for(_candidate(None)).effective == ()
