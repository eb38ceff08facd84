"""The file of grants: whole at every moment, changed by one at a time, never read through a link."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackhole_core.errors import GrantsError
from blackhole_core.lifecycle.grantfile import POINTS, FileGrants, GrantStore, MemoryGrants
from blackhole_core.lifecycle.grants import Grants, with_grants
from tests.unit.killed_writer import start_writer


def grant(store: GrantStore, *permissions: str, name: str = "echo") -> None:
    store.change(lambda grants: with_grants(grants, name, permissions, 1.0))


def granted(store: GrantStore, name: str = "echo") -> set[str]:
    return {one.permission for one in store.read().grants if one.plugin == name}


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> GrantStore:
    return MemoryGrants() if request.param == "memory" else FileGrants(tmp_path / "state" / "deep")


def test_nothing_is_granted_at_first(store: GrantStore) -> None:
    """Nor is anything made by looking."""
    assert store.read() == Grants()


def test_what_was_granted_is_read(store: GrantStore) -> None:
    """And what a change says is returned."""
    assert store.change(lambda grants: with_grants(grants, "echo", ("env:A",), 1.0)) == ("env:A",)
    grant(store, "env:B")
    assert granted(store) == {"env:A", "env:B"}


def test_a_change_that_fails_changes_nothing(store: GrantStore) -> None:
    """The operator can try again."""
    grant(store, "env:A")
    with pytest.raises(GrantsError):
        grant(store, "env:B", "netwrok")
    assert granted(store) == {"env:A"}
    grant(store, "env:C")
    assert granted(store) == {"env:A", "env:C"}


@pytest.fixture
def _hurried() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_hurried")
def test_threads_lose_no_grant_of_each_other(store: GrantStore) -> None:
    """Each change sees all that were made before it."""
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(10):
                grant(store, f"env:N{number}", name=name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"p{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert len(store.read().grants) == 40


def test_two_stores_of_one_directory_see_each_other(tmp_path: Path) -> None:
    """A running host sees what the command line granted."""
    one, other = FileGrants(tmp_path), FileGrants(tmp_path)
    grant(one, "env:A")
    assert granted(other) == {"env:A"}


def test_the_file_belongs_to_the_operator_alone(tmp_path: Path) -> None:
    """Modes of the directory and the files, whatever the umask."""
    before = os.umask(0)
    try:
        grant(FileGrants(tmp_path / "state"), "env:A")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert modes == {"grants.json": 0o600, "grants.lock": 0o600}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_may_write_grants_nothing(tmp_path: Path, mode: int) -> None:
    """Grants live with the operator."""
    store = FileGrants(tmp_path)
    grant(store, "env:A")
    store.path.chmod(mode)
    with pytest.raises(GrantsError, match=r"others may write it .*chmod 600"):
        store.read()


@pytest.mark.parametrize("name", ["grants.json", "grants.lock"])
def test_nothing_is_opened_through_a_link(tmp_path: Path, name: str) -> None:
    """Whoever can make a link there cannot choose what is read or written."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("{}")
    state = tmp_path / "state"
    state.mkdir()
    (state / name).symlink_to(elsewhere)
    with pytest.raises(GrantsError, match="symbolic link"):
        grant(FileGrants(state), "env:A")
    assert elsewhere.read_text() == "{}"


def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path) -> None:
    """It is removed; what it pointed to stays."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / "grants.json.new").symlink_to(elsewhere)
    store = FileGrants(tmp_path)
    grant(store, "env:A")
    assert (elsewhere.read_text(), granted(store)) == ("mine", {"env:A"})


def test_a_pipe_in_its_place_is_refused_at_once(tmp_path: Path) -> None:
    """Nobody waits for somebody to write into it."""
    os.mkfifo(tmp_path / "grants.json")
    with pytest.raises(GrantsError, match="no regular file"):
        FileGrants(tmp_path).read()


def test_a_damaged_file_is_an_error_and_is_not_written_over(tmp_path: Path) -> None:
    """It is never an empty list: what stood in it is the operator's to mend."""
    store = FileGrants(tmp_path)
    grant(store, "env:A")
    store.path.write_bytes(store.path.read_bytes()[:-30])
    damaged = store.path.read_bytes()
    for use in (store.read, lambda: grant(store, "env:B")):
        with pytest.raises(GrantsError, match=r"cannot be used: .*; until it is mended nothing in it counts"):
            use()
    assert store.path.read_bytes() == damaged


def test_who_holds_the_lock_for_ever_does_not_hold_everybody_up(tmp_path: Path) -> None:
    """A stopped host: the error names the lock; reading goes on."""
    grant(FileGrants(tmp_path), "env:A")
    with (tmp_path / "grants.lock").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        store = FileGrants(tmp_path, lock_seconds=0.05)
        with pytest.raises(GrantsError, match=r"grants\.lock was held by another program for 0\.05 s"):
            grant(store, "env:B")
        assert granted(store) == {"env:A"}
    grant(store, "env:B")
    assert granted(store) == {"env:A", "env:B"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("point", ["written", "flushed"])
def test_a_disk_that_fails_leaves_the_grants_as_they_were(tmp_path: Path, code: int, point: str) -> None:
    """X-08: the error says what the system said; no temporary file stays."""
    grant(FileGrants(tmp_path), "env:A")

    def fail(here: str) -> None:
        if here == point:
            raise OSError(code, os.strerror(code))

    with pytest.raises(GrantsError, match=os.strerror(code)):
        grant(FileGrants(tmp_path, reached=fail), "env:B")
    assert granted(FileGrants(tmp_path)) == {"env:A"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grants.json", "grants.lock"]


def test_a_write_that_the_kernel_cuts_short_leaves_the_grants_as_they_were(tmp_path: Path) -> None:
    """A real limit on the size of files, in the middle of a write."""
    store = FileGrants(tmp_path)
    grant(store, "env:A")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
        with pytest.raises(GrantsError, match="File too large"):
            grant(store, *(f"env:N{number}" for number in range(50)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert granted(store) == {"env:A"}
    assert not (tmp_path / "grants.json.new").exists()


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_step(tmp_path: Path, point: str) -> None:
    """S-11: SIGKILL at each step of the third change: two grants or three, whole; the next one works and removes what was left."""
    with start_writer("grants", tmp_path, 5, "echo", point, 3) as process:
        assert process.stdout is not None
        assert len(process.stdout.readlines()) == 2
    assert process.returncode == -signal.SIGKILL
    store = FileGrants(tmp_path)
    assert granted(store) == {f"env:N{number}" for number in range(3 if point in ("renamed", "settled") else 2)}
    grant(store, "env:AFTER")
    assert "env:AFTER" in granted(store)
    assert not (tmp_path / "grants.json.new").exists()


def test_two_hosts_at_once_lose_nothing_even_when_one_is_killed(tmp_path: Path) -> None:
    """Every grant that was reported kept is there."""
    processes = [start_writer("grants", tmp_path, 40, f"p{number}") for number in range(2)]
    victim = start_writer("grants", tmp_path, 100_000, "victim")
    assert victim.stdout is not None
    lines = [victim.stdout.readline() for _ in range(random.Random(1).randrange(2, 20))]
    victim.kill()
    lines += victim.stdout.readlines()
    for process in (*processes, victim):
        with process:
            assert process.stdout is not None
            process.stdout.readlines()
    store = FileGrants(tmp_path)
    for number in range(2):
        assert granted(store, f"p{number}") == {f"env:N{one}" for one in range(40)}
    kept = {f"env:N{int(line)}" for line in lines if line.endswith("\n")}
    assert kept <= granted(store, "victim")
