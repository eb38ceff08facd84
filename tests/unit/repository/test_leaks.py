"""The leak check is itself a check that can fail: each kind of leak is made on purpose, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import leaks

ROOT = Path(__file__).parents[3]

#: Each test leaks one thing and passes otherwise. Everything is released when the inner pytest ends.
LEAKY = """
import os, subprocess, sys, tempfile, threading, types
from pathlib import Path
import pytest

release = threading.Event()

def lingering_function():
    release.wait(60)

def test_daemon_thread():
    threading.Thread(target=lingering_function, name="lingerer", daemon=True).start()

def test_user_thread():
    threading.Thread(target=lingering_function, name="stayer").start()

def test_child():
    global child
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", "a-left-child"], stdin=subprocess.PIPE)

def test_zombie():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

def test_descriptor():
    os.open("/etc/hostname", os.O_RDONLY)

def test_memfd():
    os.memfd_create("left-memfd")

def test_temporary_file():
    Path(tempfile.mkdtemp(prefix="blackhole-left-"))

def test_shared_memory():
    global shared
    shared = Path("/dev/shm", f"blackhole-left-{os.getpid()}")
    shared.write_bytes(b"")

def test_at_once_gone_again():  # everybody on this machine can see it
    shared.unlink()

def test_generation():
    sys.modules["left_plugin@7"] = types.ModuleType("left_plugin@7")

@pytest.fixture(scope="module")
def wide():
    os.open("/etc/passwd", os.O_RDONLY)

def test_wide_fixture(wide):
    pass

@pytest.mark.leaks("shown by test_leaks")
def test_marked():
    os.open("/etc/hosts", os.O_RDONLY)

def test_tidy():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    with open("/etc/hostname"):
        pass

def test_last():
    release.set()
    child.communicate()
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what an inner pytest prints about the leaky tests."""
    directory = tmp_path_factory.mktemp("leaky")
    (directory / "test_leaky.py").write_text(LEAKY)
    (directory / "conftest.py").write_text("from tests import leaks\nfrom tests.conftest import *\n\nleaks.GRACE = 0.05\n")
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = leaks(reason)\n")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--import-mode=importlib", "test_leaky.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    run = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=100, check=False)
    return run.stdout + run.stderr


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("daemon_thread", "thread: lingerer (daemon)"),
        ("user_thread", "thread: stayer (non-daemon)"),
        ("child", "a-left-child"),
        ("zombie", "a zombie"),
        ("descriptor", "-> /etc/hostname"),
        ("memfd", "-> /memfd:left-memfd"),
        ("temporary_file", "blackhole-left-"),
        ("shared_memory", "file: /dev/shm/blackhole-left-"),
        ("generation", "module: left_plugin@7"),
    ],
)
def test_a_leak_fails_its_test_and_is_named(outcome: str, name: str, named: str) -> None:
    """A test that leaves something behind fails, and the message names what it was."""
    assert f"ERROR test_leaky.py::test_{name} " in outcome
    section = (
        outcome.partition(f"ERROR at teardown of test_{name} _")[2]
        .partition("_ ERROR at teardown of")[0]
        .partition("short test summary")[0]
    )
    assert named in section


def test_a_leaked_thread_is_shown_with_its_stack(outcome: str) -> None:
    """The message of a leaked thread says where in the code it stands."""
    assert "in lingering_function" in outcome


def test_a_tidy_test_passes(outcome: str) -> None:
    """Threads that ended and files that were closed are no leak, and neither is what an earlier test left."""
    assert "ERROR test_leaky.py::test_tidy" not in outcome
    assert "PASSED test_leaky.py::test_tidy" in outcome


def test_a_marked_test_is_not_judged(outcome: str) -> None:
    """A test marked ``leaks(reason)`` is left alone by the check around it."""
    assert "ERROR test_leaky.py::test_marked" not in outcome


def test_the_session_check_sees_wide_fixtures(outcome: str) -> None:
    """What a module fixture leaves behind is no fault of the test, and is found when the session ends."""
    assert "ERROR test_leaky.py::test_wide_fixture" not in outcome
    assert "the test session left behind" in outcome
    assert "-> /etc/passwd" in outcome.partition("the test session left behind")[2]


def test_a_thread_that_is_just_ending_is_waited_for() -> None:
    """A thread that ends within the grace is no leak."""
    before = leaks.take_census()
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    threading.Timer(0.05, release.set).start()
    assert leaks.settle(before, leaks.GRACE) == []


def test_the_grace_ends() -> None:
    """What does not go away is reported when the grace is over."""
    before = leaks.take_census()
    reading, writing = os.pipe()
    try:
        found = leaks.settle(before, grace=0.02)
    finally:
        os.close(reading)
        os.close(writing)
    assert [leak.kind for leak in found] == ["descriptor", "descriptor"]
