"""Where native events fail: lost, late, coarse or missing ones, links, moves, repositories. The watcher reports each content once all the same."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import queue
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import watchfiles

from blackhole_core.loader import gitlock
from blackhole_core.loader.contents import Contents
from blackhole_core.loader.watch import SETTLE, Change, SourceWatcher, _Watched

#: Seconds to wait for a report that must come.
LONG = 20.0

#: The watcher's patience and rescan period in these tests, in seconds.
SHORT = 0.4

Report = Callable[[], Change]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "plug"
    (root / "acme").mkdir(parents=True)
    (root / "acme" / "__init__.py").write_text("V = 0\n")
    (root / "acme" / "core.py").write_text("C = 0\n")
    return root


class Watch:
    """A watcher of one tree; ``next`` gives the reports one by one."""

    def __init__(self, *roots: Path, patience: float = SHORT) -> None:
        self._reports: queue.Queue[Change] = queue.Queue()
        self.watcher = SourceWatcher(lambda _, change: self._reports.put(change), patience=patience, rescan=SHORT)
        self.watcher.add("acme", roots)

    def next(self) -> Change:
        return self._reports.get(timeout=LONG)

    def before(self, fence: Path) -> list[Change]:
        """Return the reports up to the one about ``fence``, a file that is written now."""
        fence.write_text("fence")
        found = []
        while fence.name not in (change := self.next()).files:
            found.append(change)
        return found


@pytest.fixture
def watch(tree: Path) -> Iterator[Watch]:
    watching = Watch(tree)
    yield watching
    watching.watcher.close()


def git(place: Path, *arguments: str) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    names = (
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.invalid",
        "-c",
        "core.fsync=none",
        "-c",
        "gc.auto=0",
        "-c",
        "maintenance.auto=false",
    )
    subprocess.run(["git", *names, *arguments], cwd=place, check=True, capture_output=True, env=environment)


# --- ways of writing ----------------------------------------------------------------------------------------------------------


def test_ten_flushes_are_one_report(tree: Path) -> None:
    """W-01: a file written in ten flushes with pauses, no whole statement until the last, is reported when it is whole."""
    watch = Watch(tree, patience=LONG)  # or a pause that a busy machine makes longer would have it reported while it is broken
    pieces = ["TABLE = {\n", *(f"    {number}: {number},\n" for number in range(8)), "}\n"]
    with contextlib.closing(watch.watcher):
        with (tree / "acme" / "core.py").open("w") as stream:
            for piece in pieces:
                threading.Event().wait(0.015)  # the pauses are the case
                stream.write(piece)
                stream.flush()
        assert watch.next() == Change(modified=("acme/core.py",))
        assert watch.before(tree / "fence.txt") == []


def test_a_directory_moved_in_is_one_report(watch: Watch, tree: Path, tmp_path: Path) -> None:
    """A package that is moved into the tree brings all its files at once, and edits in it are seen from then on."""
    aside = tmp_path / "aside"
    (aside / "deep").mkdir(parents=True)
    for name in ("__init__.py", "deep/__init__.py", "deep/leaf.py"):
        (aside / name).write_text("X = 1\n")
    aside.rename(tree / "acme" / "sub")
    assert watch.next() == Change(added=("acme/sub/__init__.py", "acme/sub/deep/__init__.py", "acme/sub/deep/leaf.py"))
    (tree / "acme" / "sub" / "deep" / "leaf.py").write_text("X = 2\n")
    assert watch.next() == Change(modified=("acme/sub/deep/leaf.py",))


def test_a_directory_renamed_inside_is_one_report(watch: Watch, tree: Path) -> None:
    """Renaming a package is its files going and coming in one report; edits at the new place are seen."""
    (tree / "acme" / "one").mkdir()
    (tree / "acme" / "one" / "__init__.py").write_text("X = 1\n")
    watch.next()
    (tree / "acme" / "one").rename(tree / "acme" / "two")
    assert watch.next() == Change(added=("acme/two/__init__.py",), removed=("acme/one/__init__.py",))
    (tree / "acme" / "two" / "__init__.py").write_text("X = 2\n")
    assert watch.next() == Change(modified=("acme/two/__init__.py",))


def test_a_directory_moved_out_is_one_report(watch: Watch, tree: Path, tmp_path: Path) -> None:
    """A package that is moved away is gone, and what happens to it elsewhere is nobody's business."""
    (tree / "acme").rename(tmp_path / "away")
    assert watch.next() == Change(removed=("acme/__init__.py", "acme/core.py"))
    (tmp_path / "away" / "core.py").write_text("C = 9\n")
    assert watch.before(tree / "fence.txt") == []


