"""The room that a directory takes, whatever its owner puts into it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from blackhole_core.executor.limits.disk import Uncountable, disk_used, walk

BLOCK = b"x" * 100_000


def last(directory: Path, enough: float = math.inf, **more: int) -> int:
    return list(walk(directory, enough, **more))[-1]


def test_files_are_counted_at_every_depth(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for path in ("one", "a/two", "a/b/three"):
        (tmp_path / path).write_bytes(BLOCK)
    assert 300_000 <= last(tmp_path) < 400_000
    assert disk_used(tmp_path, 1000) == last(tmp_path)


def test_a_directory_that_is_not_there_takes_nothing(tmp_path: Path) -> None:
    assert last(tmp_path / "nothing") == 0


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Nor counted as what it leads to: the plugin could name the whole machine, or its own directory in itself."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for directory in (outside, inside):
        directory.mkdir()
    (outside / "big").write_bytes(BLOCK)
    (inside / "link").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "file").symlink_to(outside / "big")
    assert last(inside) < 50_000


def test_a_sparse_file_counts_for_what_it_takes(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    assert last(tmp_path) < 50_000


def test_a_file_with_two_names_counts_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(BLOCK)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert last(tmp_path) < 150_000


def test_empty_files_are_not_nothing(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert last(tmp_path) >= 100 * 4096


def test_the_walk_ends_where_enough_was_found(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert last(tmp_path, enough=20_000) < 30_000


def test_it_stops_in_between(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / str(number)).touch()
    assert len(list(walk(tmp_path, math.inf))) >= 5


def test_too_many_files_cannot_be_counted(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).touch()
    with pytest.raises(Uncountable, match="more than 10 files"):
        last(tmp_path, most_files=10)
    assert disk_used(tmp_path, 10) is None


def test_directories_nested_deeper_than_a_path_are_noticed(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(Uncountable, match="nested deeper"):
        last(tmp_path)


def test_a_file_that_was_removed_and_is_still_open_counts(tmp_path: Path) -> None:
    with (tmp_path / "gone").open("wb") as file:
        file.write(BLOCK)
        file.flush()
        (tmp_path / "gone").unlink()
        assert list(walk(tmp_path, math.inf, [os.getpid()]))[-1] >= 100_000
    assert list(walk(tmp_path, math.inf, [os.getpid()]))[-1] == 0
