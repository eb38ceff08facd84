"""The thread that brings up workers: what fails there is told to whoever asked, and is no running worker's end."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn

import pytest

from blackhole_core.executor.launch import process
from blackhole_core.executor.launch.child import LaunchSpec, wait_readable
from blackhole_core.executor.launch.guard import Guard
from blackhole_core.executor.launch.nursery import Nursery
from blackhole_core.executor.launch.process import ProcessLauncher
from tests.plugins.build import NOTES_API
from tests.stage import eventually

_ROOT = Path(__file__).parents[2]
_SPEC = LaunchSpec("probe", tuple(str(Path(entry).absolute()) for entry in sys.path))


@pytest.fixture
def launcher() -> Iterator[ProcessLauncher]:
    launcher = ProcessLauncher()
    yield launcher
    launcher.close()


def _spare_is_ready(launcher: ProcessLauncher) -> bool:
    return eventually(lambda: launcher._nursery._spare is not None)


def _spare_pid(launcher: ProcessLauncher) -> int:
    assert _spare_is_ready(launcher)
    assert launcher._nursery._spare is not None
    return launcher._nursery._spare[0].pid


def _is_gone(pid: int) -> bool:
    """Whether the process has ended and was waited for."""
    return not Path(f"/proc/{pid}").exists()


def _run(program: str, *args: str) -> str:
    """Run a host of its own and return what it printed."""
    preamble = f"""
        import os, sys
        sys.path[:0] = {[str(_ROOT), str(NOTES_API)]!r}
        from pathlib import Path
        from blackhole_core.executor.launch.child import LaunchSpec
        from blackhole_core.executor.launch.process import ProcessLauncher
        from tests.stage import eventually
        spec = LaunchSpec("probe", tuple(str(Path(entry).absolute()) for entry in sys.path))
        """
    source = textwrap.dedent(preamble) + textwrap.dedent(program)
    return subprocess.run([sys.executable, "-c", source, *args], stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout


# --- a host that gives up its privileges -----------------------------------------------------------------------------

#: Keeps of root's capabilities only those that let a stranger read any file, in the calling thread: the interpreter may be in a home directory.
_KEEP_READING = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
def checked(result):
    assert result == 0, os.strerror(ctypes.get_errno())
def before():
    checked(libc.prctl(8, 1, 0, 0, 0))  # PR_SET_KEEPCAPS
def after():
    kept = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    checked(libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", kept, kept, kept, 0, 0, 0)))
    for number in (1, 2):
        checked(libc.prctl(47, 2, number, 0, 0))  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE: programs that are executed have them too
"""

_DROPS = """
import threading
def in_both_threads(action):
    action()
    done = threading.Event()
    launcher._submit(lambda: (action(), done.set()))
    assert done.wait(10)
launcher = ProcessLauncher()
first = launcher.launch(spec)
nursery = launcher._nursery
assert eventually(lambda: nursery._spare is not None)
old = nursery._zygote.pid, nursery._spare[0].pid
in_both_threads(before)
os.setresuid(1000, 1000, 1000)
in_both_threads(after)
if sys.argv[1] == "spare dies":
    nursery._spare[0]._own.shutdown(2)  # so it ends, and nobody has asked for a worker
    assert eventually(lambda: not Path(f"/proc/{old[1]}").exists())
second = launcher.launch(spec)
assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old))
print(Path(f"/proc/{first.pid}").exists(), second.start, Path(f"/proc/{second.pid}").stat().st_uid)
for child in (first, second):
    child.close()  # it ends by that
launcher.close()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root has privileges to give up")
@pytest.mark.parametrize("moment", ["next start", "spare dies"])
def test_a_host_gives_up_its_privileges(moment: str) -> None:
    """After ``setuid``, the zygote and the worker ahead are root's and must not be killed: they end by themselves, are reaped, and new ones come."""
    assert _run(_KEEP_READING + _DROPS, moment) == "True zygote 1000\n"


# --- a guard that cannot be had --------------------------------------------------------------------------------------


