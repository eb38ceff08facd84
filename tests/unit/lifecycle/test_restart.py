"""F-08: when a plugin that died is started again, with a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.lifecycle.restart import GiveUp, Restart, RestartPolicy, decide, within_period


def _die(instants: list[float], policy: RestartPolicy) -> tuple[list[float], str | None]:
    """Die at ``instants`` after the last start, seconds of life each; return when it was restarted, and why it was given up."""
    restarts: list[float] = []
    now = 0.0
    for life in instants:
        now += life
        decision = decide(restarts, now, policy)
        if isinstance(decision, GiveUp):
            return restarts, decision.reason
        now += decision.delay
        restarts.append(now)
    return restarts, None


def test_the_waits_double_up_to_the_longest() -> None:
    """F-08: the first restart is immediate, then delay, twice that, four times … up to max_delay."""
    policy = RestartPolicy(intensity=7, period=1000.0, delay=10.0, max_delay=60.0)
    restarts: list[float] = []
    decisions = []
    for _ in range(7):
        decision = decide(restarts, 500.0, policy)
        decisions.append(decision)
        restarts.append(500.0)
    assert decisions == [Restart(delay, attempt) for attempt, delay in enumerate([0.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0], start=1)]
    assert isinstance(decide(restarts, 500.0, policy), GiveUp)


def test_the_reason_says_how_often_and_how_often_is_allowed() -> None:
    """What an operator reads when a plugin was given up."""
    decision = decide([0.0, 1.0], 2.0, RestartPolicy(intensity=2, period=30.0))
    assert decision == GiveUp("it died again after 2 restarts within 30 s, at most 2 are allowed")


def test_a_healthy_period_starts_the_count_anew() -> None:
    """F-08: what lived longer than the period is restarted at once, like one that never died."""
    policy = RestartPolicy(intensity=3, period=60.0, delay=1.0, max_delay=10.0)
    restarts, given_up = _die([5.0, 5.0, 5.0], policy)
    assert given_up is None
    assert decide(restarts, restarts[-1] + 60.001, policy) == Restart(0.0, 1)


def test_dying_slower_than_the_intensity_is_restarted_for_ever() -> None:
    """F-07: one death every 70 s never reaches one restart a minute."""
    restarts, given_up = _die([70.0] * 1000, RestartPolicy(intensity=1, period=60.0))
    assert (len(restarts), given_up) == (1000, None)


def test_no_restart_is_allowed_with_intensity_zero() -> None:
    """The first death is the last."""
    assert isinstance(decide([], 0.0, RestartPolicy(intensity=0)), GiveUp)


@pytest.mark.parametrize("error", [ImportError("no module named x"), SyntaxError("never closed")])
def test_what_a_restart_cannot_change_is_not_retried(error: Exception) -> None:
    """F-09: code that cannot be imported is given up at once."""
    assert decide([], 0.0, RestartPolicy(), error) == GiveUp("its code cannot be imported, which no restart changes")


def test_any_other_failure_to_start_is_retried() -> None:
    """F-09: a port that is taken may be free the next time."""
    assert decide([], 0.0, RestartPolicy(), OSError("address in use")) == Restart(0.0, 1)


def test_a_huge_intensity_does_not_overflow() -> None:
    """The wait stays at the longest, however often it has doubled."""
    policy = RestartPolicy(intensity=5000, period=1e9)
    assert decide([0.0] * 4000, 0.0, policy) == Restart(policy.max_delay, 4001)


POLICIES = st.builds(
    RestartPolicy,
    intensity=st.integers(0, 8),
    period=st.floats(0.1, 100),
    delay=st.floats(0, 5),
    max_delay=st.floats(5, 200),
)


@given(lives=st.lists(st.floats(0, 50), max_size=60), policy=POLICIES)
def test_no_period_ever_sees_more_restarts_than_the_intensity(lives: list[float], policy: RestartPolicy) -> None:
    """F-08: whatever the times of the deaths, every window of one period holds at most ``intensity`` restarts."""
    restarts, _ = _die(lives, policy)
    for last in restarts:
        assert len([instant for instant in restarts if instant <= last and last - instant <= policy.period]) <= policy.intensity


@given(lives=st.lists(st.floats(0, 50), max_size=60), policy=POLICIES)
def test_forgetting_what_is_older_than_the_period_changes_no_decision(lives: list[float], policy: RestartPolicy) -> None:
    """The supervisor keeps only what still counts."""
    restarts, _ = _die(lives, policy)
    now = (restarts[-1] if restarts else 0.0) + 1.0
    assert decide(restarts, now, policy) == decide(within_period(restarts, now, policy), now, policy)


@pytest.mark.parametrize("wrong", [{"intensity": -1}, {"period": 0}, {"delay": -1}, {"delay": 20.0, "max_delay": 10.0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    """The sentence says what the numbers must satisfy."""
    with pytest.raises(ValueError, match="0 <= delay <= max_delay"):
        RestartPolicy(**wrong)  # type: ignore[arg-type]  # a test may give anything
