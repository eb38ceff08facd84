"""The watcher on a real file system: one report per content that came to rest, whatever the editor does."""

from __future__ import annotations

import builtins
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blackhole_core.loader.contents import Contents, Look
from blackhole_core.loader.watch import PATIENCE, SETTLE, Change, SourceWatcher, _Watched

#: Seconds to wait for a report that must come. Far above anything seen; only a failing test waits so long.
LONG = 15.0

#: The watcher's patience and rescan period in most tests, in seconds.
SHORT = 0.5


class Reports:
    """A callback that queues what it is told."""

    def __init__(self) -> None:
        self.queue: queue.Queue[tuple[str, Change]] = queue.Queue()

    def __call__(self, name: str, change: Change) -> None:
        self.queue.put((name, change))

    def next(self) -> Change:
        return self.queue.get(timeout=LONG)[1]

    def empty_after(self, fence: Callable[[], object]) -> list[Change]:
        """Return what was reported before the change made by ``fence`` was."""
        fence()
        found = []
        while (change := self.next()).files != ("fence.txt",):
            found.append(change)
        return found


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "plug"
    (root / "acme").mkdir(parents=True)
    (root / "acme" / "__init__.py").write_text("V = 0\n")
    (root / "acme" / "core.py").write_text("C = 0\n")
    (root / "plugin.yaml").write_text("name: acme\n")
    return root


@pytest.fixture
def watcher(reports: Reports, tree: Path) -> Iterator[SourceWatcher]:
    with SourceWatcher(reports, patience=SHORT, rescan=SHORT) as watcher:
        watcher.add("acme", [tree])
        yield watcher


@pytest.fixture
def fence(tree: Path) -> Callable[[], object]:
    """Make a change that is reported, so that what came before it is known to be complete."""
    numbers = iter(range(100))
    return lambda: (tree / "fence.txt").write_text(str(next(numbers)))


@pytest.mark.usefixtures("watcher")
def test_a_save_in_place_is_reported_once(reports: Reports, tree: Path, fence: Callable[[], object]) -> None:
    """W-01: writing a file in place is one report with the file's path relative to the root."""
    (tree / "acme" / "__init__.py").write_text("V = 1\n")
    assert reports.next() == Change(modified=("acme/__init__.py",))
    assert reports.empty_after(fence) == []


@pytest.mark.usefixtures("watcher")
def test_an_atomic_rename_is_reported_once(reports: Reports, tree: Path, fence: Callable[[], object]) -> None:
    """W-01: an editor that writes beside the file and renames over it causes one report, and none for its own file."""
    beside = tree / "acme" / "__init__.py~"
    beside.write_text("V = 1\n")
    beside.replace(tree / "acme" / "__init__.py")
    assert reports.next() == Change(modified=("acme/__init__.py",))
    assert reports.empty_after(fence) == []


