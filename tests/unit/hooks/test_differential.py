"""Random programs on pluggy's manager and on ours: whatever a host or a plugin can see is the same.

``BLACKHOLE_PROGRAMS=100000 pytest tests/unit/hooks/test_differential.py`` runs as many further ones.
"""

from __future__ import annotations

import itertools
import os
from random import Random
from typing import Final

import pluggy
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from blackhole_core.hooks.manager import HookManager
from tests.unit.hooks.programs import Program, drawn, run

#: How many programs are run by hand, beside those that are run each time.
ASKED: Final = int(os.environ.get("BLACKHOLE_PROGRAMS", "0"))

#: All but explaining, which runs the program a thousand times more.
_PHASES: Final = (Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink)

#: The same programs each time, some two seconds of them.
bounded = settings(deadline=None, derandomize=True, max_examples=100, suppress_health_check=list(HealthCheck), phases=_PHASES)

programs = st.randoms(use_true_random=False).map(drawn)


def _differ(program: Program, manager: HookManager) -> None:
    ours, theirs = run(program, manager), run(program, pluggy.PluginManager("t"))
    for place, (own, other) in enumerate(itertools.zip_longest(ours, theirs)):
        if own != other:  # by hand: a plain assertion would compare two logs of a thousand entries for a minute
            pytest.fail(f"step {place}, after {ours[max(0, place - 6) : place]}:\n ours   {own}\n pluggy {other}")


@bounded
@given(programs)
def test_a_program_does_on_ours_what_it_does_on_pluggys(manager_class, program: Program) -> None:
    """Order, results, exceptions with cause and context, warnings, and what can be asked afterwards."""
    _differ(program, manager_class("t"))


@bounded
@given(programs, st.sampled_from([1, 2, 251]))
def test_telemetry_changes_nothing(manager_class, program: Program, sample: int) -> None:
    """The same with calls counted and timed from the beginning; the program itself may turn it off and on."""
    manager: HookManager = manager_class("t")
    manager.telemetry.start(sample=sample)
    _differ(program, manager)


if ASKED:

    @pytest.mark.timeout(0)
    def test_many_programs_do_the_same(manager_class) -> None:
        """Each seed is a program; the message of a failure names it."""
        for seed in range(ASKED):
            manager: HookManager = manager_class("t")
            if seed % 2:
                manager.telemetry.start(sample=1 + seed % 3)
            try:
                _differ(drawn(Random(seed)), manager)
            except pytest.fail.Exception as error:
                error.add_note(f"the program of seed {seed}")
                raise