def test_nested_new_directories_with_files_at_once(watch: Watch, tree: Path) -> None:
    """mkdir -p and files in all of it in one go: everything is reported together, nothing is lost."""
    place = tree / "acme"
    names = []
    for number in range(8):
        place = place / f"d{number}"
        place.mkdir()
        (place / "__init__.py").write_text(f"N = {number}\n")
        names.append(str((place / "__init__.py").relative_to(tree)))
    seen: set[str] = set()
    while len(seen) < len(names):
        seen.update(watch.next().added)
    assert seen == set(names)


# --- links ------------------------------------------------------------------------------------------------------------------


def test_a_link_made_while_watching_is_followed(watch: Watch, tree: Path, tmp_path: Path) -> None:
    """A symbolic link that appears later, to a file outside, is watched at its target, also when that is replaced atomically."""
    outside = tmp_path / "elsewhere" / "real.py"
    outside.parent.mkdir()
    outside.write_text("R = 1\n")
    (tree / "acme" / "linked.py").symlink_to(outside)
    assert watch.next() == Change(added=("acme/linked.py",))
    for number in (2, 3):
        beside = outside.with_name("beside")
        beside.write_text(f"R = {number}\n")
        beside.replace(outside)
        assert watch.next() == Change(modified=("acme/linked.py",))


def test_a_linked_directory_is_followed(tree: Path, tmp_path: Path) -> None:
    """A package that is a link to a directory elsewhere: its files count, and edits at the real place are seen."""
    real = tmp_path / "elsewhere" / "sub"
    real.mkdir(parents=True)
    (real / "leaf.py").write_text("L = 1\n")
    (tree / "acme" / "sub").symlink_to(real)
    watching = Watch(tree)
    try:
        (real / "leaf.py").write_text("L = 2\n")
        assert watching.next() == Change(modified=("acme/sub/leaf.py",))
    finally:
        watching.watcher.close()


# --- events that do not come, or lie ------------------------------------------------------------------------------------------


