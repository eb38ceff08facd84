"""Which limit a worker died of."""

from __future__ import annotations

import signal

import pytest

from blackhole_core.executor.limits.amounts import MB
from blackhole_core.executor.limits.verdict import Verdict, judge
from blackhole_core.manifest.model import Resources

NOTHING = {"oom_kills": None, "peak": None, "cpu_seconds": None, "cpu_limit": None}


def test_a_worker_that_the_kernel_ended_for_memory() -> None:
    verdict = judge(-signal.SIGKILL, Resources(memory=64), **{**NOTHING, "oom_kills": 1, "peak": 64 * MB})
    assert verdict == Verdict("memory", 64, 64, "MB")
    assert str(verdict) == "it passed its limit memory: at most 64 MB, got 64 MB"


def test_a_worker_that_was_killed_by_somebody_is_no_case_of_memory() -> None:
    """Nor is one that ended well, although a child of its was ended for memory, nor one without a limit: then it was the machine's."""
    assert judge(-signal.SIGKILL, Resources(memory=64), **{**NOTHING, "oom_kills": 0, "peak": MB}) is None
    assert judge(0, Resources(memory=64), **{**NOTHING, "oom_kills": 1, "peak": MB}) is None
    assert judge(-signal.SIGKILL, Resources(), **{**NOTHING, "oom_kills": 1, "peak": MB}) is None


@pytest.mark.parametrize("exit", [-signal.SIGKILL, 1, None])
def test_a_worker_that_fell_with_one_of_its_processes_died_of_memory(exit: int | None) -> None:
    verdict = judge(exit, Resources(memory=64), **{**NOTHING, "oom_kills": 2})
    assert verdict == Verdict("memory", 64, 64, "MB")


def test_signals_of_resource_limits() -> None:
    assert judge(-signal.SIGXFSZ, Resources(disk=5), **NOTHING) == Verdict("disk", 5, 5, "MB", "one file alone")
    assert judge(-signal.SIGXCPU, Resources(), **{**NOTHING, "cpu_limit": 10, "cpu_seconds": 10.5}) == Verdict("cpu time", 10, 10.5, "s")
    assert judge(-signal.SIGXCPU, Resources(), **NOTHING) is None


def test_what_was_found_beside_the_numbers_is_told() -> None:
    assert str(Verdict("disk", 5, 5, "MB", "too many files")) == "it passed its limit disk: at most 5 MB, got 5 MB (too many files)"
