"""What control groups can do is found out by doing it, and every refusal is a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blackhole_core.executor.limits.detect import abilities_here, detect, own_layout
from blackhole_core.executor.limits.division import LEAF
from blackhole_core.executor.limits.layout import Layout
from blackhole_core.executor.limits.naming import myself
from blackhole_core.executor.limits.tree import CONTROLLERS


def test_each_controller_is_either_proven_or_has_a_reason() -> None:
    abilities = abilities_here()
    assert all(abilities.holds(name) or abilities.reason(name) for name in CONTROLLERS)
    assert abilities_here() is abilities, "it is found out once"


def test_nothing_is_left_of_the_trials() -> None:
    layout = own_layout()
    detect(layout)
    directories = [path / myself().directory for path in (layout.unified, *layout.controllers.values()) if path is not None]
    left = {entry.name for path in directories if path.exists() for entry in (path, *path.iterdir()) if entry.is_dir()}
    assert left <= {LEAF, myself().directory}
    assert LEAF in left or not left, "where the unified hierarchy is ours, this process is in a leaf of it"


def test_where_nothing_is_mounted_nothing_is_held() -> None:
    abilities = detect(Layout())
    assert abilities.trees == ()
    assert abilities.reason("memory") == "no control group of it is mounted"


def test_directories_that_are_no_control_groups_are_found_out(tmp_path: Path) -> None:
    """Whatever claims to be one must hold a limit and a process."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    abilities = detect(Layout(tmp_path, {"pids": tmp_path}))
    assert abilities.trees == ()
    assert str(tmp_path) in abilities.reason("pids")
    assert list(tmp_path.glob("blackhole-*")) == []


def test_a_directory_that_may_not_be_written_is_told_as_such(tmp_path: Path) -> None:
    """F40: not writable, as ``/proc`` is for everybody."""
    reason = detect(Layout(None, {"memory": Path("/proc/self")})).reason("memory")
    assert f"user {os.geteuid()} may not make groups in /proc/self" in reason or "/proc/self cannot be used" in reason
    assert not abilities_here().holds("nothing")


def test_a_group_with_other_programs_in_it_is_not_divided(tmp_path: Path) -> None:
    """The host moves to a leaf only where it is alone: somebody else's processes are not ours to move."""
    layout = own_layout()
    if layout.unified is None:
        return
    before = (layout.unified / "cgroup.procs").read_text()
    if before.split() == [str(os.getpid())]:
        pytest.skip("this process is alone in its group, which it may divide")
    detect(layout)
    assert str(os.getpid()) in (layout.unified / "cgroup.procs").read_text().split(), before
