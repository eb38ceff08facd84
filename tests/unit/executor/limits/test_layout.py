"""Where our own control groups are, from the texts of ``/proc`` of machines of every kind."""

from __future__ import annotations

from pathlib import Path

from blackhole_core.executor.limits.layout import Layout, read_layout

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OLD = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""


def test_a_unified_hierarchy() -> None:
    layout = read_layout("0::/user.slice/user-1000.slice/run-1.scope\n", UNIFIED)
    assert layout == Layout(Path("/sys/fs/cgroup/user.slice/user-1000.slice/run-1.scope"), {})


def test_old_hierarchies_beside_a_unified_one_each_with_its_own_group() -> None:
    cgroup = "9:name=systemd:/\n4:memory:/nested/group\n3:cpu,cpuacct:/\n2:blkio:/\n0::/\n"
    layout = read_layout(cgroup, OLD)
    assert layout.unified == Path("/sys/fs/cgroup/unified")
    assert layout.controllers == {
        "name=systemd": Path("/sys/fs/cgroup/systemd"),
        "memory": Path("/sys/fs/cgroup/memory/nested/group"),
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
    }, "what is not mounted (blkio) is not here"


def test_a_mount_that_shows_a_part_of_a_hierarchy() -> None:
    """In a container the group is named from the top of the hierarchy, and the mount begins at the container's own."""
    mount = "50 40 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    assert read_layout("4:memory:/docker/abc\n", mount).controllers == {"memory": Path("/sys/fs/cgroup/memory")}
    assert read_layout("4:memory:/docker/abc/sub\n", mount).controllers == {"memory": Path("/sys/fs/cgroup/memory/sub")}
    assert read_layout("4:memory:/docker/other\n", mount).controllers == {}


def test_a_group_outside_of_the_namespace_is_nowhere() -> None:
    assert read_layout("0::/../outside\n", UNIFIED) == Layout()


def test_a_mount_point_with_a_blank() -> None:
    assert read_layout("0::/\n", "30 23 0:26 / /sys/fs/c\\040group rw - cgroup2 cgroup2 rw\n").unified == Path("/sys/fs/c group")


def test_a_group_whose_path_has_a_colon() -> None:
    assert read_layout("0::/a:b\n", UNIFIED).unified == Path("/sys/fs/cgroup/a:b")


def test_nothing_mounted_and_lines_that_are_none() -> None:
    assert read_layout("0::/\n4:memory:/\n", "") == Layout()
    assert read_layout("", "rubbish\n1 2 - cgroup2\n") == Layout()
