"""The state manager: save, find, restore all, carry to and from files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import blackhole_core
from blackhole_core.errors import SnapshotDamaged, StateError
from blackhole_core.events import Event, EventBus
from blackhole_core.state.files import FileStateStore
from blackhole_core.state.manager import Exported, StateManager
from blackhole_core.state.memory import MemoryStateStore
from blackhole_core.state.snapshot import Snapshot


@attrs.frozen
class Case:
    manager: StateManager
    events: list[Event]
    root: Path


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    events: list[Event] = []
    bus = EventBus(lambda: 50.0)
    bus.subscribe(events.append)
    with StateManager(FileStateStore(tmp_path / "state"), clock=lambda: 12.0, emit=bus.emit) as manager:
        yield Case(manager, events, tmp_path / "state")


def save(manager: StateManager, data: Any, plugin: str = "counter") -> Snapshot:
    return manager.save(plugin, plugin_version="1.0.0", state_version=2, generation=3, reason="swap", data=data)


def test_it_is_one_of_the_four_public_names() -> None:
    """blackhole_core.StateManager is this class."""
    assert blackhole_core.StateManager is StateManager


def test_save_keeps_every_fact(case: Case) -> None:
    """What is saved carries the clock's time and comes back by id and as the latest."""
    kept = save(case.manager, {"n": 1})
    assert attrs.astuple(kept, recurse=False)[1:] == ("counter", "1.0.0", 2, 3, 12.0, "swap", {"n": 1})
    assert case.manager.get("counter", kept.id) == kept == case.manager.latest("counter")
    assert [info.id for info in case.manager.versions("counter")] == [kept.id]
    assert case.manager.plugins() == ("counter",)
    assert case.events == []


def test_a_damaged_snapshot_is_passed_over_with_an_event(case: Case) -> None:
    """A66: the previous snapshot is used, and state.damaged says which file was not and why."""
    first, second = save(case.manager, 1), save(case.manager, 2)
    path = case.root / "counter" / f"{second.id}.state"
    path.write_bytes(path.read_bytes()[:40])
    assert case.manager.latest("counter") == first
    (event,) = case.events
    assert (event.name, event.plugin, event.data["path"]) == ("state.damaged", "counter", str(path))
    assert "ends" in event.data["reason"]


def test_delete(case: Case) -> None:
    """A deleted snapshot is gone, the one before is the latest."""
    first, second = save(case.manager, 1), save(case.manager, 2)
    case.manager.delete("counter", second.id)
    assert case.manager.latest("counter") == first


def test_snapshot_all_stops_for_nobody(case: Case) -> None:
    """S-05: one plugin that raises and one whose state is not plain are reported; the others are saved."""
    report = case.manager.snapshot_all(
        {
            "bad": lambda: 1 / 0,  # type: ignore[dict-item, return-value]  # a test may give anything
            "good": lambda: Exported({"n": 1}, 4, "2.0.0", 7),
            "ugly": lambda: Exported({"n": {1}}, 1),
            "none": lambda: None,
        }
    )
    kept = case.manager.latest("good")
    assert kept is not None
    assert (kept.state_version, kept.plugin_version, kept.generation, kept.reason) == (4, "2.0.0", 7, "manual")
    assert report.done == {"good": kept.id}
    assert isinstance(report.failed["bad"], ZeroDivisionError)
    assert "state of plugin ugly.n is a set" in str(report.failed["ugly"])
    assert (report.without, report.ok) == (("none",), False)
    assert str(report).splitlines()[0] == "1 done, 2 failed, 1 without state"


def test_restore_all_stops_for_nobody(case: Case) -> None:
    """S-06: each plugin gets its newest snapshot; one that refuses it is reported with its error."""
    kept = save(case.manager, 1, "good")
    save(case.manager, 2, "bad")
    got: list[Snapshot] = []

    def refuse(snapshot: Snapshot) -> None:
        raise ValueError(f"cannot take {snapshot.data}")

    report = case.manager.restore_all({"bad": refuse, "good": got.append, "fresh": got.append})
    assert got == [kept]
    assert (report.done, report.without) == ({"good": kept.id}, ("fresh",))
    assert str(report.failed["bad"]) == "cannot take 2"


