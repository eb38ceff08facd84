"""How each limit is enforced, and who may not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blackhole_core.errors import LoadFailed
from blackhole_core.executor.confinement import Confinement, Sandbox, Unenforced
from blackhole_core.executor.limits.enforcing import limit_enforcement, refuse_unenforced
from blackhole_core.executor.limits.tree import CONTROLLERS, Abilities, Tree
from blackhole_core.ids import Isolation
from blackhole_core.manifest.model import Resources

ALL = Resources(cpu=50, memory=100, disk=10, network=1, pids=5)


def groups() -> Abilities:
    return Abilities((Tree(Path("/groups"), 2, frozenset(CONTROLLERS), kills=True),))


def none() -> Abilities:
    return Abilities((), tuple((name, f"no {name} here") for name in CONTROLLERS))


def enforcement(abilities: Any, level: Isolation = Isolation.PROCESS, **confinement: Any) -> dict[str, str]:
    found = limit_enforcement(level, Confinement(**{"resources": ALL, **confinement}), abilities)
    return {name.removeprefix("resources."): how for name, how in found.items()}


def test_with_control_groups_the_kernel_holds_what_they_hold() -> None:
    held = enforcement(groups, sandbox=Sandbox.NATIVE, data=Path("/data"))
    assert held == {"cpu": "kernel", "memory": "kernel", "pids": "kernel", "disk": "broker", "network": "kernel"}


def test_without_them_the_host_watches_what_it_can() -> None:
    held = enforcement(none, sandbox=Sandbox.NATIVE, data=Path("/data"))
    assert held == {"cpu": "broker", "memory": "broker", "pids": "none", "disk": "broker", "network": "kernel"}


def test_without_a_sandbox_room_and_bandwidth_are_not_held() -> None:
    """The plugin may write and send past whoever watches."""
    held = enforcement(groups, data=Path("/data"))
    assert (held["disk"], held["network"]) == ("none", "none")


def test_a_container_is_a_sandbox_whatever_is_said_of_those_of_processes() -> None:
    """What it may write to and send through is its data directory and the relay."""
    held = enforcement(groups, Isolation.CONTAINER, data=Path("/data"))
    assert (held["disk"], held["network"]) == ("broker", "kernel")


def test_a_plugin_that_may_use_the_network_is_held_by_the_relay() -> None:
    network = ("network:connect:example.org:443",)
    assert enforcement(groups, sandbox=Sandbox.NATIVE, requested=network, granted=network)["network"] == "broker"


@pytest.mark.parametrize("level", [Isolation.NONE, Isolation.THREAD])
def test_inside_the_host_nothing_is_held(level: Isolation) -> None:
    assert set(enforcement(groups, level).values()) == {"none"}


def test_only_what_was_named_is_judged_and_nothing_is_tried_for_nothing() -> None:
    def never() -> Abilities:
        raise AssertionError("there is no limit: nobody needs to know what the machine can do")

    assert limit_enforcement(Isolation.PROCESS, Confinement(), never) == {}
    refuse_unenforced("p@1", Isolation.PROCESS, Confinement(), never)


def test_a_plugin_whose_limits_cannot_be_held_does_not_start_and_each_reason_is_told() -> None:
    with pytest.raises(LoadFailed) as caught:
        refuse_unenforced("p@1", Isolation.PROCESS, Confinement(resources=Resources(cpu=0.01, pids=5)), none)
    assert str(caught.value) == (
        "plugin p@1 could not be loaded: "
        "its limit cpu cannot be enforced here: 0.01 % of one core is less than 0.1 %, the least that can be held; "
        "its limit pids cannot be enforced here: only a control group can hold it, and there is none: no pids here. "
        "With unenforced: allow it starts all the same"
    )


def test_it_starts_where_that_is_allowed_or_the_host_can_watch() -> None:
    refuse_unenforced("p@1", Isolation.PROCESS, Confinement(resources=ALL, unenforced=Unenforced.ALLOW), none)
    refuse_unenforced("p@1", Isolation.PROCESS, Confinement(resources=Resources(cpu=50, memory=10)), none)
