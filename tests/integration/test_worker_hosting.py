"""What a worker gets from its host, what the host hears of it, and how both end."""

from __future__ import annotations

import collections
import errno
import logging
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.errors import CallTimeout, WorkerDied
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.lane import UNAVAILABLE
from blackhole_core.executor.launch.child import LaunchSpec
from blackhole_core.executor.launch.process import ProcessLauncher
from tests.plugins.build import NOTES_API
from tests.stage import Running, Stage, eventually, in_threads

_ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["zygote", "exec"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(zygote=request.param == "zygote")
    yield stage
    stage.close()


def _texts(caplog: pytest.LogCaptureFixture, plugin: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith(f"blackhole.plugin.{plugin}")]


_LOOKING = """
import logging, os, sys, threading, time
class Plugin:
    @hookimpl
    def raw(self, value):
        return eval(value, globals())
    @hookimpl
    def transform(self, text: str) -> str:
        return text
    @hookimpl
    def slow(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"
"""


# --- what it gets ----------------------------------------------------------------------------------------------------


def test_a_worker_imports_no_part_of_the_host(stage: Stage, tmp_path: Path) -> None:
    """The worker holds the wire, the loader and the shared values of ours; nothing that manages, and nothing heavy."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _LOOKING))
    loaded = plugin("raw", "sorted(sys.modules)")
    ours = {name.removeprefix("blackhole_core.") for name in loaded if name.startswith("blackhole_core.")}
    forbidden = ("hooks", "lifecycle", "manager", "registry", "state", "cli", "config", "events", "assembly", "mesh", "web", "testing")
    assert [name for name in ours if name.split(".")[0] in forbidden] == []
    host_only = {
        "remote",
        "startup",
        "connection",
        "callbacks",
        "levels",
        "thread",
        "inline",
        "proxy",
        "binding",
        "launch",
        "output",
        "runner",
    }
    assert [name for name in ours if name.startswith("executor.") and name.split(".")[1] in host_only] == []
    assert {"executor.worker", "executor.wire.codec", "loader.universe", "messages"} <= ours
    heavy = {"asyncio", "subprocess", "importlib.metadata", "multiprocessing", "concurrent.futures", "yaml", "rich", "click", "watchfiles"}
    assert heavy & set(loaded) == set()
    assert {"statistics", "tempfile"} & set(loaded) == set()  # each would cost an executed start milliseconds


def test_the_environment_is_made_from_nothing(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H-10: the host's secrets are not there, what the operator grants is; PYTHON* variables change nothing."""
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("PYTHONINSPECT", "1")
    plugin = stage.start("adhoc", environment={"GRANTED": "yes"}, **stage.write(tmp_path, _LOOKING))
    environment = plugin("raw", "dict(os.environ)")
    assert "MY_SECRET_TOKEN" not in environment
    assert "PYTHONINSPECT" not in environment
    assert environment["GRANTED"] == "yes"
    assert environment["PATH"] == os.environ["PATH"]
    assert plugin("raw", "sys.flags.utf8_mode or sys.getfilesystemencoding()") in (1, "utf-8")


def test_a_worker_bears_its_plugin_s_name(stage: Stage) -> None:
    """``ps`` and ``top`` show which worker is whose."""
    assert Path(f"/proc/{stage.start('counter').pid}/comm").read_text("utf-8") == "bh counter\n"


def test_descriptors(stage: Stage, tmp_path: Path) -> None:
    """H-02: a worker has its three standard streams, its channel, its lane and its arena, and what it starts gets no part of them."""
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        plugin = stage.start("adhoc", **stage.write(tmp_path, _LOOKING))
    finally:
        os.close(leaked)
    targets = plugin(
        "raw", "{int(n): os.readlink('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + n)}"
    )
    assert targets[0] == "/dev/null"
    assert targets[1] == targets[2]
    kinds = collections.Counter(target.partition(":")[0] for number, target in targets.items() if number > 2)
    # Two pipes of the channel, two doors of the lane; its memory and the arena's, its event and what waits for both. The last one is the listing itself.
    assert kinds == ({"pipe": 4, "/memfd": 2, "anon_inode": 2} if UNAVAILABLE is None else {"pipe": 2})
    child = "__import__('subprocess').run(['ls', '/proc/self/fd'], capture_output=True, close_fds=False).stdout.decode().split()"
    assert len(plugin("raw", child)) <= 4


def test_stdin_is_at_its_end(stage: Stage) -> None:
    """H-02: reading stdin gives nothing, at once."""
    assert stage.start("faulty")("fail", "read_stdin") == ""


def test_a_worker_has_a_session_of_its_own(stage: Stage, tmp_path: Path) -> None:
    """F15: Ctrl-C in the host's terminal is the host's business."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _LOOKING))
    assert plugin("raw", "(os.getsid(0), os.getpgid(0))") == (plugin.pid, plugin.pid)


# --- what it says ----------------------------------------------------------------------------------------------------


def test_everything_written_is_captured(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """H-01: print, stderr, write(1) and C's puts, at import and in calls, arrive as lines under the plugin's name; the protocol is untouched."""
    caplog.set_level(logging.INFO)
    faulty = stage.start("faulty")
    talker = stage.start("prints_at_import")
    assert faulty("fail", "print") == "printed"
    assert faulty("fail", "not_text") == "written"
    assert talker("transform", "x") == "x"
    expected = ["hello from import", "from print", "from stderr", "from os.write", "from C puts", "x" * 100_000, "\\xff\\xfe not text"]
    assert eventually(lambda: set(expected) <= set(_texts(caplog, "faulty")))
    talked = [f"{how} at {when}" for when in ("import", "start", "call") for how in ("print", "stderr", "write")]
    assert eventually(lambda: _texts(caplog, "prints_at_import") == talked)
    faulty.runner.stop()
    assert eventually(lambda: "no newline" in _texts(caplog, "faulty"))


def test_records_of_the_plugin_s_own_logging(stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """H-12: a record keeps its level, logger and traceback."""
    caplog.set_level(logging.DEBUG)
    source = """
import logging
class Plugin:
    @hookimpl
    def transform(self, text: str) -> str:
        try:
            1 / 0
        except ZeroDivisionError:
            logging.getLogger("db.pool").exception("failed with \\ud800 and %s", text)
        logging.getLogger().debug("fine")
        return text
"""
    plugin = stage.start("adhoc", **stage.write(tmp_path, source))
    plugin("transform", "\x1b[2J")
    assert eventually(lambda: "fine" in _texts(caplog, "adhoc"))
    [record] = [record for record in caplog.records if record.name == "blackhole.plugin.adhoc.db.pool"]
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("failed with \\ud800 and \\x1b[2J\n  Traceback (most recent call last):\n")
    assert "ZeroDivisionError" in record.getMessage()


def test_a_flood_on_stderr_never_blocks(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """F-24, A11: 50,000 lines while the handler hangs: the plugin goes on, lines beyond the queue are counted."""
    gate = threading.Event()

    class Hanging(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.texts: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            gate.wait(30)
            self.texts.append(record.getMessage())

    handler, logger = Hanging(), logging.getLogger("blackhole.plugin.faulty")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        faulty = stage.start("faulty")
        assert faulty("fail", "flood") == "flooded"
        faulty.runner.stop()
        gate.set()
        assert eventually(lambda: any("lines were dropped" in text for text in handler.texts))
        dropped = int(handler.texts[-1].split()[0])
        assert len([text for text in handler.texts if text.startswith("flood line")]) + dropped >= 50_000
    finally:
        gate.set()
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


# --- hanging ---------------------------------------------------------------------------------------------------------


def _watch(running: Running) -> list[Ended]:
    ends: list[Ended] = []
    running.remote.watch(ends.append)
    return ends


@pytest.mark.parametrize("kind", ["spin", "hang"])
def test_a_call_that_never_ends_is_ended(stage: Stage, kind: str) -> None:
    """F-10: the caller's deadline holds; after the grace the worker is killed, the reason names the hook; the queued call goes on."""
    faulty = stage.start("faulty", hang_grace=0.3)
    ends = _watch(faulty)

    def act(number: int) -> Any:
        if number == 0:
            with bh.deadline(0.6):
                return faulty("fail", kind)
        if number == 1:
            assert eventually(lambda: not faulty.runner.drained(0))
            return faulty("transform", "queued")
        assert eventually(lambda: ends)
        return faulty.remote.restart(lambda via: None)

    hung, queued, _ = in_threads(3, act)
    assert isinstance(hung, CallTimeout)
    assert queued == "queued"
    assert ends[0].reason == "hook 'fail' ran on 0.3 s after its caller gave up"


def test_other_threads_of_the_plugin_answer_meanwhile(stage: Stage) -> None:
    """F-10: with two threads the other one goes on answering."""
    faulty = stage.start("faulty", threads=2, hang_grace=20.0, stop_grace=0.2)
    with bh.deadline(0.2), pytest.raises(CallTimeout):
        faulty("fail", "hang")
    assert faulty("transform", "x") == "x"


def test_slow_is_not_hung(stage: Stage, tmp_path: Path) -> None:
    """F-11: a call within its deadline runs as long as it likes, however short the grace of others."""
    plugin = stage.start("adhoc", hang_grace=0.05, **stage.write(tmp_path, _LOOKING))
    pid = plugin.pid
    assert plugin("slow", 0.5) == "slept"
    assert plugin.pid == pid


def test_native_code_that_keeps_the_interpreter_lock(stage: Stage, tmp_path: Path) -> None:
    """F-13: while C code of the worker holds its lock the host runs on, and a call that waits there is not taken for hung."""
    plugin = stage.start("adhoc", hang_grace=0.1, **stage.write(tmp_path, "import ctypes\n" + _LOOKING))
    other = stage.start("counter")

    def act(number: int) -> Any:
        if number == 0:
            return plugin("raw", "ctypes.PyDLL(None).usleep(700000)")
        assert eventually(lambda: not plugin.runner.drained(0))
        if number == 1:
            with bh.deadline(0.1):
                return plugin("transform", "gave up")
        return [other("add", 1) for _ in range(50)][-1]

    native, waited, counted = in_threads(3, act)
    assert (native, counted) == (0, 50)
    assert isinstance(waited, CallTimeout)


def test_sigterm_ignored(stage: Stage) -> None:
    """F-14: a worker that ignores SIGTERM is killed when its grace is over, and its caller told."""
    faulty = stage.start("faulty", stop_grace=0.5)

    def act(number: int) -> Any:
        if number == 0:
            return faulty("fail", "ignore_sigterm")
        assert eventually(lambda: not faulty.runner.drained(0))
        return faulty.runner.stop()

    error, stopped = in_threads(2, act)
    assert stopped is None
    assert isinstance(error, WorkerDied)
    assert error.exit in (-9, -15)  # -15 where it had not yet set its handler when the signal came


def test_a_stopped_worker(stage: Stage) -> None:
    """F06: SIGSTOP stops the worker and neither the caller's deadline nor the runner's stop."""
    counter = stage.start("counter", stop_grace=0.4)
    os.kill(counter.pid, signal.SIGSTOP)
    with bh.deadline(0.2), pytest.raises(CallTimeout):
        counter("add", 1)
    pid = counter.pid
    counter.runner.stop()
    assert _is_gone(pid)


# --- the host's end and troubles -------------------------------------------------------------------------------------


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("busy", ["idle", "in a call", "with its lock held"])
def test_the_host_is_killed(busy: str, tmp_path: Path) -> None:
    """F-16, F14: SIGKILL of the host ends its worker and the worker's own children, whatever they do."""
    (tmp_path / "adhoc.py").write_text(f"from notes_api import hookimpl\nimport ctypes, subprocess\n{_LOOKING}")
    program = textwrap.dedent(
        f"""
        import sys, threading
        sys.path[:0] = {[str(_ROOT), str(NOTES_API)]!r}
        from pathlib import Path
        from tests.stage import Stage
        stage = Stage()
        plugin = stage.start("adhoc", path=Path({str(tmp_path)!r}), entry="adhoc:Plugin")
        grandchild = plugin("raw", "globals().setdefault('p', subprocess.Popen(['sleep', '1000'])).pid")
        busy = {{"in a call": "time.sleep(100)", "with its lock held": "ctypes.PyDLL(None).sleep(100)"}}.get({busy!r})
        if busy:
            threading.Thread(target=plugin, args=("raw", busy), daemon=True).start()
            while plugin.runner.drained(0):
                pass
        print(plugin.pid, grandchild, flush=True)
        threading.Event().wait(100)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        pids = [int(word) for word in host.stdout.readline().split()]
        host.kill()
    assert len(pids) == 2
    assert eventually(lambda: _is_gone(pids[0]))
    assert eventually(lambda: _is_gone(pids[1]))


def test_workers_are_forked_by_a_thread_that_stays(stage: Stage) -> None:
    """F14: the kernel ends a worker with the thread that forked it, so the thread that asked may end without harm."""
    started: list[Running] = []
    thread = threading.Thread(target=lambda: started.append(stage.start("counter")))
    thread.start()
    thread.join(20)
    time.sleep(0.05)  # a signal that must not come cannot be waited for
    assert started[0]("add", 1) == 1


def test_no_descriptor_left_for_a_worker(stage: Stage) -> None:
    """F18: at the limit of open files a start fails with the system's error at whatever step it is hit, leaves nothing, and works again later."""
    stage.start("counter").runner.stop()  # what is made once per host is there
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filler = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
    top = max(filler) + 1  # below it no number is free
    before = _descriptors(stage)
    failures = 0
    try:
        for spare in range(20):
            runner = stage.make("full", "process")
            resource.setrlimit(resource.RLIMIT_NOFILE, (top + spare, hard))
            try:
                runner.start()
            except OSError as error:
                assert error.errno == errno.EMFILE  # noqa: PT017 - it need not be raised
                failures += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                runner.stop()
            assert eventually(lambda: _descriptors(stage) == before)
    finally:
        for descriptor in filler:
            os.close(descriptor)
    assert 8 <= failures < 20
    assert stage.start("full")("version") == "1.0.0"


def test_a_closed_launcher_says_so() -> None:
    """Nothing is forked after the end, and closing twice is once."""
    launcher = ProcessLauncher()
    launcher.close()
    launcher.close()
    with pytest.raises(RuntimeError, match="closed"):
        launcher.launch(LaunchSpec("x", ()))


def test_a_guard_that_was_killed_is_replaced(stage: Stage) -> None:
    """The next worker brings a new guard, which knows the older workers as well."""
    first = stage.start("counter")
    guard = stage.launcher._guard._process.pid  # type: ignore[union-attr]  # there is one
    os.kill(guard, signal.SIGKILL)
    assert eventually(lambda: _is_gone(guard))
    second = stage.start("full")
    assert eventually(lambda: stage.launcher._guard._process.pid != guard)  # type: ignore[union-attr] # when the next worker is forked ahead
    assert (first("add", 1), second("version")) == (1, "1.0.0")


def _descriptors(stage: Stage) -> int:
    """Count the open ones, without those of a worker that is, or is just being, forked ahead."""
    nursery = stage.launcher._nursery
    ahead = 2 * (nursery._spare is not None) + (nursery._zygote is not None and nursery._zygote.begun is not None)
    return len(os.listdir("/proc/self/fd")) - ahead
