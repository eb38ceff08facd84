"""Snapshots as files on a disk that fails, is full, slow or closed: a sentence, and nothing half written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackhole_core.errors import StateError
from blackhole_core.state.files import POINTS, FileStateStore
from blackhole_core.state.snapshot import Snapshot
from tests.unit.state.drafts import FIRST, NOBODY, draft, failing, names


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("point", POINTS[:-1])
def test_a_failing_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, point: str, code: int) -> None:
    """F20: whatever the system refuses at whatever step, the earlier snapshot is the newest and nothing half-written stays."""
    first = FileStateStore(tmp_path).put(draft("old"))
    store = FileStateStore(tmp_path, reached=failing(point, code))
    with pytest.raises(StateError) as caught:
        store.put(draft("new"))
    sentence = str(caught.value)
    assert sentence.startswith(f"state of plugin counter could not be kept in {tmp_path / 'counter'}: {os.strerror(code)}; ")
    assert names(tmp_path) == [f"{first.id}.state"]
    assert FileStateStore(tmp_path).latest("counter") == (first, ())


def test_a_file_system_without_locks_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without locks a dead writer could not be told from a living one: refused, and the file that was tried is gone."""

    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StateError, match="the file system lacks locks, choose another state directory"):
        FileStateStore(tmp_path).put(draft())
    assert names(tmp_path) == []


def test_a_file_system_without_hard_links_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without links a name could be given before its bytes are safe: refused, nothing stays."""

    def no_links(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StateError, match=r"Operation not permitted; .*\(hard links are needed\)"):
        FileStateStore(tmp_path).put(draft())
    assert names(tmp_path) == []


LIMITED = """
import resource, sys
from pathlib import Path
from blackhole_core.errors import StateError
from blackhole_core.state.files import FileStateStore
from blackhole_core.state.snapshot import Draft

store = FileStateStore(Path(sys.argv[1]))
store.put(Draft("counter", None, 1, 0, 0.0, "manual", "small"))
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    store.put(Draft("counter", None, 1, 0, 0.0, "manual", "x" * 100_000))
except StateError as error:
    print(error)
print(store.latest("counter")[0].data)
"""


def test_a_file_that_may_not_grow_is_a_sentence(tmp_path: Path) -> None:
    """F20, F22: a real limit stops the write in its middle (a short write, then EFBIG); nothing of it stays."""
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True)
    sentence, latest = done.stdout.splitlines()
    assert "File too large; raise the file size limit (ulimit -f) of the host" in sentence
    assert latest == "small"
    assert names(tmp_path) == [f"{FIRST}.state"]


@pytest.fixture
def foreign_directory() -> Iterator[Path]:
    """A directory that may be read and not written: for root too, who acts as nobody inside :func:`as_nobody`."""
    root = Path(tempfile.mkdtemp(dir="/tmp"))  # not below a directory that is closed to nobody
    root.chmod(0o755)
    yield root
    root.chmod(0o700)
    shutil.rmtree(root)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_directory_can_be_read_and_put_is_a_sentence(foreign_directory: Path) -> None:
    """F21: what is there is still found; a put says that it may not, where, and what to do."""
    kept = FileStateStore(foreign_directory).put(draft("old"))
    (foreign_directory / "counter" / "0000000000000009.tmp").write_bytes(b"left over")
    for path in foreign_directory.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    foreign_directory.chmod(0o555)
    with as_nobody():
        store = FileStateStore(foreign_directory)
        assert store.latest("counter") == (kept, ())
        for act in (lambda: store.put(draft()), lambda: store.put(draft(plugin="fresh")), lambda: store.delete("counter", kept.id)):
            with pytest.raises(StateError, match="Permission denied; give the host's user access to it or choose another state directory"):
                act()
        assert store.latest("counter") == (kept, ())
    (foreign_directory / "counter").chmod(0o700)


def test_an_unreadable_directory_is_a_sentence_not_an_empty_store(foreign_directory: Path) -> None:
    """F21: no access is never taken for no state."""
    FileStateStore(foreign_directory).put(draft("old"))
    (foreign_directory / "counter").chmod(0o700 if os.geteuid() == 0 else 0o000)
    with as_nobody():
        store = FileStateStore(foreign_directory)
        for act in (lambda: store.latest("counter"), lambda: store.list("counter"), lambda: store.get("counter", FIRST)):
            with pytest.raises(StateError, match=r"state of plugin counter could not be read in .*Permission denied"):
                act()
    (foreign_directory / "counter").chmod(0o700)


def test_a_slow_disk_holds_up_only_its_own_put(tmp_path: Path) -> None:
    """F23: while one put waits for the disk, others put and read; the slow one then ends well under its older id."""
    waiting, release = threading.Event(), threading.Event()

    def reached(point: str) -> None:
        if point == "written":
            waiting.set()
            assert release.wait(30)

    slow: list[Snapshot] = []
    thread = threading.Thread(target=lambda: slow.append(FileStateStore(tmp_path, reached=reached).put(draft("slow"))))
    thread.start()
    try:
        assert waiting.wait(30)
        store = FileStateStore(tmp_path)
        quick = store.put(draft("quick"))
        assert store.latest("counter") == (quick, ())
    finally:
        release.set()
        thread.join(30)
    assert slow[0].id < quick.id
    assert store.list("counter")[1].id == slow[0].id


def test_interrupted_between_name_and_flush_the_name_is_taken_back(tmp_path: Path) -> None:
    """Ctrl-C while the directory is flushed: the put did not return, so the snapshot is not there."""

    def reached(point: str) -> None:
        if point == "linked":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FileStateStore(tmp_path, reached=reached).put(draft())
    assert names(tmp_path) == []