def test_restore_all_uses_the_previous_whole_one(case: Case) -> None:
    """A66: a damaged newest snapshot does not keep a plugin from its state."""
    first, second = save(case.manager, "old"), save(case.manager, "new")
    (case.root / "counter" / f"{second.id}.state").write_bytes(b"")
    got: list[Snapshot] = []
    assert case.manager.restore_all({"counter": got.append}).done == {"counter": first.id}
    assert [event.name for event in case.events] == ["state.damaged"]


def test_a_report_without_failures_is_ok() -> None:
    """Nothing to do is no failure."""
    assert StateManager(MemoryStateStore()).snapshot_all({}).ok


# --- single files ----------------------------------------------------------------------------------------------------


def test_a_snapshot_goes_to_another_host_in_a_file(case: Case, tmp_path: Path) -> None:
    """blackhole state export and import: the same snapshot, mode 0600, no leftover."""
    kept = save(case.manager, {"n": 1})
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "counter.state"
    case.manager.dump_file(kept, target)
    assert StateManager(MemoryStateStore()).load_file(target, "counter") == kept
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_an_export_replaces_the_file_in_one_step_and_a_link_itself(case: Case, tmp_path: Path) -> None:
    """A17: exporting over a link replaces the link and leaves its target alone."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = tmp_path / "counter.state"
    target.symlink_to(victim)
    case.manager.dump_file(save(case.manager, 1), target)
    newer = save(case.manager, 2)
    case.manager.dump_file(newer, target)
    assert victim.read_text() == "precious"
    assert case.manager.load_file(target, "counter") == newer


def test_an_export_clears_what_a_killed_export_left(case: Case, tmp_path: Path) -> None:
    """The leftover of an export to the same name goes; other files stay."""
    (tmp_path / ".a.state.0123456789abcdef.blackhole-tmp").write_bytes(b"half")
    (tmp_path / ".b.state.0123456789abcdef.blackhole-tmp").write_bytes(b"other")
    case.manager.dump_file(save(case.manager, 1), tmp_path / "a.state")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.state.0123456789abcdef.blackhole-tmp", "a.state", "state"]


def test_a_file_that_is_not_this_plugins_is_refused(case: Case, tmp_path: Path) -> None:
    """A66: another plugin's export, a directory, a text: each is damaged; what is missing is a sentence."""
    target = tmp_path / "x.state"
    case.manager.dump_file(save(case.manager, 1), target)
    with pytest.raises(SnapshotDamaged, match="it belongs to plugin 'counter', wanted 'echo'"):
        case.manager.load_file(target, "echo")
    with pytest.raises(SnapshotDamaged, match="it is a directory"):
        case.manager.load_file(tmp_path, "counter")
    target.write_text("{}")
    with pytest.raises(SnapshotDamaged, match="does not begin as a Blackhole snapshot"):
        case.manager.load_file(target, "counter")
    with pytest.raises(StateError, match=r"state of plugin counter could not be read from .*/missing: No such file or directory"):
        case.manager.load_file(tmp_path / "missing", "counter")


def test_an_export_to_nowhere_is_a_sentence(case: Case, tmp_path: Path) -> None:
    """A directory that is not there is said, with the whole path."""
    with pytest.raises(StateError, match=r"state of plugin counter could not be written to .*/no/x\.state: No such file"):
        case.manager.dump_file(save(case.manager, 1), tmp_path / "no" / "x.state")


def test_an_export_is_flushed_before_it_replaces(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F20: when the disk cannot keep the new bytes the old export stays, and nothing is left beside it."""
    target = tmp_path / "x.state"
    old = save(case.manager, "old")
    case.manager.dump_file(old, target)
    newer = save(case.manager, "new")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match="No space left on device; free some space"):
            case.manager.dump_file(newer, target)
    assert case.manager.load_file(target, "counter") == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "x.state"]
