"""What may happen to a host, and what it must neither lose nor leave: hosts as programs of their own, looked at from outside."""

from __future__ import annotations

import ast
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import blackhole_core as bh
from tests.integration.host_programs import PRELUDE, ROOT, SOON, Place
from tests.integration.managed import Log, manager, wheel
from tests.plugins.build import plugin_dir
from tests.stage import Stage, eventually, in_threads


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _shared() -> set[str]:
    """Return what lies in shared memory and begins as all of ours does; the rest belongs to others on this machine."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("blackhole")}


# --- the end of a host -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["none", "process"])
def test_a_killed_host_leaves_nothing_in_the_end(level: str, place: Place) -> None:
    """F11: processes end at once; temporary files of host, workers and plugins are gone when the next host has made its first, and no shared memory is left."""
    shared = _shared()
    with place.start(f"pm = begin({level!r}); load(pm); say(*pm.hook.version()); time.sleep(100)") as host:
        assert host.stdout is not None
        pids = [int(word) for word in host.stdout.readline().split()]
        assert len(pids) == 2
        assert place.left()
        host.kill()
    if level == "process":  # at level none the plugin's child is nobody's
        assert eventually(lambda: all(map(_is_gone, pids)), SOON)
    else:
        os.kill(pids[1], signal.SIGKILL)
    assert eventually(lambda: _shared() <= shared)  # what neighbours have there under our names does not stay
    assert len(place.left()) <= 2  # the host's, and at level none what the plugin made past its context
    done = place.run("pm = begin(); load(pm); pm.close(); say('well')")
    assert done.stdout == "well\n", done.stderr
    assert [name for name in place.left() if name.startswith("blackhole")] == []


def test_temporary_files_of_a_worker_end_with_it(place: Place) -> None:
    """F11: what a worker makes where temporary files go is gone when it has died, though its host lives on."""
    program = """
pm = begin()
load(pm)
[words] = pm.hook.version()
[directory] = pm.hook.transform(text="")
assert os.path.dirname(os.path.dirname(directory)) == os.environ["TMPDIR"], directory
assert len(os.listdir(directory)) == 2, os.listdir(directory)
restarted = threading.Event()
pm.on_event(lambda event: event.name == "worker.restarted" and restarted.set())
os.kill(int(words.split()[0]), signal.SIGKILL)
assert restarted.wait(20)
while os.path.exists(directory):
    time.sleep(0.01)
say(*pm.hook.transform(text=""))
pm.close()
"""
    done = place.run(program)
    assert done.returncode == 0, done.stderr
    assert place.left() == []


def test_an_interpreter_that_ends_with_living_workers(place: Place) -> None:
    """Without close() the end of the program is an orderly stop all the same, and says that it was forgotten."""
    done = place.run("pm = begin(); load(pm); say(*pm.hook.version())")
    assert done.returncode == 0, done.stderr
    assert place.mark.read_text() == "stopped\n"
    assert "was not closed: use `with`, or call close()" in done.stderr
    assert all(map(_is_gone, map(int, done.stdout.split())))
    assert place.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_is_one_orderly_stop(number: signal.Signals, place: Place) -> None:
    """F15: Ctrl-C in the terminal reaches the host alone; its workers are stopped by it, once, and plugin_stop runs."""
    program = """
import contextlib
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with contextlib.suppress(KeyboardInterrupt), begin() as pm:
    load(pm)
    say(*pm.hook.version())
    threading.Event().wait(100)
