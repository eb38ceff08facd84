"""Snapshots as files: what stands on the disk, and what happens when the disk or somebody else interferes."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.errors import SnapshotDamaged, StateError
from blackhole_core.state import disk
from blackhole_core.state.files import FileStateStore
from tests.unit.state.drafts import FIRST, draft, names, sparse

# --- what stands on the disk -----------------------------------------------------------------------------------------


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    """Directories are 0700, files 0600, whatever the umask allows."""
    old = os.umask(0)
    try:
        FileStateStore(tmp_path / "a" / "state").put(draft(plugin="Foo_Bar"))
    finally:
        os.umask(old)
    file = tmp_path / "a" / "state" / "foo-bar" / f"{FIRST}.state"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent, tmp_path / "a")] == [
        0o600,
        0o700,
        0o700,
        0o700,
    ]


def test_nothing_is_made_before_the_first_put(tmp_path: Path) -> None:
    """A host that never keeps state leaves no directory behind."""
    with contextlib.closing(FileStateStore(tmp_path / "state")) as store:
        assert (store.plugins(), store.list("counter"), store.latest("counter")) == ((), (), (None, ()))
    assert list(tmp_path.iterdir()) == []


def test_a_put_leaves_one_file(tmp_path: Path) -> None:
    """No temporary file, no lock file."""
    FileStateStore(tmp_path).put(draft())
    assert names(tmp_path) == [f"{FIRST}.state"]


def test_a_relative_root_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that changes its directory does not lose its state."""
    monkeypatch.chdir(tmp_path)
    store = FileStateStore(Path("state"))
    monkeypatch.chdir("/")
    store.put(draft())
    assert names(tmp_path / "state") == [f"{FIRST}.state"]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """Puts, reads and refusals close what they open."""
    store = FileStateStore(tmp_path)
    store.put(draft())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        store.put(draft())
        store.latest("counter")
        store.list("counter")
        with pytest.raises(StateError):
            store.put(draft({1: 2}))
        with pytest.raises(StateError):
            store.get("counter", FIRST[:-1] + "x")
    assert len(os.listdir("/proc/self/fd")) == before


def test_marks_of_deletion_go_when_a_newer_snapshot_makes_them_needless(tmp_path: Path) -> None:
    """Deleting leaves an empty mark that keeps the id from coming back; the next put clears it away."""
    store = FileStateStore(tmp_path)
    store.delete("counter", store.put(draft()).id)
    assert names(tmp_path) == [f"{FIRST}.deleted"]
    kept = store.put(draft())
    assert names(tmp_path) == [f"{kept.id}.state"]


