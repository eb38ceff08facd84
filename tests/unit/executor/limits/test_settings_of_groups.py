"""What is written to a group, in both versions of control groups."""

from __future__ import annotations

from pathlib import Path

from blackhole_core.executor.limits.group import Group
from blackhole_core.executor.limits.tree import CONTROLLERS, Abilities, Setting, Tree, cpu_settings, settings
from blackhole_core.manifest.model import Resources

ALL = Resources(cpu=25, memory=64, pids=10)


def written(version: int, resources: Resources, controllers: tuple[str, ...] = CONTROLLERS) -> list[Setting]:
    return list(settings(Tree(Path("/t"), 1 if version == 1 else 2, frozenset(controllers)), resources))


def test_the_unified_hierarchy() -> None:
    assert written(2, ALL) == [
        Setting("memory.max", "67108864"),
        Setting("memory.swap.max", "0", optional=True),
        Setting("memory.oom.group", "1", optional=True),
        Setting("cpu.max", "25000 100000"),
        Setting("pids.max", "15"),
    ]


def test_the_old_hierarchies() -> None:
    """Memory with swap may not be lower than memory, so it is written after it."""
    assert written(1, ALL) == [
        Setting("memory.limit_in_bytes", "67108864"),
        Setting("memory.memsw.limit_in_bytes", "67108864", optional=True),
        Setting("cpu.cfs_period_us", "100000"),
        Setting("cpu.cfs_quota_us", "25000"),
        Setting("pids.max", "15"),
    ]


def test_a_share_of_the_processor_that_is_not_bounded() -> None:
    """As a group has it from its beginning."""
    assert [(one.file, one.text) for one in cpu_settings(Tree(Path("/t"), 2), None)] == [("cpu.max", "max 100000")]
    assert [(one.file, one.text) for one in cpu_settings(Tree(Path("/t"), 1), None)] == [
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "-1"),
    ]


def test_only_what_is_limited_and_what_the_tree_holds() -> None:
    assert written(2, Resources()) == []
    assert written(1, ALL, ("pids",)) == [Setting("pids.max", "15")]


def test_readings_of_both_versions(tmp_path: Path) -> None:
    """The same questions are answered from the files of either; what there is no file for is None."""
    files = {
        1: {
            "memory.usage_in_bytes": "5000000\n",
            "memory.stat": "cache 1\ntotal_inactive_file 1000000\n",
            "memory.max_usage_in_bytes": "6000000\n",
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            "cpuacct.usage": "2500000000\n",
            "cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 7\n",
            "pids.current": "7\n",
            "pids.events": "max 5\n",
        },
        2: {
            "memory.current": "5000000\n",
            "memory.stat": "anon 1\ninactive_file 1000000\n",
            "memory.peak": "6000000\n",
            "memory.events": "low 0\nmax 9\noom 3\noom_kill 3\noom_group_kill 1\n",
            "cpu.stat": "usage_usec 2500000\nnr_periods 9\nnr_throttled 4\n",
            "pids.current": "7\n",
            "pids.events": "max 5\n",
        },
    }
    for version, texts in files.items():
        directory = tmp_path / str(version)
        directory.mkdir()
        group = Group({Tree(tmp_path, 1 if version == 1 else 2, frozenset((*CONTROLLERS, "cpuacct"))): directory})
        nothing = (group.memory, group.peak, group.oom_kills, group.cpu, group.throttled, group.tasks, group.refused)
        assert nothing == (None,) * 7
        for name, text in texts.items():
            (directory / name).write_text(text)
        readings = (group.memory, group.peak, group.oom_kills, group.cpu, group.throttled, group.tasks, group.refused)
        assert readings == (4_000_000, 6_000_000, 3, 2.5, 4, 7, 5)


def test_abilities_say_what_is_held_and_why_not() -> None:
    abilities = Abilities((Tree(Path("/t"), 1, frozenset({"cpu"})),), (("pids", "not mounted"),))
    assert abilities.holds("cpu")
    assert not abilities.holds("pids")
    assert abilities.reason("pids") == "not mounted"
    assert not abilities.kills
