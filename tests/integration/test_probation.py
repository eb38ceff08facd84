"""S-07: a new version that dies soon after its swap is replaced by the one before, with the state it has by then."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import blackhole_core as bh
from tests.integration.managed import Log, manager, wheel

CONFIG = {"probation": 60, "restart": {"intensity": 3, "period": 60, "delay": 0.01, "max_delay": 0.02}}


def _kill(pm: bh.PluginManager) -> None:
    pid = pm.plugin("counter").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def wheels(tmp_path: Path) -> tuple[Path, Path]:
    return wheel("counter", "1.0.0", tmp_path), wheel("counter", "2.0.0", tmp_path)


def test_the_old_version_comes_back_with_the_updates_made_since(wheels: tuple[Path, Path]) -> None:
    """What was saved since the swap is migrated back; the report and an event say that the host did it, and why."""
    log = Log()
    with manager(CONFIG, log=log) as pm:
        counter = pm.load("counter", source=wheels[0], isolation="process")
        pm.hook.add(amount=5)
        assert pm.swap("counter", source=wheels[1]).status == "swapped"
        pm.hook.add(amount=2)
        pm.export_state("counter")
        _kill(pm)
        told = log.wait("swap.rolled_back").data
        assert (counter.version, pm.hook.version(), pm.hook.total()) == ("1.0.0", ["1.0.0"], [7])
        assert (told["bad"], told["report"]["status"], told["report"]["state_lost"]) == ("counter@2.0.0", "rolled_back", None)
        assert "died within its probation of 60 s: its worker was killed by SIGKILL" in told["report"]["rolled_back"]
        assert pm.parts.supervisor.member("counter").probation is None
        _kill(pm)  # the old version is not on probation
        log.wait("worker.restarted", 2)
        assert (counter.version, len(log.of("swap.rolled_back"))) == ("1.0.0", 1)


def test_one_that_is_given_up_at_once_is_replaced_as_well(wheels: tuple[Path, Path]) -> None:
    """It cannot be asked for its state, and the old version cannot read its snapshots: it gets what it had handed over, and the report says so."""
    log = Log()
    with manager({**CONFIG, "restart": {"intensity": 0}}, log=log) as pm:
        counter = pm.load("counter", source=wheels[0], isolation="process")
        pm.hook.add(amount=5)
        pm.swap("counter", source=wheels[1])
        pm.hook.add(amount=2)
        _kill(pm)
        told = log.wait("swap.rolled_back").data
        assert (counter.version, counter.phase, pm.hook.total()) == ("1.0.0", bh.Phase.RUNNING, [5])
        assert "that got back what it had handed over before" in told["report"]["state_lost"]


def test_after_probation_and_without_one_it_is_only_started_again(wheels: tuple[Path, Path]) -> None:
    """The default: an operator decides. Loading is no swap: there is nothing to go back to."""
    for config in ({**CONFIG, "probation": 0}, {**CONFIG, "probation": 1e-6}):
        log = Log()
        with manager(config, log=log) as pm:
            counter = pm.load("counter", source=wheels[0], isolation="process")
            _kill(pm)
            log.wait("worker.restarted")
            pm.swap("counter", source=wheels[1])
            _kill(pm)
            log.wait("worker.restarted", 2)
            assert (counter.version, log.of("swap.rolled_back")) == ("2.0.0", [])


def test_who_dies_again_on_probation_is_told_of_once(wheels: tuple[Path, Path]) -> None:
    """The host is on its way back then, or has failed to go: it is neither begun nor told a second time."""
    log, told = Log(), []
    with manager(CONFIG, log=log) as pm:
        pm.load("counter", source=wheels[0], isolation="process")
        pm.swap("counter", source=wheels[1])
        pm.parts.supervisor.on_failed_probation = lambda member, instance, how: told.append(how)  # nobody goes back
        for deaths in (1, 2):
            _kill(pm)
            log.wait("worker.restarted", deaths)
        assert told == ["its worker was killed by SIGKILL"]
