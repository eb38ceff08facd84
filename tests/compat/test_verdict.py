"""The judgement over the two runs of pluggy's suite."""

from __future__ import annotations

import pytest

from tests.compat.run import Outcome, outcome_of, verdict

THEIRS = Outcome(status=0, tests=219, failed=0, skipped=1)


def test_the_same_tests_all_passing_is_compatible():
    """Nothing is wrong when ours equals theirs."""
    assert verdict(THEIRS, THEIRS) is None


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (Outcome(0, 218, 0, 1), "on our manager ran 218"),
        (Outcome(0, 219, 0, 2), "2 skipped"),
        (Outcome(1, 219, 3, 1), "3 tests of pluggy's suite fail"),
        (Outcome(2, 0, 0, 0), "on our manager ran 0"),
        (Outcome(3, 219, 0, 1), "fail on our manager"),
    ],
    ids=["fewer", "skipped", "failed", "did-not-start", "ended-badly"],
)
def test_anything_less_is_named(ours, words):
    """Fewer tests, more skipped ones, failures, or a session that did not run: each is said."""
    assert words in str(verdict(THEIRS, ours))


@pytest.mark.parametrize("theirs", [Outcome(1, 219, 1, 0), Outcome(5, 0, 0, 0)], ids=["failing", "empty"])
def test_a_suite_that_fails_on_pluggy_proves_nothing(theirs):
    """The reference run must be sound itself."""
    assert "nothing can be concluded" in str(verdict(theirs, theirs))


def test_a_run_without_a_report_counts_no_tests(tmp_path):
    """A session that crashed before its report is not taken for a small one."""
    assert outcome_of(tmp_path / "missing.xml", 1) == Outcome(1, 0, 0, 0)
