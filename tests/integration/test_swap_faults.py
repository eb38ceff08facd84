"""S-11, S-12, F28: a fault at the beginning of each phase of a swap under calls leaves the version serving that the table says, whole."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import blackhole_core as bh
from blackhole_core.lifecycle.swap import Swap
from tests.integration.managed import Callers, Log, manager, wheel
from tests.integration.swap_outcomes import FAULTS, NEW, OLD, OUTCOMES, PHASES, points, rendered

#: What happens at the point, as the phase's own code would.
RAISED: dict[str, Exception] = {
    "exception": RuntimeError("a fault, on purpose"),
    "disk full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
}


def _raise_at(point: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the phase ``point`` fail once, before it does anything."""
    timed, left = Swap._timed, [error]

    @contextlib.contextmanager
    def failing(swap: Swap, phase: str) -> Iterator[None]:
        with timed(swap, phase):
            if phase == point and left:
                raise left.pop()
            yield

    monkeypatch.setattr(Swap, "_timed", failing)


@pytest.mark.parametrize("level", ["none", "process"])
@pytest.mark.parametrize("fault", RAISED)
@pytest.mark.parametrize("phase", [phase for phase in PHASES if OUTCOMES[phase, "exception"] == OLD])
def test_a_phase_that_fails(phase: str, fault: str, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S-04, F20: the old version serves on with every update that its callers were told of; the next swap succeeds."""
    assert OUTCOMES[phase, fault] == OLD
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        pm.hook.add(amount=5)
        _raise_at(phase, RAISED[fault], monkeypatch)
        with Callers(2, lambda: pm.hook.add(amount=1)) as callers:
            with pytest.raises(bh.SwapFailed, match=r"on purpose|No space left") as caught:
                pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
            pm.hook.add(amount=1)
        assert caught.value.phase == phase
        assert callers.failures == []
        assert (pm.hook.version(), pm.hook.total()) == (["1.0.0"], [6 + len(callers.answers)])
        assert pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path)).ok
        assert (pm.hook.version(), pm.hook.total()) == (["2.0.0"], [6 + len(callers.answers)])


@pytest.mark.parametrize("fault", RAISED)
def test_a_cleanup_that_fails(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the switch nothing fails any more: what the old version raises as it ends, or the disk as migrated state is kept, is an event."""
    assert OUTCOMES["cleanup", fault] == NEW
    log = Log()
    with manager(log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        pm.hook.add(amount=5)
        if fault == "disk full":
            save, states = pm.state.save, pm.state

            def full(*args: object, **facts: object) -> object:
                if facts["state_version"] == 2:
                    raise bh.StateError("state could not be kept: No space left on device")
                return save(*args, **facts)  # type: ignore[arg-type]  # a test may give anything

            monkeypatch.setattr(states, "save", full)
        else:
            old = pm.parts.supervisor.member("counter").instance
            assert old is not None
            monkeypatch.setattr(type(old), "bounded_contract", _raising(type(old).bounded_contract, RAISED[fault]))
        assert pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path)).ok
        assert (pm.hook.version(), pm.hook.total()) == (["2.0.0"], [5])
        log.wait("state.not_kept" if fault == "disk full" else "plugin.stop_failed")
        monkeypatch.undo()


def _raising(bounded: object, error: Exception) -> object:
    def contract(instance: object, name: str, seconds: float, **arguments: object) -> object:
        if name == "plugin_stop":
            raise error
        return bounded(instance, name, seconds, **arguments)  # type: ignore[operator]  # it is callable

    return contract


@pytest.mark.parametrize("phase", points("delay"))
def test_a_phase_that_takes_long(phase: str, tmp_path: Path) -> None:
    """S-22: whatever takes long, the calls meanwhile wait or are answered, none fails, none is lost, and the new version serves."""
    assert OUTCOMES[phase, "delay"] == NEW
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        pm.on_event(lambda event: time.sleep(0.15) if event.data.get("phase") == phase and event.name == "swap.phase" else None)
        with Callers(3, lambda: pm.hook.add(amount=1)) as callers:
            assert pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path)).ok
            pm.hook.add(amount=1)
        assert callers.failures == []
        assert (pm.hook.version(), pm.hook.total()) == (["2.0.0"], [1 + len(callers.answers)])


def test_the_documented_table_is_the_one_that_is_tested() -> None:
    """docs/explanation/swap.md shows what these tests, and those in test_swap_killed.py, assert."""
    assert rendered() in Path(__file__).parents[2].joinpath("docs/explanation/swap.md").read_text("utf-8")
    assert len(OUTCOMES) == len(PHASES) * len(FAULTS) == 36
