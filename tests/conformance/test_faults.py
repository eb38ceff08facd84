"""One plugin does everything wrong that can be done, at every level: what its caller gets, and that host and neighbour go on.

Where a fault cannot hurt the host, all faults of a level are done in one host, one after the other. Where it can, each is done in a host of its own, which
:mod:`tests.conformance.fault_hosts` forks. The table is :mod:`tests.conformance.fault_table`.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Iterator

import pytest

import blackhole_core as bh
from blackhole_core.executor.limits.detect import abilities_here
from tests.conformance.fault_hosts import COLUMNS, PATIENCE, ROOT, STANDSTILL, Nursery, after, fault_host, judge
from tests.conformance.fault_table import FAULTS, Fault, rendered
from tests.levels import MACHINES, require_level
from tests.plugins.build import HERE

#: A column's host lives until its last fault: the leak check around the whole session judges it.
pytestmark = pytest.mark.leaks("the host of a level goes on to the next fault")

#: Name of a process that is left behind; one run of the tests does not meet another's.
_NAME = f"left-{os.getpid()}"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[bh.PluginManager | None]:
    """Return the host that a level's faults share, None at levels where each may end it."""
    column = request.param
    require_level(column.partition(",")[0])
    if column in ("none", "thread"):
        yield None
        return
    with fault_host(column) as pm:
        yield pm


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Make what a plugin may reach for; ``{host}`` is filled in by the host that it is."""
    file = tmp_path_factory.mktemp("host") / "of the host"
    file.write_text("not the plugin's")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {"file": str(file), "port": str(server.getsockname()[1]), "name": _NAME, "host": "{host}"}


def _alone(nursery: Nursery, column: str, fault: Fault, kind: str) -> str:
    patience = STANDSTILL if "stands still" in fault.cell(column) else PATIENCE * (4 if column == "vm" else 1)  # it may boot
    return nursery.ask(
        column=column,
        kind=kind,
        seconds=fault.seconds,
        name=_NAME if fault.leaves else "",
        unloads=fault.unloads,
        resources=dict(fault.resources),
        patience=patience,
    )


def _together(pm: bh.PluginManager, fault: Fault, kind: str) -> str:
    outcome = judge(pm, kind.replace("{host}", str(os.getpid())), fault.seconds)
    if fault.unloads:
        pm.unload("faulty")
        outcome = f"{outcome}, {after(_NAME)}" if fault.leaves else outcome
        pm.load("faulty", source=HERE / "faulty_1_0")
    return outcome


@pytest.mark.skipif(
    not abilities_here().holds("pids") or not abilities_here().kills, reason=f"no control groups: {abilities_here().why_not}"
)
@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("host", [column for column in COLUMNS if column != "vm" or MACHINES], indirect=True)
def test_what_comes_of_a_fault(
    request: pytest.FixtureRequest, host: bh.PluginManager | None, kind: str, nursery: Nursery, arguments: dict[str, str]
) -> None:
    """F01-F08, A11-A13, A15, A29, A31, A32, A35, A41: the caller gets what the table says, and both plugins answer again if there is a host left."""
    column, fault = request.node.callspec.params["host"], FAULTS[kind]
    words = f"{kind}:{fault.argument.format(**arguments)}" if fault.argument else kind
    alone = host is None or fault.own_host or fault.resources
    assert (_alone(nursery, column, fault, words) if alone else _together(host, fault, words)) in fault.outcomes(column)


def test_the_documented_tables_are_those_that_are_tested() -> None:
    """docs/reference/faults.md shows what these tests assert."""
    assert rendered() in (ROOT / "docs/reference/faults.md").read_text("utf-8")


def test_the_table_has_every_fault_of_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that is added to the plugin and not to the table fails here."""
    monkeypatch.syspath_prepend(HERE / "faulty_1_0")
    kinds = {
        kind
        for name in ("ends", "raises", "reaches", "returns", "takes", "writes")
        for kind in importlib.import_module(f"notes_faulty.{name}").KINDS
    }
    assert kinds - FAULTS.keys() == {"none", "key_error", "cause", "fork_child"}
    for name in [name for name in sys.modules if name.startswith("notes_faulty")]:
        del sys.modules[name]
