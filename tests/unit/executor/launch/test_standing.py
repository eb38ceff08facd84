"""What a worker takes over from its host, and when a zygote may stand in for it."""

from __future__ import annotations

import os

import pytest

from blackhole_core.executor.launch.standing import Origin, Standing, read_standing
from tests.stage import in_threads


def _origin(environment: dict[str, str], inherited: tuple[object, ...] = (), umask: int = 0o22) -> Origin:
    return Origin(Standing(inherited, umask), environment)


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
    """It is the same twice, and another one in a thread of lower priority; the umask is told beside it."""
    umask = os.umask(0o27)
    try:
        here = read_standing()
    finally:
        os.umask(umask)
    assert here.umask == 0o27
    assert read_standing() == here

    def lower(_: int) -> Standing:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)
        return read_standing()

    assert in_threads(1, lower) != [here]
