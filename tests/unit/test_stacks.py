"""Reading other threads' stacks must not crash the interpreter, nor change whether it collects garbage."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from blackhole_core.stacks import StackReading, stack_lines

# Threads that return from their frames all the time, collections that let them run, and one thread that looks at all of it. With a
# bare sys._current_frames() this dies of a segmentation fault within seconds.
HAMMER = """
import gc, sys, threading, time
from blackhole_core.stacks import StackReading

until = time.monotonic() + 4
sys.setswitchinterval(1e-5)
main = threading.get_ident()
gc.callbacks.append(lambda phase, info: threading.get_ident() == main and time.sleep(0.0001))
gc.set_threshold(5)

def deep(depth):
    return deep(depth - 1) if depth else depth

def work():
    while time.monotonic() < until:
        deep(3), deep(9)

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
seen = 0
while time.monotonic() < until:
    with StackReading() as tops:
        for frame in tops.values():
            while frame is not None:
                seen, frame = seen + (frame.f_code is deep.__code__), frame.f_back
for thread in threads:
    thread.join()
print(seen)
"""


@pytest.fixture
def parked() -> Iterator[threading.Thread]:
    """A thread that stands in ``wait_here``."""
    standing, release = threading.Event(), threading.Event()

    def wait_here() -> None:
        standing.set()
        release.wait(30)

    thread = threading.Thread(target=wait_here)
    thread.start()
    standing.wait(30)
    yield thread
    release.set()
    thread.join()


def test_survives_threads_that_run_while_a_collection_is_due() -> None:
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", HAMMER], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 1000


def test_gives_the_stack_of_every_thread(parked: threading.Thread) -> None:
    with StackReading() as tops:
        assert tops[threading.get_ident()] is sys._getframe()
        names = []
        frame = tops[parked.ident or 0]
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]  # the walk ends where there is none
    assert "wait_here" in names


def test_no_collection_begins_inside_and_they_go_on_after_the_last_reader() -> None:
    assert gc.isenabled()
    with StackReading():
        assert not gc.isenabled()
        with StackReading():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_leaves_collections_off_where_the_host_turned_them_off() -> None:
    gc.disable()
    try:
        with StackReading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_forked_child_collects_again() -> None:
    with StackReading():
        child = os.fork()
        if child == 0:
            enabled = gc.isenabled()
            with StackReading():
                paused = not gc.isenabled()
            os._exit(0 if enabled and paused and gc.isenabled() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_keeps_no_frame(parked: threading.Thread) -> None:
    with StackReading() as tops:
        pass
    assert tops == {}


def test_stack_lines(parked: threading.Thread) -> None:
    lines = stack_lines(parked)
    assert any("in wait_here\n" in line for line in lines)
    assert "threading.py" in lines[-1]
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    assert stack_lines(ended) == []


def test_an_interrupt_on_the_way_in_leaves_collections_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between turning them off and the block: nobody would turn them on again."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "_current_frames", interrupted)
    with pytest.raises(KeyboardInterrupt), StackReading():
        pass
    assert gc.isenabled()