def test_the_bytes_are_flushed_before_the_name_and_the_name_before_the_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure cannot leave a name without its bytes, nor take back what put has returned; new directories are flushed too."""
    order: list[str] = []
    fsync, link = os.fsync, os.link

    def watched_fsync(descriptor: int) -> None:
        order.append("flush " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def watched_link(*arguments: Any, **options: Any) -> None:
        order.append("link")
        link(*arguments, **options)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "link", watched_link)
    FileStateStore(tmp_path / "state").put(draft())
    assert order == [f"flush {tmp_path.name}", "flush state", f"flush {FIRST}.tmp", "link", "flush counter"]


# --- somebody else's files -------------------------------------------------------------------------------------------


def test_a_link_planted_at_the_next_name_is_neither_followed_nor_replaced(tmp_path: Path) -> None:
    """A17: a link where the next snapshot would be leaves its target alone; the snapshot gets another id."""
    target = tmp_path / "passwd"
    target.write_text("root")
    store = FileStateStore(tmp_path / "state")
    store.put(draft(1))
    planted = tmp_path / "state" / "counter" / "0000000000000002.state"
    planted.symlink_to(target)
    kept = store.put(draft(2))
    assert (kept.id, target.read_text(), planted.is_symlink()) == ("0000000000000003", "root", True)
    with pytest.raises(SnapshotDamaged, match="it is a symbolic link, wanted a regular file"):
        store.get("counter", "0000000000000002")


def test_a_link_planted_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    """A17: the same for the name a put writes under first."""
    target = tmp_path / "passwd"
    target.write_text("root")
    store = FileStateStore(tmp_path / "state")
    store.put(draft(1))
    (tmp_path / "state" / "counter" / "0000000000000002.tmp").symlink_to(target)
    assert store.put(draft(2)).id == "0000000000000003"
    assert target.read_text() == "root"


def test_a_link_planted_after_the_claim_is_not_replaced(tmp_path: Path) -> None:
    """A17: planted between claim and publishing, the put fails with a sentence, and the target is untouched."""
    target = tmp_path / "passwd"
    target.write_text("root")
    planted = tmp_path / "state" / "counter" / f"{FIRST}.state"
    store = FileStateStore(tmp_path / "state", reached=lambda point: point == "written" and planted.symlink_to(target))
    with pytest.raises(StateError, match=r"state of plugin counter could not be kept in .*: File exists"):
        store.put(draft(1))
    assert (target.read_text(), planted.is_symlink(), names(tmp_path / "state")) == ("root", True, [planted.name])


def test_a_link_in_place_of_a_plugins_directory_is_refused(tmp_path: Path) -> None:
    """A17: the directory itself may not be a link to elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "counter").symlink_to(tmp_path / "elsewhere")
    store = FileStateStore(tmp_path / "state")
    for act in (lambda: store.put(draft()), lambda: store.latest("counter"), lambda: store.delete("counter", FIRST)):
        with pytest.raises(StateError, match="a file or link stands where a directory of the store belongs, remove it"):
            act()
    assert store.plugins() == ()
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (os.mkfifo, "it is a pipe"),
        (os.mkdir, "it is a directory"),
        (lambda path: path.symlink_to("/nowhere"), "it is a symbolic link"),
        (sparse, "it has 1099511627776 bytes, at most"),
    ],
    ids=["pipe", "directory", "dangling", "huge"],
)
def test_what_is_no_regular_file_is_damaged_and_never_waited_for(tmp_path: Path, plant: Callable[[Path], object], reason: str) -> None:
    """A66: a pipe does not hang the host, a sparse terabyte is not read; the previous snapshot is used."""
    store = FileStateStore(tmp_path)
    first = store.put(draft(1))
    plant(tmp_path / "counter" / "0000000000000002.state")
    found, (damage,) = store.latest("counter")
    assert found == first
    assert reason in damage.reason
    assert [bool(info.damaged) for info in store.list("counter")] == [True, False]


def test_another_plugins_file_copied_in_is_passed_over(tmp_path: Path) -> None:
    """A66: a whole snapshot of another plugin is not this plugin's, whatever its name."""
    store = FileStateStore(tmp_path)
    mine = store.put(draft("mine"))
    store.put(draft("x", plugin="echo"))
    other = store.put(draft("secret", plugin="echo"))
    shutil.copy(tmp_path / "echo" / f"{other.id}.state", tmp_path / "counter" / f"{other.id}.state")
    found, (damage,) = store.latest("counter")
    assert found == mine
    assert "it belongs to plugin 'echo', wanted 'counter'" in damage.reason


def test_an_old_snapshot_copied_to_a_newer_name_is_passed_over(tmp_path: Path) -> None:
    """A66: an id cannot be taken over by copying; going back is rollback's work."""
    store = FileStateStore(tmp_path)
    store.put(draft("old"))
    new = store.put(draft("new"))
    shutil.copy(tmp_path / "counter" / f"{FIRST}.state", tmp_path / "counter" / "0000000000000009.state")
    found, (damage,) = store.latest("counter")
    assert found == new
    assert f"it is a copy of snapshot {FIRST} under another name" in damage.reason
    assert store.put(draft()).id == "0000000000000010"


