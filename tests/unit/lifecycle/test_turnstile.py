"""The gate of ``pm.execute``."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from blackhole_core.lifecycle.turnstile import Turnstile, TurnstileTimeout

OLD, NEW = "old", "new"


def test_an_open_turnstile_lets_everybody_through() -> None:
    """The block knows whom it is for."""
    with Turnstile().passage(None, lambda: OLD) as who:
        assert who == OLD


def test_a_closed_turnstile_holds_calls_until_their_deadline() -> None:
    """A call that waits in vain never begins."""
    turnstile = Turnstile()
    turnstile.close()
    with pytest.raises(TurnstileTimeout), turnstile.passage(time.monotonic(), lambda: OLD):
        pytest.fail("it was let through")
    assert turnstile.drained(OLD, 0)


def test_a_call_that_waited_is_for_whoever_serves_when_it_opens() -> None:
    """Whom a call is for is asked when it begins, not when it came."""
    turnstile = Turnstile()
    serving = [OLD]
    turnstile.close()
    waiting = threading.Event()

    def call() -> str:
        waiting.set()
        with turnstile.passage(None, lambda: serving[0]) as who:
            return who

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call) for _ in range(4)]
        waiting.wait()
        serving[0] = NEW
        turnstile.open()
        assert {done.result(10) for done in calls} == {NEW}


def test_draining_waits_for_the_calls_of_one_version_only() -> None:
    """Calls that began on the new version are not waited for when the old one is to end."""
    turnstile = Turnstile()
    with turnstile.passage(None, lambda: OLD), turnstile.passage(None, lambda: NEW):
        assert not turnstile.drained(OLD, 0)
    with turnstile.passage(None, lambda: NEW):
        assert turnstile.drained(OLD, 0)


def test_draining_ends_with_the_last_call() -> None:
    """The end of a call wakes who waits for it."""
    turnstile = Turnstile()
    inside, go = threading.Event(), threading.Event()

    def call() -> None:
        with turnstile.passage(None, lambda: OLD):
            inside.set()
            go.wait()

    with ThreadPoolExecutor(2) as pool:
        pool.submit(call)
        inside.wait()
        drained = pool.submit(turnstile.drained, OLD, 10)
        go.set()
        assert drained.result(10)


def test_a_call_from_inside_passes_a_closed_turnstile() -> None:
    """Else it and the one who waits for the outer call would wait for each other."""
    turnstile = Turnstile()
    with turnstile.passage(None, lambda: OLD):
        turnstile.close()
        with turnstile.passage(time.monotonic(), lambda: OLD):
            assert turnstile.inside()
    assert not turnstile.inside()


def test_inside_one_turnstile_is_not_inside_another() -> None:
    """A call of one plugin waits at the gate of another."""
    first, second = Turnstile(), Turnstile()
    second.close()
    with first.passage(None, lambda: OLD), pytest.raises(TurnstileTimeout), second.passage(time.monotonic(), lambda: OLD):
        pytest.fail("it was let through")


def test_a_call_that_raises_is_through_no_longer() -> None:
    """A failing call holds up no swap."""
    turnstile = Turnstile()
    with pytest.raises(KeyError), turnstile.passage(None, lambda: OLD):
        raise KeyError("x")
    assert turnstile.drained(OLD, 0)


def test_what_was_served_is_not_kept_alive() -> None:
    """An old version can be collected when its last call is over."""

    class Version: ...

    turnstile, serving = Turnstile(), [Version()]
    seen = weakref.ref(serving[0])
    with turnstile.passage(None, lambda: serving[0]):
        serving.clear()
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("step", range(1, 16))
def test_an_interrupt_at_any_step_leaves_nobody_through(step: int) -> None:
    """Ctrl-C comes where a function is entered or one in C returns: a call that it ends is not waited for, nor is the thread inside for ever."""
    turnstile, left = Turnstile(), step
    ours = (Turnstile.passage.__wrapped__.__code__, Turnstile._enter.__code__)  # type: ignore[attr-defined]  # the context manager's generator

    def come(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if (event == "c_return" and frame.f_code in ours) or (event == "call" and frame.f_back is not None and frame.f_back.f_code in ours):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    def call() -> None:
        with turnstile.passage(None, lambda: OLD):
            assert turnstile.inside()

    sys.setprofile(come)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    assert turnstile.drained(OLD, 0)
    assert not turnstile.inside()