def test_twenty_saves_end_with_the_last_content(tree: Path) -> None:
    """W-01: of twenty saves in a row the last content is reported, with far fewer reports than saves."""
    file = tree / "acme" / "__init__.py"
    seen: list[str] = []
    last = threading.Event()

    def read(_: str, change: Change) -> None:
        assert change.files == ("acme/__init__.py",)
        seen.append(file.read_text())
        if seen[-1] == "V = 20\n":
            last.set()

    with SourceWatcher(read) as watcher:
        watcher.add("acme", [tree])
        for number in range(1, 21):
            file.write_text(f"V = {number}\n")
        assert last.wait(LONG)
    assert len(seen) <= 10  # one or two, unless this thread is held up between two saves
    assert seen[-1] == "V = 20\n"


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files to be complete after half a second: this thread may be held up for longer than some milliseconds between two saves."""
    monkeypatch.setattr("blackhole_core.loader.watch.SETTLE", 0.5)


@pytest.mark.usefixtures("unhurried", "watcher")
def test_files_saved_together_are_one_report(reports: Reports, tree: Path, fence: Callable[[], object]) -> None:
    """Two files saved together, one of them new in a new directory, are reported together."""
    (tree / "acme" / "core.py").write_text("from acme.sub import NEW\n")
    (tree / "acme" / "sub").mkdir()
    (tree / "acme" / "sub" / "__init__.py").write_text("NEW = 1\n")
    change = reports.next()
    assert change.added == ("acme/sub/__init__.py",)
    assert change.modified == ("acme/core.py",)
    (tree / "acme" / "sub" / "__init__.py").write_text("NEW = 2\n")
    assert reports.next() == Change(modified=("acme/sub/__init__.py",))
    assert reports.empty_after(fence) == []


def test_a_half_written_file_waits_for_its_rest(reports: Reports, tree: Path, fence: Callable[[], object]) -> None:
    """W-01: truncate, pause, half a statement, pause, the rest: only the whole file is reported."""
    with SourceWatcher(
        reports, patience=LONG, rescan=SHORT
    ) as watcher:  # a pause that a busy machine makes longer is no reason to report the half
        watcher.add("acme", [tree])
        with (tree / "acme" / "core.py").open("w") as stream:
            for part in ("", "def answer(", "):\n    return 42\n"):
                stream.write(part)
                stream.flush()
                _looked(tree)
        assert reports.next() == Change(modified=("acme/core.py",))
        assert (tree / "acme" / "core.py").read_text().endswith("42\n")
        assert reports.empty_after(fence) == []


@pytest.mark.usefixtures("watcher")
def test_a_file_that_stays_broken_is_reported_late(reports: Reports, tree: Path) -> None:
    """W-01: a syntax error that stays is reported after the patience, so that the author sees it; the next good save at once."""
    begun = time.monotonic()
    (tree / "acme" / "core.py").write_text("def broken(:\n")
    assert reports.next() == Change(modified=("acme/core.py",))
    assert time.monotonic() - begun >= SHORT
    (tree / "acme" / "core.py").write_text("def mended(): pass\n")
    assert reports.next() == Change(modified=("acme/core.py",))


@pytest.mark.usefixtures("watcher")
def test_noise_is_not_reported(reports: Reports, tree: Path, fence: Callable[[], object]) -> None:
    """W-01: bytecode, hidden files, editors' files, logs, touch and chmod are no change."""
    (tree / "acme" / "__pycache__").mkdir()
    (tree / ".git").mkdir()
    for name in (
        "acme/__pycache__/core.cpython-311.pyc",
        ".git/index",
        "acme/.core.py.swp",
        "acme/core.py~",
        "acme/#core.py#",
        "acme/4913",
        "run.log",
    ):
        (tree / name).write_text("noise")
    (tree / "acme" / "core.py").touch()
    (tree / "acme" / "core.py").chmod(0o600)
    assert reports.empty_after(fence) == []


@pytest.mark.usefixtures("watcher")
def test_manifest_and_package_data_are_noticed(reports: Reports, tree: Path) -> None:
    """plugin.yaml and data files count as much as Python files."""
    (tree / "plugin.yaml").write_text("name: acme\nversion: 2\n")
    assert reports.next() == Change(modified=("plugin.yaml",))
    (tree / "acme" / "words.txt").write_text("one two")
    assert reports.next() == Change(added=("acme/words.txt",))
    (tree / "acme" / "words.txt").unlink()
    assert reports.next() == Change(removed=("acme/words.txt",))


@pytest.mark.usefixtures("watcher")
def test_an_edit_that_is_undone_is_nothing(reports: Reports, tree: Path, fence: Callable[[], object]) -> None:
    """A change that is taken back before it came to rest is not reported."""
    for _ in range(10):
        (tree / "acme" / "core.py").write_text("C = 1\n")
        (tree / "acme" / "core.py").write_text("C = 0\n")
    assert [change for change in reports.empty_after(fence) if change.files != ("acme/core.py",)] == []
    assert (tree / "acme" / "core.py").read_text() == "C = 0\n"


@pytest.mark.usefixtures("watcher")
def test_a_deleted_directory_is_said_to_be_gone_and_may_come_back(reports: Reports, tree: Path) -> None:
    """Deleting the plugin's directory is reported as such; its return is a change like any other."""
    aside = tree.with_name("aside")
    tree.rename(aside)
    assert reports.next() == Change(gone=True)
    aside.rename(tree)
    assert reports.next().added == ("acme/__init__.py", "acme/core.py", "plugin.yaml")
    (tree / "plugin.yaml").write_text("name: again\n")
    assert reports.next() == Change(modified=("plugin.yaml",))