def test_lost_events_are_made_up_for(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that overflowed says nothing: with every event dropped, the change is found by looking."""

    def deaf(*_: Any, stop_event: threading.Event, rust_timeout: int, **__: Any) -> Iterator[set[Any]]:
        while not stop_event.wait(rust_timeout / 1000):
            yield set()

    monkeypatch.setattr(watchfiles, "watch", deaf)
    watching = Watch(tree)
    try:
        (tree / "acme" / "core.py").write_text("C = 1\n")
        assert watching.next() == Change(modified=("acme/core.py",))
    finally:
        watching.watcher.close()


#: A process that watches the directory in its first argument and prints the files of each report.
_WATCHING = """
import sys
from pathlib import Path
from blackhole_core.loader.watch import SourceWatcher

watcher = SourceWatcher(lambda _, change: print(*change.files, flush=True), rescan=float(sys.argv[2]))
watcher.add("acme", [Path(sys.argv[1])])
sys.stdin.read()
watcher.close()
"""

#: Where Linux tells how many events an inotify queue holds.
_QUEUE_LENGTH = Path("/proc/sys/fs/inotify/max_queued_events")


class _UnreadQueue:
    """An inotify queue over a directory that nobody reads until the end."""

    def __init__(self, place: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._queue = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        all_events = 0xFFF
        assert self._queue >= 0
        assert libc.inotify_add_watch(self._queue, os.fsencode(place), all_events) >= 0

    def overflowed(self) -> bool:
        """Read to the end and say whether the kernel dropped events; closes the queue."""
        overflow, header = 0x4000, struct.Struct("iIII")
        masks = set()
        with open(self._queue, "rb", buffering=0) as stream:  # noqa: PTH123  (a descriptor)
            while data := stream.read(1 << 20):
                position = 0
                while position < len(data):
                    _watch, mask, _cookie, length = header.unpack_from(data, position)
                    masks.add(mask)
                    position += header.size + length
        return overflow in masks


@pytest.mark.skipif(not _QUEUE_LENGTH.exists(), reason="inotify is Linux's")
def test_an_edit_whose_event_the_kernel_dropped_is_found(tree: Path) -> None:
    """The queue of a watcher that is stopped overflows, and then a file is saved: its event is lost, the edit is not."""
    limit = int(_QUEUE_LENGTH.read_text())
    if limit > 200_000:
        pytest.skip(f"this system queues {limit} events; filling that takes long")
    noise = [tree / "acme" / f"noise{number}.tmp" for number in (1, 2)]
    for file in noise:
        file.touch()
    command = [sys.executable, "-c", _WATCHING, str(tree), str(SHORT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready, attempt = False, 0
        while not ready:  # until it watches
            attempt += 1
            (tree / "acme" / "core.py").write_text(f"C = {attempt}\n")
            ready = bool(select.select([process.stdout], [], [], 1.0)[0])
        assert process.stdout.readline() == "acme/core.py\n"
        process.send_signal(signal.SIGSTOP)
        try:
            like_its_own = _UnreadQueue(tree / "acme")
            for number in range(limit + 1000):
                os.utime(noise[number % 2])
            (tree / "acme" / "__init__.py").write_text("V = 1\n")
            assert like_its_own.overflowed()
        finally:
            process.send_signal(signal.SIGCONT)
        assert select.select([process.stdout], [], [], LONG)[0], "the edit was never found"
        assert process.stdout.readline() == "acme/__init__.py\n"
        process.stdin.close()
        assert process.wait(LONG) == 0


def _environment() -> dict[str, str]:
    """Return an environment in which a child can import what this process can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_a_reader_that_was_held_up_finds_the_last_edit(tree: Path) -> None:
    """While a callback runs, thousands of files come and one is edited; afterwards that edit is reported, whatever the queue did."""
    held, go = threading.Event(), threading.Event()
    reports: queue.Queue[Change] = queue.Queue()

    def callback(_: str, change: Change) -> None:
        reports.put(change)
        if not held.is_set():
            held.set()
            assert go.wait(LONG)

    with SourceWatcher(callback, patience=SHORT, rescan=SHORT) as watcher:
        watcher.add("acme", [tree])
        (tree / "acme" / "core.py").write_text("C = 1\n")
        assert held.wait(LONG)
        (tree / "crowd").mkdir()
        for number in range(2000):
            (tree / "crowd" / f"{number}.txt").write_text("x")
        (tree / "acme" / "core.py").write_text("C = 2\n")
        go.set()
        reports.get(timeout=LONG)
        seen: set[str] = set()
        while "acme/core.py" not in seen or len(seen) < 2001:
            seen.update(reports.get(timeout=LONG).files)


def test_without_native_events_the_watcher_looks(tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No inotify left, or a file system without: it is said once, and saves are found by looking, whole-second times included."""

    def refuse(*_: Any, **__: Any) -> Iterator[set[Any]]:
        raise OSError("no space left on device (max_user_watches)")
        yield set()

    monkeypatch.setattr(watchfiles, "watch", refuse)
    with caplog.at_level(logging.ERROR, "blackhole.watch"):
        watching = Watch(tree)
        try:
            second = int(time.time())
            for number in (1, 2, 3):  # same size, same whole second
                (tree / "acme" / "core.py").write_text(f"C = {number}\n")
                os.utime(tree / "acme" / "core.py", (second, second))
                assert watching.next() == Change(modified=("acme/core.py",))
        finally:
            watching.watcher.close()
    assert [record.getMessage() for record in caplog.records] == [f"the system does not watch {tree}; looking every {SHORT:g} s instead"]


def test_a_time_in_whole_seconds_says_nothing_about_rest(tree: Path) -> None:
    """On a file system that counts seconds a file written just now seems to rest for up to one: it is waited for all the same."""
    watched = _Watched(Contents([tree]), SHORT)
    (tree / "acme" / "core.py").write_text("C = 1\n")
    second = int(time.time()) - 1
    os.utime(tree / "acme" / "core.py", (second, second))
    assert watched.consider(100.0) is None
    assert watched.pending
    assert watched.consider(100.0 + SETTLE) == Change(modified=("acme/core.py",))


def test_times_that_go_backwards_are_changes(watch: Watch, tree: Path) -> None:
    """A tool that restores older times with older contents (rsync -t) is noticed."""
    (tree / "acme" / "core.py").write_text("C = 5\n")
    assert watch.next() == Change(modified=("acme/core.py",))
    beside = tree / "acme" / ".beside"
    beside.write_text("C = 4\n")
    os.utime(beside, (1_000_000_000, 1_000_000_000))
    beside.replace(tree / "acme" / "core.py")
    assert watch.next() == Change(modified=("acme/core.py",))


def test_only_the_roots_are_watched(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the plugin's own roots is handed to the system: no sys.path, no site-packages, no directory above."""
    handed: list[tuple[str, ...]] = []
    begun = threading.Event()
    real = watchfiles.watch

    def noting(*paths: str, **options: Any) -> Any:
        handed.append(paths)
        begun.set()
        return real(*paths, **options)

    monkeypatch.setattr(watchfiles, "watch", noting)
    watching = Watch(tree / "acme", tmp_path / "plug" / "missing.yaml")
    try:
        assert begun.wait(LONG)
        (tmp_path / "plug" / "neighbour.py").write_text("N = 1\n")
        (tree / "acme" / "core.py").write_text("C = 1\n")
        assert watching.next() == Change(modified=("core.py",))
    finally:
        watching.watcher.close()
    assert {path for paths in handed for path in paths} == {str(tree / "acme")}


# --- repositories -----------------------------------------------------------------------------------------------------------


def test_a_checkout_of_3000_files_is_one_report(tmp_path: Path) -> None:
    """W-01: git switches a branch that differs in 3,000 files: everything is reported, together."""
    root = tmp_path / "repo"
    (root / "acme").mkdir(parents=True)
    for number in range(3000):
        (root / "acme" / f"m{number}.py").write_text("V = 1\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "one")
    git(root, "checkout", "-q", "-b", "other")
    for number in range(3000):
        (root / "acme" / f"m{number}.py").write_text("V = 2\n")
    git(root, "commit", "-q", "-a", "-m", "two")
    watching = Watch(root)
    try:
        git(root, "checkout", "-q", "main")
        assert len(watching.next().modified) == 3000
        assert watching.before(root / "fence.txt") == []
    finally:
        watching.watcher.close()


def test_while_git_holds_its_lock_nothing_is_reported(tree: Path) -> None:
    """A pause in the middle of a checkout is no end of it; a lock that a killed git left is believed for five seconds without a write."""
    git(tree, "init", "-q")
    watched = _Watched(Contents([tree / "acme"]), SHORT)
    (tree / ".git" / "index.lock").touch()
    (tree / "acme" / "core.py").write_text("C = 1\n")
    watched.consider(100.0)
    assert watched.consider(101.0) is None
    assert watched.pending
    (tree / ".git" / "index.lock").unlink()
    assert watched.consider(101.1) == Change(modified=("core.py",))
    (tree / ".git" / "index.lock").touch()
    (tree / "acme" / "core.py").write_text("C = 2\n")
    watched.consider(102.0)
    assert watched.consider(102.0 + gitlock.STALE / 2) is None
    assert watched.consider(102.0 + gitlock.STALE) == Change(modified=("core.py",))


def test_the_lock_of_a_worktree_is_found(tree: Path, tmp_path: Path) -> None:
    """Worktrees have a file in place of the directory .git; without a repository there is no lock."""
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "one")
    git(tree, "worktree", "add", "-q", str(tmp_path / "wt"), "-b", "wt")
    assert gitlock.index_locks([tree / "acme"]) == (str(tree / ".git" / "index.lock"),)
    assert gitlock.index_locks([tmp_path / "wt" / "acme"]) == (str(tree / ".git" / "worktrees" / "wt" / "index.lock"),)
    assert gitlock.index_locks([tmp_path]) == ()
    (tmp_path / ".git").write_text("nonsense")
    assert gitlock.index_locks([tmp_path]) == ()
