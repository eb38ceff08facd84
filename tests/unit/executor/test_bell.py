"""What threads sleep on: a ring is never lost, and the descriptor ends with the last who knows the bell."""

from __future__ import annotations

import errno
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from blackhole_core.executor.bell import Bell, new_bell
from tests.stage import eventually


@pytest.fixture(params=["eventfd", "no eventfd", "no descriptor left"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the operating system gives."""

    def refuse(*_arguments: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    if request.param == "no eventfd":
        monkeypatch.delattr(os, "eventfd")
    elif request.param == "no descriptor left":
        monkeypatch.setattr(os, "eventfd", refuse)
    return str(request.param)


@pytest.mark.usefixtures("platform")
def test_a_ring_before_the_sleep_ends_it() -> None:
    """Nobody sleeps through a ring that came first, and a second sleep waits for a second ring."""
    bell = new_bell()
    bell.ring()
    bell.sleep()
    sleeper = threading.Thread(target=bell.sleep)
    sleeper.start()
    sleeper.join(0.05)
    assert sleeper.is_alive()
    bell.ring()
    sleeper.join(10)
    assert not sleeper.is_alive()


@pytest.mark.usefixtures("platform")
def test_a_counting_bell_wakes_one_for_each_ring() -> None:
    """Three rings wake three sleepers, however close they come."""
    bell = new_bell(counting=True)
    sleepers = [threading.Thread(target=bell.sleep) for _ in range(3)]
    for sleeper in sleepers:
        sleeper.start()
    for _ in sleepers:
        bell.ring()
    for sleeper in sleepers:
        sleeper.join(10)
    assert not any(sleeper.is_alive() for sleeper in sleepers)


@pytest.fixture
def alarm() -> Iterator[list[float]]:
    """Have a signal come in 20 ms; when it was handled."""
    handled: list[float] = []
    previous = signal.signal(signal.SIGALRM, lambda *_: handled.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    yield handled
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.usefixtures("platform")
def test_a_signal_is_handled_during_the_sleep(alarm: list[float]) -> None:
    """A handler runs while its thread sleeps; the sleep may end then, or go on until the ring."""
    bell = new_bell()
    ringer = threading.Timer(0.2, bell.ring)
    ringer.start()
    bell.sleep()
    assert eventually(lambda: alarm)
    ringer.join()


def test_the_descriptor_ends_with_the_last_reference() -> None:
    """It is neither closed under who still knows the bell nor left to the garbage collection."""
    gc.disable()
    try:
        before = os.listdir("/proc/self/fd")
        bell: Bell | None = new_bell()
        kept = [bell]
        del bell
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
        del kept
        assert os.listdir("/proc/self/fd") == before
    finally:
        gc.enable()