@pytest.mark.usefixtures("watcher")
def test_a_directory_replaced_by_another_is_watched_on(reports: Reports, tree: Path, tmp_path: Path) -> None:
    """Moving another tree into the place of the root is one report, and the new tree is watched."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "solo.py").write_text("S = 1\n")
    tree.rename(tmp_path / "aside")
    other.rename(tree)
    change = reports.next()
    assert change.added == ("solo.py",)
    assert not change.gone
    (tree / "solo.py").write_text("S = 2\n")
    assert reports.next() == Change(modified=("solo.py",))


def test_a_symlinked_file_is_watched_at_its_target(reports: Reports, watcher: SourceWatcher, tree: Path, tmp_path: Path) -> None:
    """An edit of a file outside the root is seen through the link that points to it."""
    outside = tmp_path / "outside.py"
    outside.write_text("O = 1\n")
    (tree / "acme" / "linked.py").symlink_to(outside)
    watcher.add("acme", [tree])
    outside.write_text("O = 2\n")
    assert reports.next() == Change(modified=("acme/linked.py",))


def test_a_single_file_plugin_is_watched_through_renames(reports: Reports, tmp_path: Path) -> None:
    """A root that is a file is followed when editors replace it; its neighbours are nobody's business."""
    file = tmp_path / "solo.py"
    file.write_text("S = 0\n")
    with SourceWatcher(reports) as watcher:
        watcher.add("solo", [file])
        for number in (1, 2, 3):
            (tmp_path / "neighbour.py").write_text(f"N = {number}\n")
            (tmp_path / "beside").write_text(f"S = {number}\n")
            (tmp_path / "beside").replace(file)
            assert reports.next() == Change(modified=("solo.py",))


def test_plugins_are_told_apart_and_can_be_removed(reports: Reports, watcher: SourceWatcher, tree: Path, tmp_path: Path) -> None:
    """One watcher serves several plugins; one that was removed is not reported any more."""
    other = tmp_path / "other"
    other.mkdir()
    watcher.add("other", [other])
    (other / "other.py").write_text("O = 1\n")
    assert reports.queue.get(timeout=LONG) == ("other", Change(added=("other.py",)))
    watcher.remove("acme")
    (tree / "acme" / "core.py").write_text("C = 9\n")
    (other / "other.py").write_text("O = 2\n")
    assert reports.queue.get(timeout=LONG) == ("other", Change(modified=("other.py",)))
    assert reports.queue.empty()


def test_a_callback_that_raises_is_logged_and_the_watcher_lives(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failed reload is logged with the plugin's name; the save that mends it is reported."""
    reports = Reports()

    def fail_first(name: str, change: Change) -> None:
        reports(name, change)
        if reports.queue.qsize() == 1 and not caplog.records:
            raise RuntimeError("the reload failed")

    with caplog.at_level(logging.ERROR, "blackhole.watch"), SourceWatcher(fail_first) as watcher:
        watcher.add("acme", [tree])
        (tree / "acme" / "core.py").write_text("C = 1\n")
        reports.next()
        (tree / "acme" / "core.py").write_text("C = 2\n")
        assert reports.next() == Change(modified=("acme/core.py",))
    assert "reacting to changed sources of plugin acme failed" in caplog.text
    assert "the reload failed" in caplog.text


def test_close_ends_the_thread_and_may_be_called_by_the_callback(tree: Path) -> None:
    """close() ends the thread soon, also from the callback, also twice; a closed watcher takes no more plugins."""
    called = threading.Event()

    def close(*_: object) -> None:
        mine.close()
        called.set()

    mine = SourceWatcher(close)
    mine.add("acme", [tree])
    (tree / "acme" / "core.py").write_text("C = 1\n")
    assert called.wait(LONG)
    mine.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "blackhole-watch"]
    with pytest.raises(RuntimeError, match="plugin late cannot be added"):
        mine.add("late", [tree])