def test_foreign_names_are_left_alone(tmp_path: Path) -> None:
    """Files and directories that are not the store's are neither listed nor removed."""
    store = FileStateStore(tmp_path, keep=1)
    store.put(draft())
    (tmp_path / "counter" / "README").write_text("mine")
    (tmp_path / "counter" / "1.state").write_text("mine")
    (tmp_path / "Not Canonical").mkdir()
    (tmp_path / "file").write_text("mine")
    store.put(draft())
    FileStateStore(tmp_path)
    assert store.plugins() == ("counter",)
    assert len(store.list("counter")) == 1
    assert {"README", "1.state"} < set(names(tmp_path))


def test_the_highest_possible_number_is_a_sentence(tmp_path: Path) -> None:
    """A planted file with the last number does not make ids that no longer sort."""
    store = FileStateStore(tmp_path)
    store.put(draft())
    (tmp_path / "counter" / ("9" * 16 + ".state")).write_text("")
    with pytest.raises(StateError, match=r"no snapshot id is left .* move it away"):
        store.put(draft())


# --- pruning ---------------------------------------------------------------------------------------------------------


def test_damaged_newer_ones_do_not_push_out_whole_ones(tmp_path: Path) -> None:
    """Keep counts whole snapshots: the last whole one stays, however many damaged ones are newer."""
    store = FileStateStore(tmp_path, keep=2)
    store.put(draft("whole"))
    for number in range(2, 7):
        (tmp_path / "counter" / f"{number:016}.state").write_bytes(b"garbage")
    seventh = store.put(draft())
    assert [info.id for info in store.list("counter") if not info.damaged] == [seventh.id, FIRST]
    eighth = store.put(draft())
    assert names(tmp_path) == [f"{seventh.id}.state", f"{eighth.id}.state"]


def test_damage_since_the_last_look_is_seen_when_pruning(tmp_path: Path) -> None:
    """A snapshot this store wrote itself and that was changed since does not count as whole."""
    store = FileStateStore(tmp_path, keep=2)
    first, second = store.put(draft("a")), store.put(draft("b"))
    (tmp_path / "counter" / f"{second.id}.state").write_bytes(b"garbage")
    third = store.put(draft("c"))
    assert [info.id for info in store.list("counter") if not info.damaged] == [third.id, first.id]


