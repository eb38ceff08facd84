"""Whose a leftover is: only what certainly belongs to a host that has ended may be touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from blackhole_core.executor.limits.naming import Owner, alive, myself


def test_a_directory_names_its_owner_and_back() -> None:
    assert Owner.parse(myself().directory) == myself()


@pytest.mark.parametrize("name", ["blackhole", "blackhole-1-2", "blackhole-1-2-3-4", "blackhole-x-2-3", "other-1-2-3", "blackhole-1-2-3/"])
def test_a_stranger_s_directory_is_nobody_s(name: str) -> None:
    assert Owner.parse(name) is None


def test_this_process_is_alive() -> None:
    assert alive(myself(), myself())


def test_an_owner_that_has_ended_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not alive(attrs.evolve(myself(), pid=process.pid), myself())


def test_an_owner_whose_number_was_given_to_another_process_is_not_alive() -> None:
    """The number runs, but it started at another time."""
    assert not alive(attrs.evolve(myself(), started=myself().started - 1), myself())


def test_an_owner_that_is_a_zombie_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        owner = Owner(process.pid, started, myself().namespace)
        assert alive(owner, myself())
        assert process.stdin is not None
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not alive(owner, myself())


def test_an_owner_in_another_process_namespace_counts_as_alive() -> None:
    """Its number means somebody else here, or nobody: nothing can be known."""
    assert alive(Owner(2**22 + 1, 1, myself().namespace + 1), myself())