def test_files_that_are_still_being_written_are_left_alone(tree: Path) -> None:
    """Nothing is reported until one settle period has passed in which no file changed."""
    watched = _Watched(Contents([tree]), PATIENCE)
    file = tree / "acme" / "core.py"
    ahead = time.time() + 60  # a time that says nothing about when the file was written
    for moment in (100.0, 100.006, 100.012):
        file.write_text(f"C = {moment}\n")
        os.utime(file, (ahead, ahead + moment))
        assert watched.consider(moment) is None
        assert watched.pending
    assert watched.consider(100.012 + SETTLE / 2) is None
    assert watched.consider(100.012 + SETTLE) == Change(modified=("acme/core.py",))
    assert not watched.pending


def test_an_event_that_comes_late_is_waited_for_less(tree: Path) -> None:
    """The settling time counts from the write, so a look that comes later waits only for what is left, and then finds the change."""
    watched = _Watched(Contents([tree]), PATIENCE)
    (tree / "acme" / "core.py").write_text("C = 7\n")
    watched.consider(100.0)
    looked = watched.since
    assert 100.0 - SETTLE <= looked <= 100.0
    left = watched.settles_in(100.0)
    assert left < SETTLE + 0.001
    assert watched.consider(100.0 + left) == Change(modified=("acme/core.py",))


def test_a_saved_file_is_compiled_while_it_settles(tree: Path) -> None:
    """The time that must pass anyway is used; a file that does not compile yet is no error."""
    watched = _Watched(Contents([tree]), PATIENCE)
    file, text = tree / "acme" / "core.py", b"C = 'ahead of time'\n"
    file.write_bytes(b"C = (")
    assert watched.consider(100.0) is None
    file.write_bytes(text)
    os.utime(file, (int(time.time()),) * 2)  # says nothing about how long it has rested: no slow machine counts as patience
    assert watched.consider(100.001) is None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(builtins, "compile", lambda *_args, **_options: pytest.fail("compiled again"))
        change = watched.consider(100.001 + SETTLE)
    assert change == Change(modified=("acme/core.py",))


def test_edits_within_one_second_of_a_coarse_clock_are_told_apart(tree: Path) -> None:
    """A same-size edit with the same whole-second time changes the hash: a young hash is not trusted."""
    file = tree / "acme" / "core.py"
    contents = Contents([tree])
    second = int(time.time())
    seen = set()
    for number in range(5):
        file.write_text(f"C = {number}\n")
        os.utime(file, (second, second))
        look = contents.look()
        hashes = contents.hashes(look)
        assert hashes is not None
        seen.add(hashes["acme/core.py"])
    assert len(seen) == 5


def test_a_file_that_vanishes_while_it_is_read_asks_for_another_look(tree: Path) -> None:
    """hashes() answers None instead of raising or inventing when the look is out of date."""
    contents = Contents([tree])
    look: Look = contents.look()
    (tree / "acme" / "core.py").unlink()
    assert contents.hashes(look) is None
    assert contents.hashes(contents.look()) is not None


def test_links_that_lead_in_circles_end(tree: Path) -> None:
    """A symbolic link to a directory above does not make the look run for ever."""
    (tree / "acme" / "up").symlink_to(tree)
    assert len(Contents([tree]).look().stamps) == 3


def test_a_change_without_event_is_found_by_looking(reports: Reports, watcher: SourceWatcher, tree: Path, tmp_path: Path) -> None:
    """A change that the native watch does not see (here: behind a replaced link) is found within the rescan period."""
    first, second = tmp_path / "first", tmp_path / "second"
    for place, text in ((first, "L = 1\n"), (second, "L = 2\n")):
        place.mkdir()
        (place / "late.py").write_text(text)
    link = tmp_path / "current"
    link.symlink_to(first)
    watcher.add("acme", [link])
    beside = tmp_path / "beside"
    beside.symlink_to(second)
    beside.replace(link)
    assert reports.next() == Change(modified=("late.py",))
    (second / "late.py").write_text("L = 3\n")
    assert reports.next() == Change(modified=("late.py",))
    assert tree.exists()


def _looked(tree: Path) -> None:
    """Wait until the watcher had ample time for several looks at the tree as it is now.

    There is no event to wait for: the point is that nothing is reported. 60 ms are six of its settle periods.
    """
    assert tree.exists()
    threading.Event().wait(0.06)