def test_failing_to_prune_does_not_fail_the_put(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The new snapshot is safe before old ones go; what cannot be removed is a warning."""
    store = FileStateStore(tmp_path, keep=1)
    store.put(draft())
    (tmp_path / "counter" / "0000000000000000.state").mkdir()
    kept = store.put(draft("new"))
    assert store.latest("counter")[0] == kept
    assert "old snapshots of plugin counter" in caplog.text


def test_a_reader_overtaken_by_pruning_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keep=1 a snapshot may vanish between list and read: latest finds its successor, never nothing."""
    store = FileStateStore(tmp_path, keep=1)
    store.put(draft("old"))
    real = disk.read_regular
    overtaken = iter([True])

    def read(name: str, *arguments: Any, **options: Any) -> bytes:
        if next(overtaken, False):
            FileStateStore(tmp_path, keep=1).put(draft("new"))
        return real(name, *arguments, **options)

    monkeypatch.setattr(disk, "read_regular", read)
    found, damage = store.latest("counter")
    assert (found is not None and found.data, damage) == ("new", ())


# --- leftovers -------------------------------------------------------------------------------------------------------


def test_a_dead_writers_file_is_swept_at_open_and_a_living_ones_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The lock tells: held, its writer lives; free, the file is nobody's."""
    caplog.set_level(logging.INFO, "blackhole.state")
    directory = tmp_path / "counter"
    directory.mkdir()
    (directory / "0000000000000004.tmp").write_bytes(b"half")
    with (directory / "0000000000000005.tmp").open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        store = FileStateStore(tmp_path)
        assert names(tmp_path) == ["0000000000000005.tmp"]
        assert "0000000000000004.tmp, left by a writer that died" in caplog.text
        assert store.put(draft()).id == "0000000000000006"


def test_what_cannot_be_swept_does_not_stop_the_host(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A link or directory under a temporary name is a warning, and the others are swept all the same."""
    directory = tmp_path / "counter"
    directory.mkdir()
    (directory / "0000000000000001.tmp").symlink_to("/nowhere")
    (directory / "0000000000000002.tmp").mkdir()
    (directory / "0000000000000003.tmp").write_bytes(b"")
    FileStateStore(tmp_path).put(draft())
    assert names(tmp_path) == ["0000000000000001.tmp", "0000000000000002.tmp", "0000000000000003.state"]
    assert caplog.text.count("could not be removed") == 2


def test_a_writer_whose_file_is_swept_before_it_locks_it_claims_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a file and locking it a sweeper may take it for dead; the put goes on under a new claim."""
    real = disk._lock
    swept: list[bool] = []

    def lock(descriptor: int) -> bool:
        if not swept:
            swept.append(True)
            with disk.open_directory(tmp_path / "counter") as directory:
                swept[0] = disk.sweep(f"{FIRST}.tmp", directory)
        return real(descriptor)

    store = FileStateStore(tmp_path)
    disk.make_directory(tmp_path / "counter")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_lock", lock)
        # The sweep itself locks by the same function, now the real one since `swept` is filled.
        kept = store.put(draft("x"))
    assert swept == [True]
    assert store.latest("counter") == (kept, ())


def test_puts_while_others_open_and_sweep(tmp_path: Path) -> None:
    """Stores being opened all the time never take a living writer's file."""
    store = FileStateStore(tmp_path, keep=1000)
    done = threading.Event()

    def open_and_sweep() -> None:
        while not done.is_set():
            FileStateStore(tmp_path)

    sweepers = [threading.Thread(target=open_and_sweep) for _ in range(2)]
    for thread in sweepers:
        thread.start()
    try:
        ids = [store.put(draft(n)).id for n in range(100)]
    finally:
        done.set()
        for thread in sweepers:
            thread.join(30)
    assert [info.id for info in store.list("counter")] == ids[::-1]


def test_an_id_published_and_deleted_between_look_and_claim_is_not_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer may use an id up while this one is about to claim it: the claim is given back and a higher one taken."""
    real = disk.create_locked
    overtaken = iter([True])

    def create(name: str, directory: int) -> int | None:
        if next(overtaken, False):
            other = FileStateStore(tmp_path)
            other.delete("counter", other.put(draft()).id)
        return real(name, directory)

    monkeypatch.setattr(disk, "create_locked", create)
    assert FileStateStore(tmp_path).put(draft()).id == "0000000000000002"
    assert names(tmp_path) == ["0000000000000002.state"]


def test_the_mark_of_the_highest_id_outlives_a_slow_older_put(tmp_path: Path) -> None:
    """A put that began earlier and ends later does not clear away the mark of a newer, deleted id."""
    other = FileStateStore(tmp_path)
    slow = FileStateStore(tmp_path, reached=lambda point: point == "written" and other.delete("counter", other.put(draft()).id))
    assert slow.put(draft()).id == FIRST
    assert names(tmp_path) == [f"{FIRST}.state", "0000000000000002.deleted"]
    assert other.put(draft()).id == "0000000000000003"


def test_what_other_processes_removed_is_forgotten(tmp_path: Path) -> None:
    """Two stores in turn on one directory: what each remembers of files stays as small as the directory."""
    stores = [FileStateStore(tmp_path, keep=2) for _ in range(2)]
    for _ in range(20):
        for store in stores:
            store.put(draft())
    assert all(len(store._whole) <= 3 for store in stores)