"""
    with place.start(program) as host:
        assert host.stdout is not None
        assert host.stderr is not None
        pids = [int(word) for word in host.stdout.readline().split()]
        os.killpg(host.pid, number)
        assert host.wait(SOON) == 0, host.stderr.read()
        assert "Traceback" not in host.stderr.read()
    assert place.mark.read_text() == "stopped\n"
    assert eventually(lambda: all(map(_is_gone, pids)))
    assert place.left() == []


def test_sigterm_while_swapping(place: Place, tmp_path: Path) -> None:
    """F16: the host that is told to end amid swaps ends orderly, with one whole version's state on disk, and leaves nothing."""
    old, new = wheel("counter", "1.0.0", tmp_path / "wheels"), wheel("counter", "2.0.0", tmp_path / "wheels")
    program = f"""
told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())
pm = begin(state_dir={str(tmp_path / "state")!r})
pm.load("counter", source={str(old)!r}, isolation="process")
pm.hook.add(amount=5)
def swap():
    for source in [{str(new)!r}, {str(old)!r}] * 1000:
        try:
            pm.swap("counter", source=source)
        except (bh.BlackholeError, RuntimeError):
            return
thread = threading.Thread(target=swap)
thread.start()
pm.on_event(lambda event: event.data.get("phase") == "export" and say("swapping"))
told.wait(100)
pm.close()
thread.join(20)
assert not thread.is_alive()
"""
    with place.start(program) as host:
        assert host.stdout is not None
        assert host.stderr is not None
        assert host.stdout.readline() == "swapping\n"
        host.terminate()
        _, error = host.communicate(timeout=SOON)
        assert host.returncode == 0, error
    assert place.left() == []
    log = Log()
    with manager(state_dir=tmp_path / "state", log=log) as pm:
        pm.load("counter", source=new, isolation="none")
        assert pm.restore_all().ok
        assert pm.hook.total() == [5]
        assert log.of("state.damaged") == []
    assert not list((tmp_path / "state").rglob("*.tmp"))


# --- what the host's own code does -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)", "os.execv(sys.executable, [sys.executable, '-c', ''])"])
def test_code_of_the_host_that_forks(end: str, place: Place) -> None:
    """A fork while workers run, however it ends, ends no worker, answers no call and removes no file of the host's."""
    program = f"""
with begin() as pm:
    load(pm)
    before = pm.hook.version()
    child = os.fork()
    if not child:
        {end}
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    assert pm.hook.version() == before
    assert os.path.isdir(pm.hook.transform(text="")[0])
    pm.unload("temporary")
    load(pm)
    assert pm.hook.version() != before
say("well")
"""
    done = place.run(program)
    assert done.stdout == "well\n", done.stderr
    assert done.returncode == 0, done.stderr
    assert place.mark.read_text() == "stopped\n" * 2
    assert place.left() == []


def test_code_of_the_host_that_reaps_every_child(place: Place) -> None:
    """F26: with a thread that takes every exit status there is, starts, swaps, deaths and the end go on; nothing is left a zombie."""
    program = """
ended = threading.Event()
def reap():
    while not ended.is_set():
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.0005)
        except ChildProcessError:
            time.sleep(0.0005)
thread = threading.Thread(target=reap, daemon=True)
thread.start()
with begin() as pm:
    restarted = threading.Event()
    pm.on_event(lambda event: event.name == "worker.restarted" and restarted.set())
    load(pm)
    for _ in range(5):
        pm.unload("temporary")
        load(pm)
        pm.hook.version()
    os.kill(pm.plugin("temporary").pid, signal.SIGKILL)
    assert restarted.wait(20)
    pm.hook.version()
ended.set()
thread.join()
assert not open("/proc/self/task/%d/children" % os.getpid()).read()
say("well")
"""
    done = place.run(program)
    assert done.stdout == "well\n", done.stderr
    assert place.left() == []


@pytest.mark.parametrize("closed", [(0, 1, 2), (1, 2), (0,)])
def test_a_host_without_standard_streams(closed: tuple[int, ...], place: Place) -> None:
    """F45: a daemon that closed them: new descriptors get their numbers, and still reach the right hands; output of plugins goes nowhere and harms nobody."""
    program = """
import logging
logging.basicConfig(level=logging.INFO)
with begin() as pm:
    load(pm)
    said = pm.hook.version()
    pm.unload("temporary")
    load(pm)
    pm.hook.version()
open(os.environ["MARK"], "a").write("well\\n")
"""
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + program],
        env=place.environment,
        cwd=place.root,
        preexec_fn=lambda: [os.close(descriptor) for descriptor in closed],  # noqa: PLW1509 - this very thing is tested
    ) as host:
        assert host.wait(SOON) == 0
    assert place.mark.read_text() == "stopped\nstopped\nwell\n"
    assert place.left() == []


