"""The circuit breaker's states. A fake clock throughout."""

from __future__ import annotations

import pytest

from blackhole_core.lifecycle.breaker import Breaker, BreakerPolicy, after_call, before_call

POLICY = BreakerPolicy(failures=3, period=10.0, open=5.0)


def _failing(*instants: float) -> Breaker:
    breaker = Breaker()
    for now in instants:
        breaker, wait = before_call(breaker, now, POLICY)
        assert wait is None
        breaker = after_call(breaker, now, POLICY, begun=now, failed=True)
    return breaker


def test_failures_within_the_period_open_it() -> None:
    """The third of three within ten seconds; then calls are refused, and told how long."""
    assert _failing(1, 2).standing(2, POLICY) == "closed"
    breaker = _failing(1, 2, 3)
    assert breaker == Breaker(opened=3)
    assert breaker.standing(3, POLICY) == "open"
    assert before_call(breaker, 4.0, POLICY) == (breaker, 4.0)


def test_failures_far_apart_do_not() -> None:
    """What was longer ago than the period is forgotten; how much is kept is bounded."""
    breaker = _failing(*range(0, 1000, 6))
    assert breaker.standing(1000, POLICY) == "closed"
    assert len(breaker.failures) < 3


def test_an_answer_says_nothing_of_failures_before_it() -> None:
    """One that fails every other time is not well."""
    breaker = after_call(_failing(1, 2), 2.5, POLICY, begun=2.5, failed=False)
    assert after_call(breaker, 3, POLICY, begun=3, failed=True) == Breaker(opened=3)


def test_after_a_while_one_call_is_on_trial() -> None:
    """The others are refused meanwhile."""
    breaker = _failing(1, 2, 3)
    assert breaker.standing(8, POLICY) == "half-open"
    breaker, wait = before_call(breaker, 8.0, POLICY)
    assert (breaker.trial, wait) == (8.0, None)
    assert before_call(breaker, 8.5, POLICY) == (breaker, 4.5)


@pytest.mark.parametrize(("failed", "wanted"), [(False, Breaker()), (True, Breaker(opened=9))])
def test_the_trial_decides(failed: bool, wanted: Breaker) -> None:
    """Answered: closed, with a clean record. Failed: open for as long again."""
    breaker, _ = before_call(_failing(1, 2, 3), 8.0, POLICY)
    assert after_call(breaker, 9, POLICY, begun=8.0, failed=failed) == wanted


def test_a_trial_that_was_interrupted_decides_nothing() -> None:
    """The next call is the trial."""
    breaker, _ = before_call(_failing(1, 2, 3), 8.0, POLICY)
    breaker = after_call(breaker, 9, POLICY, begun=8.0, failed=None)
    assert before_call(breaker, 9.0, POLICY)[1] is None
    assert breaker.standing(9.0, POLICY) == "half-open"


def test_a_trial_that_never_ends_is_given_up() -> None:
    """After another five seconds there is a new one, and what the old one comes to does not count."""
    breaker, _ = before_call(_failing(1, 2, 3), 8.0, POLICY)
    breaker, wait = before_call(breaker, 13.0, POLICY)
    assert wait is None
    assert after_call(breaker, 14, POLICY, begun=8.0, failed=True) == breaker
    assert after_call(breaker, 15, POLICY, begun=13.0, failed=False) == Breaker()


def test_calls_that_had_begun_before_it_opened_change_nothing() -> None:
    """Neither their answers nor their failures."""
    breaker = _failing(1, 2, 3)
    for failed in (True, False, None):
        assert after_call(breaker, 4, POLICY, begun=0.5, failed=failed) == breaker


@pytest.mark.parametrize("bad", [{"failures": 0}, {"period": 0.0}, {"open": 0.0}])
def test_a_policy_must_make_sense(bad: dict[str, float]) -> None:
    """It would never, or always, be open."""
    with pytest.raises(ValueError, match="a breaker needs"):
        BreakerPolicy(**bad)  # type: ignore[arg-type]  # a test may give anything
