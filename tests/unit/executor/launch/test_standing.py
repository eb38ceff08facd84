"""What a worker takes over from its host, and when a zygote may stand in for it."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackhole_core.executor.launch import standing
from blackhole_core.executor.launch.standing import Origin, Standing, read_standing
from tests.stage import in_threads


def _origin(environment: dict[str, str], inherited: tuple[object, ...] = (), umask: int = 0o22) -> Origin:
    return Origin(Standing(inherited, umask, ()), environment)


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"LANG": "C", "TZ": "UTC", "ANY": "1"}, None),
        ({"LANG": "de_DE.UTF-8"}, "LANG"),
        ({"LC_ALL": "C", "LD_PRELOAD": "x.so"}, "LC_ALL"),
        ({"LD_LIBRARY_PATH": "/opt"}, "LD_LIBRARY_PATH"),
        ({"GLIBC_TUNABLES": "x"}, "GLIBC_TUNABLES"),
    ],
)
def test_what_comes_too_late_for_a_fork(more: dict[str, str], name: str | None) -> None:
    """A variable that is read when a program starts, and is not the zygote's, is named; others do no harm."""
    assert _origin({"LANG": "C"}).too_late(more) == name


def test_when_a_zygote_may_stand_in() -> None:
    """Same inheritance, and the same of what is read at the start; umask and other variables are set for each worker."""
    here = _origin({"LANG": "C", "TZ": "UTC"}, ("uid 0",))
    assert here.same_zygote(_origin({"LANG": "C", "HOME": "/x"}, ("uid 0",), umask=0o77))
    assert not here.same_zygote(_origin({"LANG": "C"}, ("uid 1000",)))
    assert not here.same_zygote(_origin({"LANG": "en"}, ("uid 0",)))
    assert not here.same_zygote(_origin({}, ("uid 0",)))


def test_the_standing_is_that_of_the_calling_thread() -> None:
    """It is the same twice, and another one in a thread of lower priority; umask and limits are told beside it."""
    umask = os.umask(0o27)
    try:
        here = read_standing()
    finally:
        os.umask(umask)
    assert here.umask == 0o27
    assert (resource.RLIMIT_NOFILE, *resource.getrlimit(resource.RLIMIT_NOFILE)) in here.limits
    assert read_standing() == here

    def lower(_: int) -> Standing:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)
        return read_standing()

    assert in_threads(1, lower) != [here]


@pytest.fixture
def restored() -> Iterator[dict[Path, str]]:
    """Files of ``/proc/self`` that get their text back."""
    texts: dict[Path, str] = {}
    yield texts
    for path, text in texts.items():
        path.write_text(text)


@pytest.mark.parametrize(("name", "other"), [("oom_score_adj", "500"), ("coredump_filter", "0x1")])
def test_what_a_fork_takes_along_beside_the_status(name: str, other: str, restored: dict[Path, str]) -> None:
    """How soon a process is killed when memory is short, and what its core dump holds, are part of the standing."""
    path = Path("/proc/self", name)
    before = path.read_text()
    restored[path] = f"0x{before.strip()}" if name == "coredump_filter" else before
    here = read_standing()
    path.write_text(other)
    assert read_standing() != here


def test_hard_limits_are_part_of_the_standing_and_soft_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may change its soft limits as it likes, and its hard ones only downwards."""
    here = read_standing()
    limits = {number: (soft, hard) for number, soft, hard in here.limits}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    soft, hard = limits[resource.RLIMIT_NOFILE]
    limits[resource.RLIMIT_NOFILE] = (soft - 1, hard)
    assert read_standing() == here
    limits[resource.RLIMIT_NOFILE] = (soft, hard + 1)
    assert read_standing() != here


def test_a_system_that_does_not_tell_the_umask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ``/proc`` is one that leaves it out, the standing cannot be read."""
    monkeypatch.setattr(standing, "_read", lambda name: b"Uid:\t0\n")
    with pytest.raises(OSError, match="does not tell the umask"):
        read_standing()


@pytest.mark.parametrize("shortage", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_shortage_is_not_a_missing_file(shortage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read for want of descriptors or memory is no other standing: it is told."""
    read = standing._read

    def run_short(name: str) -> bytes:
        if name == "cgroup":
            raise OSError(shortage, os.strerror(shortage))
        return read(name)

    monkeypatch.setattr(standing, "_read", run_short)
    with pytest.raises(OSError, match=os.strerror(shortage)):
        read_standing()