def test_only_facts_of_the_calendar_come_from_the_wall_clock() -> None:
    """F24: no deadline, back-off or age that something depends on is counted by a clock that can jump: each use of it is known here, and why."""
    known = {
        "blackhole_core/assembly.py",  # when a snapshot was made, for people
        "blackhole_core/cli/control/records.py",  # the time of a record, for people
        "blackhole_core/cli/standing.py",  # since when the host runs, for people
        "blackhole_core/executor/launch/vm.py",  # what a resumed guest sets its clock to
        "blackhole_core/lifecycle/carrying.py",  # how old a snapshot of another boot is, shown and never below 0
        "blackhole_core/lifecycle/permits.py",  # when something was granted, for people
        "blackhole_core/loader/contents.py",  # compared with the times of files, which come from that clock
        "blackhole_core/loader/watch.py",  # likewise; what follows is bounded by the monotonic clock
        "blackhole_core/manager.py",  # the time of an event, for people
        "blackhole_core/registry/distributions.py",  # compared with the times of files
        "blackhole_core/registry/indexfile.py",  # an unfinished file of an hour ago: written at once, so that a jump costs nothing
        "blackhole_core/state/manager.py",  # when a snapshot was made, for people
    }
    used = set()
    for path in (ROOT / "blackhole_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow"):
                used.add(path.relative_to(ROOT).as_posix())
    assert used <= known, used - known


def test_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F24: years back and forth in the middle of calls, swaps, snapshots and restarts: nothing waits, expires or is lost by it."""
    jumps = itertools.cycle((0.0, 4e9, 1.0, 2e9))
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    log = Log()
    with manager(state_dir=tmp_path / "state", log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="process")
        for _ in range(20):
            with bh.deadline(20):
                pm.hook.add(amount=1)
        pm.export_state("counter")
        assert pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path)).ok
        pid = pm.plugin("counter").pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        log.wait("worker.restarted")
        assert pm.hook.total() == [20]


# --- signals ---------------------------------------------------------------------------------------------------------


def test_signals_in_the_middle_of_messages(tmp_path: Path) -> None:
    """F22: signals interrupt host and worker a thousand times a second while messages larger than any buffer go both ways, in pieces: each arrives whole, as its own call's."""
    with manager() as pm:
        pm.load("full", source=plugin_dir("full", "1.0.0", tmp_path), isolation="process")
        pid, done = pm.plugin("full").pid, threading.Event()
        assert pid is not None

        def stop_and_go() -> None:
            while not done.wait(0.001):
                os.kill(pid, signal.SIGSTOP)
                os.kill(pid, signal.SIGCONT)

        def call(caller: int) -> None:
            for number in range(2):
                value = [caller, number, *range(600_000)]  # numbers go through the channel, not through shared memory
                assert pm.hook.raw(value=value) == [value]

        interrupted = [0]
        before = signal.signal(signal.SIGALRM, lambda *_: interrupted.__setitem__(0, interrupted[0] + 1))
        stopper = threading.Thread(target=stop_and_go)
        stopper.start()
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            assert in_threads(3, call) == [None] * 3
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            done.set()
            stopper.join()
        assert interrupted[0] > 0
        assert (pm.plugin("full").pid, pm.plugin("full").restarts) == (pid, 0)


# --- many ------------------------------------------------------------------------------------------------------------


def test_starts_and_stops_leave_nothing() -> None:
    """F41: a hundred starts and stops: descriptors, threads, children and temporary files are as before."""
    stage = Stage()
    try:
        stage.start("counter")

        def look() -> tuple[int, int, int]:
            base = Path(tempfile.gettempdir())
            mine = list(base.glob(f"blackhole-host-{os.getpid()}-*/*"))
            return len(os.listdir("/proc/self/fd")), threading.active_count(), len(mine)

        def cycle(_: int) -> None:
            runner = stage.make("full", "process")
            runner.start()
            runner.stop()
            stage._runners.remove(runner)

        cycle(0)
        before = look()
        for _ in range(25):
            in_threads(4, cycle)
        # The next worker, forked ahead, may be there or not.
        assert eventually(lambda: all(now <= then + 3 for now, then in zip(look(), before, strict=True)))
        assert look()[2] == before[2]
    finally:
        stage.close()


@pytest.mark.parametrize("start", [2**31 - 3, 2**32 - 3, 2**53 - 3, 2**63 - 3, 2**64 - 40])
@pytest.mark.parametrize("way", ["lane", "pipes"])
def test_numbers_of_requests_near_every_edge(start: int, way: str) -> None:
    """F44: a host that ran for a century counts on: numbers cross every edge of the wire's and the lane's integers."""
    stage = Stage()
    if way == "pipes":
        stage.use_fall_backs()
    try:
        counter = stage.start("counter")
        counter.remote._traffic._numbers = itertools.count(start)
        assert [counter("add", 1) for _ in range(20)] == list(range(1, 21))
    finally:
        stage.close()
