"""Temporary files of a host that was killed are swept by the next one; nobody else's ever are."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackhole_core import scratch
from blackhole_core.scratch import Scratch, remove, sweep

#: No process has this number: Linux gives at most 4,194,304.
NOBODY = 4_999_999


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of our own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def host() -> Iterator[Scratch]:
    with Scratch() as host:
        yield host


def _left(base: Path, pid: int = NOBODY, start: int = 7) -> Path:
    """Make what a host leaves that is killed."""
    directory = base / f"blackhole-host-{pid}-{start}-abcd_123"
    (directory / "counter-x" / "deep").mkdir(parents=True)
    (directory / "counter-x" / "deep" / "file").write_text("x")
    return directory


def test_directories_lie_in_one_that_names_the_host(base: Path, host: Scratch) -> None:
    """F11: pid and start time, for this user alone; the end removes it with all it holds."""
    one, other = host.new("counter"), host.new("counter")
    (one / "file").write_text("x")
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    assert one.parent == other.parent
    assert one.parent.name.startswith(f"blackhole-host-{os.getpid()}-{start}-")
    assert one.parent.stat().st_mode & 0o777 == one.stat().st_mode & 0o777 == 0o700
    host.close()
    host.close()
    assert list(base.iterdir()) == []
    with pytest.raises(RuntimeError, match="closed"):
        host.new("late")


def test_the_first_directory_sweeps(base: Path, host: Scratch) -> None:
    """F11: what a killed host left is gone when the next one has made its first directory, and not before."""
    left = _left(base)
    assert left.exists()
    host.new("counter")
    assert not left.exists()


def test_a_number_that_was_given_again_is_not_taken_for_the_host(base: Path) -> None:
    """F-18: the number alone says nothing: with another start time the host is dead, and what it left is removed."""
    assert sweep(base) == ()
    left = _left(base, os.getpid(), 1)
    assert sweep(base) == (left,)


def test_a_living_host_s_is_left_alone(base: Path, host: Scratch) -> None:
    """A host that runs keeps its own, whoever sweeps."""
    kept = host.new("counter")
    assert sweep(base) == ()
    assert kept.exists()


def test_a_host_that_cannot_be_seen_is_told_by_its_lock(base: Path) -> None:
    """A container that shares the directory has other process numbers: the lock says that its host lives."""
    left = _left(base)
    claim = os.open(left, os.O_RDONLY)
    fcntl.flock(claim, fcntl.LOCK_EX)
    assert sweep(base) == ()
    os.close(claim)
    assert sweep(base) == (left,)


def test_what_is_not_a_host_s_is_left_alone(base: Path) -> None:
    """A link, a file, another user's directory, another name: nothing of that is touched, and nothing behind a link is."""
    precious = base / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (base / f"blackhole-host-{NOBODY}-7-abcd_124").symlink_to(precious)
    (base / f"blackhole-host-{NOBODY}-7-abcd_125").write_text("x")
    (base / f"blackhole-host-{NOBODY}-7-short").mkdir()
    (base / f"blackhole-host-0{NOBODY}-7-abcd_123").mkdir()
    (base / f"my-blackhole-host-{NOBODY}-7-abcd_123").mkdir()
    inside = _left(base, NOBODY, 8)
    (inside / "link").symlink_to(precious)
    before = sorted(path.name for path in base.iterdir() if path != inside)
    assert sweep(base) == (inside,)
    assert sorted(path.name for path in base.iterdir()) == before
    assert (precious / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_user_s_is_left_alone(base: Path) -> None:
    """Also where this user might: root sweeps what root left."""
    left = _left(base)
    os.chown(left, 12345, 12345)
    assert sweep(base) == ()
    assert left.exists()


def test_nothing_to_sweep_is_no_error(tmp_path: Path) -> None:
    """No such directory, or none of ours in it."""
    assert sweep(tmp_path / "nowhere") == ()


def test_depth_and_modes_are_no_obstacle(base: Path) -> None:
    """A plugin that nests directories beyond any path and any stack, or closes them, does not keep its host from cleaning up."""
    left = _left(base)
    inner = os.open(left, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=inner)
        below = os.open("d", os.O_RDONLY, dir_fd=inner)
        os.close(inner)
        inner = below
    os.mkdir("closed", 0o000, dir_fd=inner)
    os.close(inner)
    (left / "read-only" / "in it").mkdir(parents=True)
    (left / "read-only").chmod(0o500)
    assert sweep(base) == (left,)
    assert not left.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody to whom modes matter")
def test_modes_are_no_obstacle_to_an_ordinary_user() -> None:
    """The same by a user who is not root, to whom a closed directory is closed."""
    here = Path(tempfile.mkdtemp(dir="/tmp", prefix="blackhole-"))  # the test's own is closed to others, and so is what lies above it
    here.chmod(0o777)
    program = f"""
import os, pathlib, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from blackhole_core.scratch import remove
os.setgid(12345); os.setuid(12345)
top = pathlib.Path({str(here)!r}, "mine")
(top / "a" / "b" / "c").mkdir(parents=True)
(top / "a" / "b" / "c" / "file").write_text("x")
for mode, path in ((0, top / "a" / "b" / "c"), (0o500, top / "a" / "b"), (0, top / "a")):
    path.chmod(mode)
sys.exit(0 if remove(top) and not top.exists() else 1)
"""
    try:
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd="/")
    finally:
        assert remove(here)


def test_removing_takes_a_bounded_time(base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What is too much to be removed now is left, said, and swept another time."""
    left = _left(base)
    monkeypatch.setattr(scratch, "REMOVE_SECONDS", -1.0)
    assert not remove(left)
    assert "is left: removing it takes longer than" in caplog.text
    assert sweep(base) == ()
    monkeypatch.undo()
    assert sweep(base) == (left,)


def test_a_fork_of_the_host_removes_nothing_of_it(base: Path, host: Scratch) -> None:
    """Code of the user's that forks and ends by ``sys.exit`` ends the fork's manager, and must not end the host's files."""
    kept = host.new("counter")
    child = os.fork()
    if child == 0:
        host.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert kept.exists()


def test_many_sweep_at_once(base: Path) -> None:
    """Hosts that start together get in nobody's way: each leftover is removed once, each host has a directory."""
    for number in range(20):
        _left(base, NOBODY, number + 1)
    hosts = [Scratch() for _ in range(8)]
    made: list[Path] = []
    threads = [threading.Thread(target=lambda host=host: made.append(host.new("x"))) for host in hosts]  # type: ignore[misc]  # a default binds the loop's value
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sweep(base) == ()
    assert sorted(path.parent for path in made) == sorted(base.iterdir())
    for host in hosts:
        host.close()
    assert list(base.iterdir()) == []


def test_killed_hosts_leave_nothing_in_the_end(base: Path) -> None:
    """F11: a host that is killed leaves its directory; after any number of such ends the next host leaves nothing."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from blackhole_core.scratch import Scratch
(Scratch().new("counter") / "file").write_text("x")
os.kill(os.getpid(), signal.SIGKILL)
"""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(base)}, check=False, timeout=60)
        assert len(list(base.iterdir())) == 1  # each sweeps the one before
    with Scratch() as host:
        host.new("counter")
    assert list(base.iterdir()) == []
