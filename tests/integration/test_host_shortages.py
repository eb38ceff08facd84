"""A host for which something runs short, descriptors, processes or room on a disk: what it cannot do fails with a sentence, and all else goes on."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import blackhole_core as bh
from blackhole_core.scratch import Scratch
from tests.integration.host_programs import Place
from tests.integration.managed import manager, wheel
from tests.plugins.build import plugin_dir
from tests.stage import eventually


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Leave three descriptors free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filler = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(filler) + 1, hard))
    os.close(filler.pop())
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filler:
            os.close(descriptor)


def test_no_descriptor_for_a_snapshot(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """F18: the snapshot fails in a sentence that names the limit, calls go on, and it succeeds when there are descriptors again."""
    with manager(state_dir=tmp_path / "state") as pm:
        pm.load("counter", source=plugin_dir("counter", "1.0.0", tmp_path), isolation="process")
        pm.hook.add(amount=5)
        pm.export_state("counter")
        request.getfixturevalue("few_descriptors")
        filler = os.open("/dev/null", os.O_RDONLY)
        with pytest.raises(bh.StateError, match=r"Too many open files; raise the limit"):
            pm.export_state("counter")
        assert pm.hook.add(amount=1) == [6]
        os.close(filler)
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        snapshot = pm.export_state("counter")
        assert snapshot is not None
        assert snapshot.data == {"count": 6}


@pytest.fixture
def counted_group() -> Iterator[Path]:
    """A control group in which processes and threads are counted; a host that enters it can be told how many there may be."""
    base = next((path for path in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")) if (path / "cgroup.procs").exists()), None)
    if base is None or not os.access(base, os.W_OK):
        pytest.skip("no control group can be made here")
    group = base / f"blackhole-test-{os.getpid()}"
    group.mkdir()
    try:
        if not (group / "pids.max").exists():
            pytest.skip("control groups do not count processes here")
        yield group
    finally:
        assert eventually(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_no_process_for_a_new_version(counted_group: Path, place: Place, tmp_path: Path) -> None:
    """F19: where neither process nor thread can be made a swap fails in a sentence at whatever step it is hit, the old version serves on with its state, and the next one succeeds."""
    old, new = wheel("counter", "1.0.0", tmp_path / "wheels"), wheel("counter", "2.0.0", tmp_path / "wheels")
    program = f"""
from pathlib import Path
group = Path({str(counted_group)!r})
(group / "cgroup.procs").write_text(str(os.getpid()))
with begin() as pm:
    pm.load("counter", source={str(old)!r}, isolation="process")
    pm.hook.add(amount=5)
    serving, failures = "1.0.0", 0
    for spare in range(8):
        other = {{"1.0.0": {str(new)!r}, "2.0.0": {str(old)!r}}}[serving]
        (group / "pids.max").write_text(str(int((group / "pids.current").read_text()) + spare))
        try:
            serving = pm.swap("counter", source=other).to_version
        except bh.SwapFailed as error:
            failures += 1
            assert error.phase == "load", repr(error)
            assert any(words in str(error) for words in ("Resource temporarily unavailable", "can't start new thread")), str(error)
            assert "the old version serves on" in str(error)
        finally:
            (group / "pids.max").write_text("max")
        assert (pm.hook.version(), pm.hook.total()) == ([serving], [5]), (spare, pm.hook.version(), pm.hook.total())
    other = {{"1.0.0": {str(new)!r}, "2.0.0": {str(old)!r}}}[serving]
    assert pm.swap("counter", source=other).ok
    assert pm.hook.total() == [5]
    say(failures)
"""
    done = place.run(program)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1, done.stderr
    assert place.left() == []


@pytest.mark.parametrize("limit", [100, 1000])
def test_a_full_disk_as_a_wheel_is_unpacked(limit: int, tmp_path: Path) -> None:
    """F20: a file that cannot be written keeps nothing of the wheel, says so in a sentence, and hinders no later attempt."""
    source = wheel("counter", "1.0.0", tmp_path)
    with manager(state_dir=tmp_path / "state") as pm:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(bh.SourceError, match=r"cannot be unpacked .*nothing was kept"):
                pm.load("counter", source=source, isolation="none")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in (tmp_path / "state" / "store").iterdir()] == [".lock"]
        pm.load("counter", source=source, isolation="none")
        assert pm.hook.add(amount=1) == [1]


@pytest.mark.skipif(not Path("/proc/1").is_dir(), reason="a directory that even root cannot write to is needed")
@pytest.mark.parametrize("level", ["thread", "process"])
def test_a_state_directory_that_cannot_be_written(level: str, tmp_path: Path) -> None:
    """F21: plugins load, serve and are replaced without state; what needs the directory says so, and a swap that cannot keep state leaves the old version."""
    with manager(state_dir=Path("/proc/1/net")) as pm:
        pm.load("counter", source=plugin_dir("counter", "1.0.0", tmp_path), isolation=level)
        assert pm.hook.add(amount=5) == [5]
        with pytest.raises(bh.StateError, match="could not be kept in /proc/1/net"):
            pm.export_state("counter")
        with pytest.raises(bh.SwapFailed, match="could not be kept") as caught:
            pm.swap("counter", source=plugin_dir("counter", "2.0.0", tmp_path))
        assert caught.value.phase == "export"
        assert (pm.hook.version(), pm.hook.total()) == (["1.0.0"], [5])


def test_a_temporary_directory_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """F20, F21: a start fails with the system's error, which names the place."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/1/net")
    with Scratch() as scratch, pytest.raises(OSError, match="/proc/1/net") as caught:
        scratch.new("x")
    assert caught.value.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS)