def test_the_first_guard_does_not_start(launcher: ProcessLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants a worker is told; no fork stays begun that nobody takes, or the thread would run in circles; then it starts after all."""
    monkeypatch.setattr(process, "Guard", _refused)
    launcher.warm(_SPEC.import_path)
    for _ in range(2):  # after the first a worker could be forked ahead
        with pytest.raises(OSError, match="no more processes"):
            launcher.launch(_SPEC)
    zygote = launcher._nursery._zygote
    assert zygote is not None
    assert zygote.begun is None
    monkeypatch.undo()
    child = launcher.launch(_SPEC)
    assert child.start.way == "zygote"
    child.discard()


def test_a_killed_guard_is_not_replaced(launcher: ProcessLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was forked and cannot be guarded is ended, reaped and forgotten, and who wanted it is told."""
    children = [launcher.launch(_SPEC)]
    _spare_pid(launcher)
    guard = launcher._guard
    assert guard is not None
    guard._process.kill()
    guard._process.wait()
    monkeypatch.setattr(Guard, "_start", _refused)
    children.append(launcher.launch(_SPEC))  # the one ahead, which the lost guard knew
    with pytest.raises(OSError, match="no more processes"):
        launcher.launch(_SPEC)
    assert guard._groups == {child.pid for child in children}
    monkeypatch.undo()
    children.append(launcher.launch(_SPEC))
    for child in children:
        child.discard()


def _refused(*_: object) -> NoReturn:
    raise OSError(errno.EAGAIN, "no more processes")


# --- whatever else fails in the thread -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["prepare", "wait"])
def test_what_nobody_foresaw(
    step: str, launcher: ProcessLauncher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in what is done ahead is logged; running workers live on, and the next ones come from a new zygote."""
    first = launcher.launch(_SPEC)
    spare = _spare_pid(launcher)
    original, failed = getattr(Nursery, step), list[str]()

    def fail_once(*args: Any) -> Any:
        if not failed:
            failed.append(step)
            raise ZeroDivisionError("not foreseen")
        return original(*args)

    monkeypatch.setattr(Nursery, step, fail_once)
    second = launcher.launch(_SPEC)
    assert second.pid == spare
    assert eventually(lambda: "not foreseen" in caplog.text)
    third = launcher.launch(_SPEC)
    assert [child.start.way for child in (first, second, third)] == ["zygote"] * 3
    for child in (first, second, third):
        assert not wait_readable(child.pidfd, 0)
        child.discard()


def test_nothing_can_be_made_ready(launcher: ProcessLauncher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A host whose standing cannot be read warms in vain, and executes its workers, which say why."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(process, "read_standing", _refused)
    launcher.warm(_SPEC.import_path)
    child = launcher.launch(_SPEC)
    assert str(child.start) == "exec: what a worker takes over from its host cannot be read: [Errno 11] no more processes"
    assert caplog.text == ""
    child.discard()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_thread_ends_all_the_same(launcher: ProcessLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a worker, and whoever wants one later, is told; nothing waits for ever, and nothing is left."""
    monkeypatch.setattr(launcher, "_next", _refused)
    with pytest.raises(RuntimeError, match="its thread has ended by an error"):
        launcher.launch(_SPEC)
    with pytest.raises(RuntimeError, match="closed"):
        launcher.launch(_SPEC)


def test_a_fork_of_the_host_leaves_its_workers_alone() -> None:
    """In a child of ``os.fork`` launch and warm are refused in a sentence and close does nothing; the parent goes on."""
    printed = _run("""
        launcher = ProcessLauncher()
        first = launcher.launch(spec)
        pid = os.fork()
        if pid == 0:
            for act in (lambda: launcher.launch(spec), lambda: launcher.warm(spec.import_path)):
                try:
                    act()
                except RuntimeError as error:
                    print(str(error).replace(str(os.getpid()), "CHILD").replace(str(os.getppid()), "PARENT"), flush=True)
            launcher.close()
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        second, third = launcher.launch(spec), launcher.launch(spec)
        print(first.start, second.start, third.start)
        for child in (first, second, third):
            child.discard()
        launcher.close()
        """)
    sentence = "process CHILD was forked from PARENT, whose workers these are, and cannot bring up more of them: make a plugin manager of its own after the fork"
    assert printed.splitlines() == [sentence, sentence, "7", "zygote zygote zygote"]


# --- an interrupt ----------------------------------------------------------------------------------------------------


def test_an_interrupt_while_the_worker_ahead_is_taken(launcher: ProcessLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was taken and has no role yet is ended and reaped."""
    launcher.launch(_SPEC).discard()
    spare = _spare_pid(launcher)
    monkeypatch.setattr(launcher, "_submit", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        launcher.launch(_SPEC)
    assert _is_gone(spare)


def test_an_interrupt_while_a_worker_comes_up(launcher: ProcessLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that nobody waits for any more is ended when it is there."""
    submit, outcomes = launcher._submit, list[Future[Any]]()

    def submit_interrupted(action: Any) -> Future[Any]:
        outcome = submit(action)
        outcomes.append(outcome)
        result = outcome.result
        monkeypatch.setattr(outcome, "result", lambda: _interrupted() if outcome._state == "PENDING" else result())
        return outcome

    monkeypatch.setattr(launcher, "_submit", submit_interrupted)
    with pytest.raises(KeyboardInterrupt):
        launcher.launch(_SPEC)
    [outcome] = outcomes
    assert outcome.exception(30) is None
    assert eventually(lambda: _is_gone(outcome.result().pid))


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt
