"""The phases of a plugin: the table is the machine."""

from __future__ import annotations

import itertools

import pytest

from blackhole_core.lifecycle.phase import TRANSITIONS, IllegalTransition, Phase, advance

STEPS = list(itertools.product(Phase, Phase))


@pytest.mark.parametrize(("current", "to"), STEPS)
def test_a_step_is_taken_or_refused_as_the_table_says(current: Phase, to: Phase) -> None:
    """Every pair of phases: the step leads there, or it is refused by a sentence that names both."""
    if to in TRANSITIONS[current]:
        assert advance(current, to) is to
    else:
        with pytest.raises(IllegalTransition, match=f"from {current} to {to}"):
            advance(current, to)


def test_every_phase_can_be_reached_from_the_first() -> None:
    """No phase is dead, and none is a dead end: each leads back to FOUND, so every plugin can be tried again."""
    reached = {Phase.FOUND}
    while (more := reached.union(*(TRANSITIONS[phase] for phase in reached))) != reached:
        reached = more
    assert reached == set(Phase)
    for phase in Phase:
        ways = {phase}
        while (more := ways.union(*(TRANSITIONS[way] for way in ways))) != ways:
            ways = more
        assert Phase.FOUND in ways


def test_what_cannot_start_never_runs() -> None:
    """Only what was admitted starts, and only what started or is replaced runs."""
    assert {phase for phase in Phase if Phase.STARTING in TRANSITIONS[phase]} == {Phase.ADMITTED, Phase.RUNNING, Phase.DRAINING}
    assert {phase for phase in Phase if Phase.RUNNING in TRANSITIONS[phase]} == {Phase.STARTING, Phase.DRAINING, Phase.BROKEN}
