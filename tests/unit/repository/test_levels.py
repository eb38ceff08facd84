"""A level that must run here cannot be skipped."""

from __future__ import annotations

import pytest

from blackhole_core.ids import Isolation
from tests import levels


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "why_unavailable", lambda level: "no pidfd" if level is Isolation.PROCESS else "")


def test_an_available_level_is_returned(no_processes: None) -> None:
    """A level that runs here is handed to the test."""
    assert levels.require_level("thread") is Isolation.THREAD


def test_a_missing_level_skips(no_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level that cannot run here skips the test and says why."""
    monkeypatch.setenv(levels.REQUIRED_LEVELS, "none,thread")
    with pytest.raises(pytest.skip.Exception, match="level process cannot run here: no pidfd"):
        levels.require_level("process")


def test_a_missing_level_that_is_required_fails(no_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level in BLACKHOLE_REQUIRE_LEVELS that cannot run here fails the test and says why."""
    monkeypatch.setenv(levels.REQUIRED_LEVELS, "none, process")
    with pytest.raises(pytest.fail.Exception, match=r"level process must run here .* cannot: no pidfd"):
        levels.require_level("process")


def test_a_level_that_does_not_exist_is_an_error() -> None:
    """A misspelt level in the list is refused, or it would require nothing."""
    with pytest.raises(ValueError, match="proces"):
        levels.required_levels("none,proces")


def test_every_level_is_known() -> None:
    """The product says of each level whether it runs here; level none always does."""
    assert {level: levels.why_unavailable(level) for level in Isolation}[Isolation.NONE] == ""
