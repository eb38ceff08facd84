"""The soak finds what it looks for."""

from __future__ import annotations

import attrs
import pytest

import blackhole_core as bh
from tests.soak.__main__ import unproven
from tests.soak.census import LEVEL, ROOM, Counted, grown, rising
from tests.soak.ledger import Ledger

LITTLE = Counted(threads=4, descriptors=10, processes=2, files=1, groups=5, modules=300, memory=2**25)


def _died(executed: str) -> bh.WorkerDied:
    return bh.WorkerDied("soaked@1.0.0", "work", exit=-9, executed=executed)  # type: ignore[arg-type]  # a test may give anything


def test_a_right_ledger_is_right() -> None:
    """An answer that was run once, an error that was not run, and one that may have been, with its last word coming late."""
    ledger = Ledger()
    first, second, third = (ledger.begin() for _ in range(3))
    ledger.ran(first)
    ledger.answered(first, first)
    ledger.failed(second, _died("no"))
    ledger.failed(third, _died("unknown"))
    ledger.ran(third)
    ledger.balance()
    assert ledger.wrong == []
    assert ledger.outcomes == {"answered": 1, "WorkerDied, executed: no": 1, "WorkerDied, executed: unknown": 1}


@pytest.mark.parametrize(
    ("runs", "outcome", "said"),
    [
        (0, "answer", "was answered, and run 0 times"),
        (2, "answer", "was answered, and run 2 times"),
        (1, "other answer", "was answered 17"),
        (2, "unknown", "was run 2 times"),
        (1, "no", "its error says that it was not"),
        (1, "none", "has no outcome"),
        (1, "twice", "has a second outcome"),
        (0, "timeout", "failed with CallTimeout"),
    ],
)
def test_a_wrong_ledger_is_found(runs: int, outcome: str, said: str) -> None:
    """A call that is lost, run twice, answered twice or with another's answer, or fails in a way that nothing leads to."""
    ledger = Ledger()
    call = ledger.begin()
    for _ in range(runs):
        ledger.ran(call)
    if outcome in ("answer", "twice"):
        ledger.answered(call, call)
    if outcome == "twice":
        ledger.failed(call, _died("unknown"))
    if outcome == "other answer":
        ledger.answered(call, 17)
    if outcome in ("unknown", "no"):
        ledger.failed(call, _died(outcome))
    if outcome == "timeout":
        ledger.failed(call, bh.CallTimeout("soaked@1.0.0", "work", 1.0))
    ledger.balance()
    assert any(said in wrong for wrong in ledger.wrong)


@pytest.mark.parametrize("field", attrs.asdict(LITTLE))
def test_growth_is_found(field: str) -> None:
    """One of anything is too many, of memory what exceeds the room."""
    more = getattr(LITTLE, field) + (ROOM + 1 if field == "memory" else 1)
    assert grown(LITTLE, LITTLE) == []
    assert [what.partition(":")[0] for what in grown(LITTLE, attrs.evolve(LITTLE, **{field: more}))] == [field]


def test_what_was_settled_is_not_run_later() -> None:
    """A rest settles everything before it: a word that comes after it is of a call that was run when it should not have been."""
    ledger = Ledger()
    call = ledger.begin()
    ledger.failed(call, _died("unknown"))
    ledger.balance()
    assert ledger.wrong == []
    ledger.ran(call)
    ledger.balance()
    assert ledger.wrong == [f"call {call} was run, and nobody made it, or it had been settled"]


def test_memory_that_rises_to_a_level_is_told_from_a_leak() -> None:
    """Only the second half of a run counts, and only when the first was long enough for everything to be there."""
    level, leak = [0, 4 * LEVEL, 5 * LEVEL, 5 * LEVEL, 5 * LEVEL], [number * LEVEL for number in range(5)]
    assert rising(level, 600) == []
    assert [what.partition(":")[0] for what in rising(leak, 600)] == ["memory still rises"]
    assert rising(leak, 30) == []


def test_a_soak_that_showed_nothing_fails() -> None:
    """Without crashes or swaps nothing has been shown."""
    assert unproven(deaths=300, swaps=28, seconds=30) == []
    assert unproven(deaths=20, swaps=28, seconds=30) == ["only 20 calls met a crash"]
    assert unproven(deaths=300, swaps=5, seconds=30) == ["only 5 swaps succeeded"]
