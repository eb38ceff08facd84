"""Chains of migrations: which steps, in which order, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from blackhole_core.errors import NoMigrationPath, StateError
from blackhole_core.state.migrate import MAX_STEPS, Step, migrate, plan


@pytest.mark.parametrize(
    ("have", "want", "declared", "steps"),
    [
        (2, 2, (), []),
        (1, 2, None, [(1, 2)]),
        (1, 3, None, [(1, 2), (2, 3)]),
        (3, 1, None, [(3, 2), (2, 1)]),
        (1, 2, (1,), [(1, 2)]),
        (1, 3, (1, 2), [(1, 2), (2, 3)]),
        (1, 3, {3, 2, 1, 9}, [(1, 2), (2, 3)]),
        (3, 2, (2,), [(3, 2)]),
    ],
)
def test_a_plan_is_a_chain_of_single_steps(have: int, want: int, declared: Any, steps: list[tuple[int, int]]) -> None:
    """S-09: up, down, over several versions, and nothing to do when they are equal."""
    assert plan(have, want, declared=declared) == tuple(Step(*pair) for pair in steps)


@pytest.mark.parametrize(
    ("have", "want", "declared", "missing"),
    [
        (1, 2, (), "step 1 → 2 is missing: version 1 is not in state.migrates .* lists none"),
        (1, 3, (2,), "step 1 → 2 is missing: version 1"),
        (1, 3, (1,), "step 1 → 2 is missing: version 2 .* state version 3, which lists 1"),
        (4, 1, (3, 1), "step 3 → 2 is missing: version 2 .* state version 4, which lists 1, 3"),
    ],
)
def test_no_path_names_the_missing_step(have: int, want: int, declared: Any, missing: str) -> None:
    """S-09: a version on the way that is not declared is refused, with the step and who should know it."""
    with pytest.raises(NoMigrationPath, match=missing) as caught:
        plan(have, want, declared=declared, plugin="counter")
    assert "state of plugin counter is version" in str(caught.value)
    assert (caught.value.have, caught.value.want) == (have, want)


def test_an_absurd_chain_is_refused() -> None:
    """A state version of a billion is a mistake, not a billion steps."""
    assert len(plan(0, MAX_STEPS, declared=None)) == MAX_STEPS
    with pytest.raises(NoMigrationPath, match=f"at most {MAX_STEPS} steps"):
        plan(1, 10**9, declared=None)


def test_steps_are_applied_in_order() -> None:
    """S-09: each step gets what the step before returned; the input stays as it was."""
    before = {"n": 1}
    after = migrate(before, plan(1, 3, declared=None), lambda state, step: {**state, f"v{step.to_version}": len(state)}, plugin="counter")
    assert after == {"n": 1, "v2": 1, "v3": 2}
    assert before == {"n": 1}


def test_without_steps_the_state_is_the_same_object() -> None:
    """Nothing to migrate is nothing to copy."""
    state = {"n": 1}
    assert migrate(state, (), lambda *_: 1 / 0, plugin="counter") is state


def test_a_failing_step_is_named() -> None:
    """A migration that raises is a StateError that names the step and keeps the cause."""

    def apply(state: Any, step: Step) -> Any:
        return state["gone"] if step.to_version == 3 else state

    with pytest.raises(StateError, match="migration 2 → 3 of the state of plugin counter failed: KeyError: 'gone'") as caught:
        migrate({}, plan(1, 3, declared=None), apply, plugin="counter")
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_result_that_is_not_plain_is_refused() -> None:
    """What a migration returns is held to the same rule as an export, with the step named."""
    with pytest.raises(StateError, match=r"^result of migration 1 → 2 of the state of plugin counter, state\.tags is a set"):
        migrate({}, plan(1, 2, declared=None), lambda *_: {"tags": {1}}, plugin="counter")


def test_a_forgotten_return_is_refused() -> None:
    """None for a state that was something is the commonest mistake and would lose everything."""
    with pytest.raises(StateError, match=r"migration 1 → 2 .* returned None: .*`return` missing"):
        migrate({"n": 1}, plan(1, 2, declared=None), lambda *_: None, plugin="counter")
    assert migrate(None, plan(1, 2, declared=None), lambda *_: None, plugin="counter") is None
