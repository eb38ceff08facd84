"""The demo's book-keeping finds what a swap must never do, and says it."""

from __future__ import annotations

import math
import threading
from typing import Any

import attrs
import pytest

from blackhole_core.cli.demo.act import Outcome
from blackhole_core.cli.demo.corpus import Source
from blackhole_core.cli.demo.ledger import Ledger, totals_of
from blackhole_core.cli.demo.plainloop import Totals
from blackhole_core.cli.demo.traffic import Traffic
from blackhole_core.errors import WorkerDied

ONE = {"lines": 1, "words": 2, "identifiers": 3}
SOURCES = [Source(f"{number}.py", "x") for number in range(20)]
GOOD = Outcome(
    level="none",
    calls=20,
    seconds=2.0,
    swaps=8,
    under_load=8,
    kills=0,
    restarts=0,
    longest_gate=0.01,
    retried=0,
    failed=0,
    lost=0,
    doubled=0,
    totals=Totals(20, 20, 40, 60),
    own=Totals(20, 20, 40, 60),
    sums_then=Totals(20, 20, 40, 60),
)


def send(count: Any, threads: int = 4) -> Ledger:
    """Send all sources through ``count`` and return the ledger."""
    ledger = Ledger(len(SOURCES))
    with Traffic(count, SOURCES, ledger, threads=threads):
        pass  # leaving the block lets them go on to the end
    return ledger


def test_every_file_is_called_for_once(fast_switching: None) -> None:
    """Many threads share the files between them: each is counted once."""
    asked: list[str] = []

    def count(path: str, source: str) -> list[dict[str, int]]:
        asked.append(path)
        return [ONE]

    ledger = send(count, threads=16)
    assert sorted(asked) == sorted(source.path for source in SOURCES)
    assert (ledger.calls, ledger.lost(), ledger.doubled, ledger.errors) == (20, 0, 0, ())
    assert ledger.totals() == Totals(20, 20, 40, 60)


def test_callers_keep_to_the_pace() -> None:
    """No call is begun beyond what is allowed, all up to it are."""
    ledger = Ledger(len(SOURCES))
    with Traffic(lambda path, source: [ONE], SOURCES, ledger, threads=4) as traffic:
        traffic.pace.allow(7)
        assert ledger.reach(7, 10)
        assert not ledger.reach(8, 0.05)
    assert ledger.calls == 20


def test_a_call_whose_worker_died_is_made_again() -> None:
    """WorkerDied costs a retry, and the file is counted once."""
    died = threading.Event()

    def count(path: str, source: str) -> list[dict[str, int]]:
        if path == "3.py" and not died.is_set():
            died.set()
            raise WorkerDied("wordcount@1.0.0", "count", exit=-9)
        return [ONE]

    ledger = send(count)
    assert (ledger.retries, ledger.calls, ledger.errors) == (1, 20, ())


def test_a_worker_that_always_dies_is_an_error() -> None:
    """Retrying has an end."""

    def count(path: str, source: str) -> list[dict[str, int]]:
        raise WorkerDied("wordcount@1.0.0", "count", exit=-9)

    ledger = send(count, threads=1)
    assert {type(error) for error in ledger.errors} == {WorkerDied}
    assert ledger.calls == 0


@pytest.mark.parametrize("answers", [[], [ONE, ONE]])
def test_an_answer_by_no_plugin_or_two_is_an_error(answers: list[dict[str, int]]) -> None:
    """A call that meets a gap in a swap, or both versions, is counted as failed."""
    ledger = send(lambda path, source: answers if path == "7.py" else [ONE])
    [error] = ledger.errors
    assert f"the call for 7.py was answered by {len(answers)} plugins, wanted 1" in str(error)


def test_a_call_that_raises_is_an_error_and_the_others_go_on() -> None:
    """One failure does not end the traffic."""

    def count(path: str, source: str) -> list[dict[str, int]]:
        if path == "7.py":
            raise RuntimeError("oops")
        return [ONE]

    ledger = send(count)
    assert (ledger.calls, len(ledger.errors), ledger.lost()) == (19, 1, 0)


def test_files_without_a_reply_are_lost() -> None:
    """What was neither answered nor failed is lost; what was answered twice is doubled."""
    ledger = Ledger(3)
    ledger.answered(0, Totals(1, 1, 1, 1))
    ledger.answered(0, Totals(1, 1, 1, 1))
    assert (ledger.lost(), ledger.doubled, ledger.calls) == (2, 1, 2)


def test_progress_is_waited_for() -> None:
    """``reach`` returns as soon as so many files are done, at its deadline, or when nobody calls any more."""
    ledger = Ledger(3)
    assert not ledger.reach(1, 0.01)
    thread = threading.Thread(target=ledger.answered, args=(0, Totals()))
    thread.start()
    assert ledger.reach(1, 10)
    thread.join()
    ledger.end()
    assert not ledger.reach(2, 10)


def test_an_interrupted_demo_ends_its_threads() -> None:
    """Ctrl-C during the traffic lets the calls under way end and makes no more."""
    ledger = Ledger(1000)
    begun = threading.Event()

    def count(path: str, source: str) -> list[dict[str, int]]:
        begun.set()
        return [ONE]

    def interrupted() -> None:
        with Traffic(count, SOURCES * 50_000, ledger, threads=2) as traffic:
            traffic.pace.allow(math.inf)
            begun.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ledger.calls < len(SOURCES) * 50_000


def test_a_good_level_has_no_problems() -> None:
    """Equal sums, nothing failed, lost or doubled."""
    assert GOOD.problems(GOOD.totals) == []
    assert GOOD.rate == 10.0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"failed": 2, "errors": ("ValueError: x", "ValueError: y")}, "2 calls failed, the first: ValueError: x"),
        ({"lost": 1}, "1 calls were lost"),
        ({"doubled": 3}, "3 files were answered twice"),
        ({"totals": Totals(20, 19, 40, 60)}, "the replies add up to 19 lines, the plain loop to 20 (-1)"),
        ({"own": Totals(20, 20, 45, 60)}, "the plugin's own sums are 45 words, the replies so far add up to 40 (+5)"),
    ],
)
def test_each_fault_is_a_sentence(change: dict[str, Any], problem: str) -> None:
    """Every way in which the demo can fail is named, with the level and the difference."""
    assert attrs.evolve(GOOD, **change).problems(GOOD.totals) == [f"level none: {problem}"]


def test_an_answer_is_read_strictly() -> None:
    """A plugin that answers something else than counts is an error, not a zero."""
    with pytest.raises(KeyError):
        totals_of({"lines": 1})
