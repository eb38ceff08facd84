"""Going back from a version that died on probation: how often it is tried, and when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from blackhole_core.errors import SwapFailed, SwapInProgress
from blackhole_core.lifecycle import probation
from blackhole_core.lifecycle.probation import Outdated, go_back
from blackhole_core.lifecycle.report import SwapReport

REPORT = SwapReport(plugin="a", from_version="2", to_version="1", generation=3, rolled_back="died")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probation, "_PAUSE", 0.0)


def _tried(*outcomes: SwapReport | Exception, generation: int = 2) -> tuple[int, list[tuple[str, dict[str, Any]]]]:
    """Go back from generation 2 with these outcomes of the attempts; return how many were made, and the events."""
    member: Any = SimpleNamespace(name="a", label="a@2", instance=SimpleNamespace(generation=generation))
    events: list[tuple[str, dict[str, Any]]] = []
    left: Iterator[SwapReport | Exception] = iter(outcomes)
    count = [0]

    def rollback() -> SwapReport:
        count[0] += 1
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    go_back(member, 2, "died", rollback, lambda name, plugin, **data: events.append((name, data)))
    return count[0], events


def test_a_failure_is_tried_again() -> None:
    """The new version died once more while it handed over."""
    count, [(name, data)] = _tried(SwapFailed("a", "export", "it died"), REPORT)
    assert (count, name, data["bad"], data["report"]["status"]) == (2, "swap.rolled_back", "a@2", "rolled_back")


def test_not_for_ever() -> None:
    """The event says what went wrong last."""
    count, [(name, data)] = _tried(*[SwapFailed("a", "load", f"number {number}") for number in range(1, 10)])
    assert (count, name, "number 5" in data["error"]) == (5, "swap.rollback_failed", True)


def test_a_version_that_was_replaced_by_then_is_left_alone() -> None:
    """Before it is tried, or, as only the claim shows, while it waits for that."""
    assert _tried(generation=3) == (0, [])
    assert _tried(SwapFailed("a", "load", Outdated())) == (1, [])


def test_the_end_of_the_host_ends_it() -> None:
    """No operation begins any more."""
    count, [(name, _)] = _tried(SwapInProgress("a", "the end of the host"))
    assert (count, name) == (1, "swap.rollback_failed")
