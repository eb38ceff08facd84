"""Real processes that write and are killed: what was promised is there, what is there is whole."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from blackhole_core.state.files import POINTS, FileStateStore
from tests.unit.killed_writer import start_writer


def acknowledged(lines: list[str]) -> dict[str, int]:
    """Return id → number of the puts that were reported finished."""
    return {line.split()[0]: int(line.split()[1]) for line in lines if line.endswith("\n")}


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*.tmp")]


def check(root: Path, acks: dict[str, int], keep: int) -> FileStateStore:
    """Every listed snapshot decodes to what its put wrote; every acknowledged one among the newest is there; nothing is left over."""
    store = FileStateStore(root, keep=keep)
    assert leftovers(root) == []
    listed = store.list("counter")
    assert [info.damaged for info in listed] == [None] * len(listed)
    present = {info.id: store.get("counter", info.id).data["number"] for info in listed}
    newest_promised = sorted(acks, reverse=True)[: max(0, keep - 1)]  # one more may have been published and not yet acknowledged
    assert set(newest_promised) <= set(present)
    assert all(present[snapshot_id] == acks[snapshot_id] for snapshot_id in present if snapshot_id in acks)
    return store


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_step_of_a_put(tmp_path: Path, point: str) -> None:
    """S-11: SIGKILL at each step of the third put leaves two or three whole snapshots, and the next host goes on."""
    with start_writer("state", tmp_path, 5, 10, point, 3) as process:
        assert process.stdout is not None
        acks = acknowledged(process.stdout.readlines())
    assert process.returncode == -signal.SIGKILL
    assert len(acks) == 2
    assert len(leftovers(tmp_path)) == (point != "pruned")
    store = check(tmp_path, acks, keep=10)
    latest, damage = store.latest("counter")
    assert damage == ()
    assert latest is not None
    published = point in ("linked", "settled", "pruned")
    assert latest.data["number"] == (2 if published else 1)
    with start_writer("state", tmp_path, 1, 10) as process:
        assert process.stdout is not None
        (following,) = acknowledged(process.stdout.readlines())
    assert following > latest.id


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_a_random_moment(tmp_path: Path, seed: int) -> None:
    """S-11: SIGKILL from outside while puts run in a loop; the newest finished one is there, every one there is whole."""
    chance = random.Random(seed)
    with start_writer("state", tmp_path, 100_000, 3) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randrange(1, 40))]
        for _ in range(chance.randrange(20_000)):  # land anywhere within the put that runs now
            pass
        process.kill()
        lines += process.stdout.readlines()
    acks = acknowledged(lines)
    latest, _ = check(tmp_path, acks, keep=3).latest("counter")
    assert latest is not None
    assert latest.data["number"] >= max(acks.values())


def test_several_processes_write_at_once_and_some_are_killed(tmp_path: Path) -> None:
    """Four writers of one plugin, two of them killed: ids are given once, and all that was acknowledged is there."""
    processes = [start_writer("state", tmp_path, count, 100_000) for count in (25, 25, 100_000, 100_000)]
    lines: list[list[str]] = [[] for _ in processes]
    for process, mine in zip(processes[2:], lines[2:], strict=True):
        assert process.stdout is not None
        mine.extend(process.stdout.readline() for _ in range(15))
        process.kill()
    for process, mine in zip(processes, lines, strict=True):
        with process:
            assert process.stdout is not None
            mine.extend(process.stdout)
    acks = [acknowledged(mine) for mine in lines]
    assert [len(ack) for ack in acks[:2]] == [25, 25]
    merged = {snapshot_id: number for ack in acks for snapshot_id, number in ack.items()}
    assert len(merged) == sum(len(ack) for ack in acks)
    check(tmp_path, merged, keep=100_000)
