"""A standing host as an operator has it: real processes, the real socket, the real commands."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from blackhole_core.cli.exits import Exit
from blackhole_core.cli.main import main
from tests.plugins.build import NOTES_API, install_plugin, plugin_dir, plugin_wheel

#: Seconds within which something that must happen has happened, also on a busy machine.
SOON = 30.0

CONFIG = """
project: notes
specs: ["notes_api:NotesSpecs"]
state_dir: state
telemetry: {}
plugins:
  counter: {isolation: process}
  upper: {isolation: thread}
  faulty: {isolation: process, enabled: false, hang_grace: 0.1}
"""


def until(condition: Callable[[], Any], what: str) -> Any:
    """Return what ``condition`` returns as soon as that is true."""
    deadline = time.monotonic() + SOON
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not happen in time: {what}"
        time.sleep(0.01)
    return value


#: Commands that only talk to a host.
CLIENTS = frozenset({"ps", "call", "load", "unload", "swap", "rollback", "reload", "state", "logs", "stop"})


class Place:
    """A directory with plugins and a configuration, in which commands are run."""

    def __init__(self, root: Path) -> None:
        self.here = root / "here"
        self.wheels = root / "wheels"
        runtime = root / "run"
        runtime.mkdir(0o700)
        self.here.mkdir()
        site = root / "site"
        for name in ("counter", "upper", "faulty"):
            install_plugin(name, "1.0.0", site)
        _declare_notes_api(site)
        plugin_wheel("counter", "2.0.0", self.wheels)
        plugin_wheel("counter", "2.1.0", root / "bad")
        self.bad = root / "bad"
        self.socket = runtime / "blackhole" / "notes.sock"
        (self.here / "blackhole.yaml").write_text(CONFIG)
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(site), str(NOTES_API), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "XDG_RUNTIME_DIR": str(runtime),
            "TMPDIR": tempfile.gettempdir(),
        }
        self.environment.pop("BLACKHOLE_SOCKET", None)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "blackhole_core.cli", *words],
            cwd=self.here,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, code: Exit = Exit.OK) -> str:
        """Run a command, check its exit code and return what it wrote: its output, or its error when it failed.

        A client of the socket runs in this process, which takes a tenth of the time of a new one; what is a host or looks at what is installed does not.
        """
        returned, output, error = self._run_here(words) if words[0] in CLIENTS else self._run_apart(words)
        assert returned == code, f"{words}: {returned}\n{output}\n{error}"
        assert "Traceback" not in error
        return output if code == Exit.OK else error

    def _run_here(self, words: tuple[str, ...]) -> tuple[int, str, str]:
        environment = {name: self.environment.get(name) for name in ("XDG_RUNTIME_DIR", "BLACKHOLE_SOCKET")}
        with contextlib.chdir(self.here):
            result = CliRunner(env=environment).invoke(main, words)
        return result.exit_code, result.stdout, result.stderr

    def _run_apart(self, words: tuple[str, ...]) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "blackhole_core.cli", *words],
            cwd=self.here,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SOON,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def version_of_counter(self) -> str:
        """Return the version that the counter's code believes to be; the last answer, as it was loaded first."""
        version: str = self.json("call", "version")[-1]
        return version

    @contextlib.contextmanager
    def host(self, *words: str) -> Iterator[Host]:
        """A running host that has loaded its plugins."""
        with self.output_of(*(words or ("run",)), "--json") as host:
            host.wait_for("host.ready")
            yield host

    @contextlib.contextmanager
    def output_of(self, *words: str) -> Iterator[Host]:
        """A command whose output is read as it comes."""
        host = Host(self.start(*words))
        try:
            yield host
        finally:
            host.close()


class Host:
    """A host's process, and the lines that it printed. One thread reads them; it ends with the output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def line_with(self, text: str) -> str:
        """Return the next line that has ``text`` in it."""
        deadline = time.monotonic() + SOON
        seen = ""
        while line := self._next(deadline, seen, text):
            seen += line
            if text in line:
                return line
        assert self.process.stderr is not None
        pytest.fail(f"the output ended before {text!r}:\n{seen}\n{self.process.stderr.read()}")

    def _next(self, deadline: float, seen: str, text: str) -> str:
        try:
            return self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            pytest.fail(f"{text!r} did not come in time, but:\n{seen}")

    def wait_for(self, name: str) -> dict[str, Any]:
        """Return the next event of that name, of a host that prints JSON."""
        record: dict[str, Any] = json.loads(self.line_with(f'"name": "{name}"'))
        return record

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(SOON)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SOON)
        self._reader.join(SOON)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def _declare_notes_api(site: Path) -> None:
    """Make the API of the tests' host known as an installed distribution: some plugins require it."""
    info = site / "notes_api-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: notes-api\nVersion: 1.0.0\n")
    (info / "RECORD").write_text("")


@pytest.fixture
def place(require_level: Callable[[str], object]) -> Iterator[Place]:
    require_level("process")
    with tempfile.TemporaryDirectory(prefix="h") as folder:  # short, because a socket lies in it
        yield Place(Path(folder))


@pytest.fixture(scope="module")
def shared_place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="h") as folder:
        yield Place(Path(folder))


@pytest.fixture(scope="module")
def shared_host(shared_place: Place) -> Iterator[Host]:
    """One host for the tests that leave it as they found it."""
    with shared_place.host() as host:
        yield host


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def worker_of(place: Place, name: str) -> int:
    pid: int = next(plugin["pid"] for plugin in place.json("ps") if plugin["name"] == name)
    return pid


# --- against a host that runs -------------------------------------------------------------------------------------------


def test_ps_lists_the_plugins(shared_place: Place, shared_host: Host) -> None:
    """Each plugin with level, phase and worker; plugins that are switched off are not there."""
    plugins = {plugin["name"]: plugin for plugin in shared_place.json("ps")}
    assert set(plugins) == {"counter", "upper"}
    assert (plugins["counter"]["isolation"], plugins["counter"]["phase"]) == ("process", "running")
    assert alive(plugins["counter"]["pid"])
    assert plugins["upper"]["pid"] is None
    _, output, _ = shared_place._run_apart(("ps",))
    table = output.splitlines()
    assert table[0].split()[:5] == ["NAME", "VERSION", "PHASE", "LEVEL", "GEN"]
    assert len(table) == 3


def test_ps_shows_usage_and_limits_again_and_again(shared_place: Place, shared_host: Host) -> None:
    """One look per line with --json; what is not known is null, and there is no limit where none was named."""
    with shared_place.output_of("ps", "--watch", "--interval", "0.5", "--json") as follower:
        looks = [json.loads(follower.line_with("")) for _ in range(2)]
        assert follower.end(signal.SIGINT) == Exit.INTERRUPTED
    for look in looks:
        plugins = {plugin["name"]: plugin for plugin in look}
        assert plugins["counter"]["usage"]["memory"] > 0
        assert plugins["counter"]["usage"]["pids"] >= plugins["counter"]["usage"]["threads"] > 0
        assert plugins["counter"]["limits"] == dict.fromkeys(("cpu", "memory", "disk", "network", "pids"))
        assert set(plugins["upper"]["usage"].values()) == {None}


def test_ps_shows_calls_that_are_counted(shared_place: Place, shared_host: Host) -> None:
    """Number, failures and percentiles of each plugin; JSON has them by hook."""
    shared_place.run("call", "transform", "text=hi")
    calls = {plugin["name"]: plugin["calls"] for plugin in shared_place.json("ps")}
    assert calls["upper"]["count"] >= calls["upper"]["hooks"]["transform"]["count"] >= 1
    assert 0 < calls["upper"]["hooks"]["transform"]["p50"] <= calls["upper"]["max"]
    table = shared_place.run("ps").splitlines()
    assert table[0].split()[-5:] == ["CALLS", "ERRORS", "P50", "P99", "SOURCE"]
    [upper] = [line for line in table if line.startswith("upper ")]
    assert re.search(r" \d+ +0 +[\d.]+ (µs|ms|s) +[\d.]+ (µs|ms|s) ", upper)


def test_calls_are_typed_by_the_spec(shared_place: Place, shared_host: Host) -> None:
    """Arguments become what the spec wants; answers are lines, or one JSON document."""
    assert shared_place.run("call", "transform", "text=3") == "3\n"
    assert shared_place.run("call", "transform", 'text="quoted"') == "QUOTED\n"
    assert shared_place.json("call", "transform", "text=hi") == ["HI"]
    assert "amount: Expected `int`, got `str`" in shared_place.run("call", "add", "amount=x", code=Exit.FAILED)
    assert "amount is missing" in shared_place.run("call", "add", code=Exit.FAILED)
    assert "has no hook 'nope'; it has add," in shared_place.run("call", "nope", code=Exit.FAILED)


def test_a_plugin_without_a_handler_says_so(shared_place: Place, shared_host: Host) -> None:
    """``call --plugin`` reaches the plugin; the answer to what it cannot do is a sentence."""
    assert "implements no plugin_handle" in shared_place.run("call", "--plugin", "upper", code=Exit.FAILED)
    assert "there is no plugin named 'uper'; known:" in shared_place.run("call", "--plugin", "uper", code=Exit.FAILED)


def test_a_swap_that_fails_leaves_the_old_version(shared_place: Place, shared_host: Host) -> None:
    """The sentence names the phase, the code is 1, and the old version serves."""
    error = shared_place.run("swap", "counter", "--source", str(shared_place.bad), code=Exit.FAILED)
    assert "failed in phase 'import', the old version serves on" in error
    assert shared_place.version_of_counter() == "1.0.0"


def test_swap_and_rollback_carry_the_state(shared_place: Place, shared_host: Host) -> None:
    """Count, swap, count, roll back: nothing is forgotten, and every snapshot is listed."""
    before = shared_place.json("call", "add", "amount=3")[0]
    report = shared_place.json("swap", "counter", "2.0.0", "--source", "../wheels")
    assert (report["ok"], report["from_version"], report["to_version"]) == (True, "1.0.0", "2.0.0")
    assert shared_place.json("call", "add", "amount=2") == [before + 2]
    assert shared_place.version_of_counter() == "2.0.0"
    assert "2.0.0 → 1.0.0" in shared_place.run("rollback", "counter")
    assert shared_place.json("call", "total") == [before + 2]
    snapshots = shared_place.json("state", "list", "counter")
    assert {snapshot["plugin_version"] for snapshot in snapshots} == {"1.0.0", "2.0.0"}
    assert [snapshot["id"] for snapshot in snapshots] == sorted((snapshot["id"] for snapshot in snapshots), reverse=True)
    assert len(shared_place.run("state", "list", "counter").splitlines()) == len(snapshots) + 1


def test_state_goes_out_and_in_by_file(shared_place: Place, shared_host: Host) -> None:
    """A state that was exported can be given back, also by a relative path; a foreign file is refused."""
    total = shared_place.json("call", "total")[0]
    done = shared_place.json("state", "export", "counter", "saved.state")
    assert done["file"] == str(shared_place.here / "saved.state")
    shared_place.run("call", "add", "amount=100")
    assert "counter has the state that 1.0.0 had" in shared_place.run("state", "import", "counter", "saved.state")
    assert shared_place.json("call", "total") == [total]
    (shared_place.here / "foreign").write_bytes(b"no snapshot")
    assert "is not usable" in shared_place.run("state", "import", "counter", "foreign", code=Exit.FAILED)
    assert "has no state" in shared_place.run("state", "export", "upper", "x", code=Exit.FAILED)


def test_load_and_unload(shared_place: Place, shared_host: Host) -> None:
    """A plugin that was not loaded is brought in at the level asked for, and taken out again."""
    assert shared_place.run("load", "faulty", "--isolation", "process") == "faulty 1.0.0 is running at level process\n"
    assert shared_place.json("call", "fail", "kind=none") == ["well"]
    assert shared_place.run("unload", "faulty") == "faulty is unloaded\n"
    assert "faulty" not in {plugin["name"] for plugin in shared_place.json("ps") if plugin["phase"] == "running"}


def test_info_tells_how_a_plugin_fares(shared_place: Place, shared_host: Host) -> None:
    """With a running host the live data is there, too."""
    assert shared_place.json("info", "counter")["running"]["phase"] == "running"


def test_logs_are_kept_and_followed(shared_place: Place, shared_host: Host) -> None:
    """What happened is there to read, of one plugin if it is named; -f goes on with what comes."""
    records = shared_place.json("logs", "upper")
    assert {record["plugin"] for record in records} == {"upper"}
    assert "plugin.loaded" in {record.get("name") for record in records}
    assert len(shared_place.run("logs", "-n", "3").splitlines()) == 3
    with shared_place.output_of("logs", "-f", "-n", "1", "counter", "--json") as follower:
        assert json.loads(follower.line_with(""))["plugin"] == "counter"
        shared_place.run("swap", "counter", "2.0.0", "--source", "../wheels")
        follower.wait_for("swap.done")
        shared_place.run("rollback", "counter")
        assert follower.end(signal.SIGINT) == Exit.INTERRUPTED


def test_a_second_host_is_refused(shared_place: Place, shared_host: Host) -> None:
    """One host per project: the second says who runs, and the first is not disturbed."""
    error = shared_place.run("run", code=Exit.FAILED)
    assert f"a host is running at {shared_place.socket} already (process {shared_host.process.pid})" in error
    assert shared_place.json("ps")


def test_garbage_on_the_socket_disturbs_nobody(shared_place: Place, shared_host: Host) -> None:
    """A client that sends nonsense gets an error, and calls go on."""
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x05hello", b"\xff" * 10_000):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SOON)
            sock.connect(str(shared_place.socket))
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                assert b"ProtocolError" in sock.recv(65536)
    assert shared_place.json("call", "transform", "text=hi") == ["HI"]


def test_the_host_is_found_from_elsewhere(shared_place: Place, shared_host: Host) -> None:
    """Without a blackhole.yaml here the only host that runs is meant; --project and --socket name one."""
    here, shared_place.here = shared_place.here, shared_place.wheels
    try:
        assert shared_place.json("ps")
        assert shared_place.json("ps", "--project", "Notes")
        assert shared_place.json("ps", "--socket", str(shared_place.socket))
        assert "no host is running at" in shared_place.run("ps", "--project", "other", code=Exit.NO_HOST)
    finally:
        shared_place.here = here


def test_plugin_names_are_completed(shared_place: Place, shared_host: Host) -> None:
    """Tab after ``blackhole swap c`` gives the names of the running host."""
    environment = {**shared_place.environment, "_BLACKHOLE_COMPLETE": "bash_complete", "COMP_WORDS": "blackhole swap co", "COMP_CWORD": "2"}
    program = "from blackhole_core.cli.main import main; main(prog_name='blackhole')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=shared_place.here, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "plain,counter\n"


# --- beginning and end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_an_orderly_end(number: signal.Signals, place: Place) -> None:
    """SIGTERM and Ctrl-C: the plugins are taken out, code 0, the worker has ended, no socket is left."""
    with place.host() as host:
        worker = worker_of(place, "counter")
        host.process.send_signal(number)
        host.wait_for("host.stopping")
        assert {host.wait_for("plugin.unloaded")["plugin"] for _ in range(2)} == {"counter", "upper"}
        assert host.process.wait(SOON) == 0
        assert not alive(worker)
        assert list(place.socket.parent.iterdir()) == []


def test_stop_waits_until_the_host_has_ended(place: Place) -> None:
    """After ``blackhole stop`` host and worker are gone, and the next one can begin at once."""
    with place.host() as host:
        worker = worker_of(place, "counter")
        assert place.run("stop") == f"the host (process {host.process.pid}) has ended\n"
        assert host.process.wait(0.5) == 0
        assert not alive(worker)
    with place.host():
        place.run("stop")


def test_a_killed_host_leaves_no_worker_and_no_obstacle(place: Place) -> None:
    """F-16: after SIGKILL of the host its workers end by themselves, and a new host takes its stale socket over."""
    with place.host() as host:
        worker = worker_of(place, "counter")
        place.run("call", "add", "amount=1")
        assert host.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not alive(worker), "the worker ended")
    assert place.socket.is_socket()
    assert "no host is running" in place.run("ps", code=Exit.NO_HOST)
    with place.host():
        assert alive(worker_of(place, "counter"))
        place.run("stop")


def test_the_host_outlives_a_worker_that_dies(place: Place) -> None:
    """F-01: a worker that is killed is restarted, ps shows it, the caller gets the reason."""
    with place.host() as host:
        place.run("load", "faulty")
        error = place.run("call", "fail", "kind=sigkill_self", code=Exit.FAILED)
        assert "was killed by SIGKILL during hook 'fail' (executed: unknown)" in error
        host.wait_for("worker.restarted")
        assert place.json("call", "fail", "kind=none") == ["well"]
        assert next(plugin["restarts"] for plugin in place.json("ps") if plugin["name"] == "faulty") == 1
        assert host.end(signal.SIGTERM) == 0


def test_a_call_that_hangs_has_a_deadline_and_does_not_hold_up_the_end(place: Place) -> None:
    """``--timeout`` bounds the call; the host can be stopped while it still hangs."""
    with place.host() as host:
        place.run("load", "faulty")
        assert "gave no answer within" in place.run("call", "fail", "kind=hang", "--timeout", "0.5", code=Exit.FAILED)
        assert "HI" in place.json("call", "transform", "text=hi")
        assert host.end(signal.SIGTERM) == 0


def test_the_second_signal_ends_at_once(place: Place) -> None:
    """A plugin that holds up the orderly end does not hold up the second Ctrl-C; its worker ends, too."""
    (place.here / "blackhole.yaml").write_text(CONFIG.replace("enabled: false", "stop_grace: 600, drain_timeout: 600"))
    with place.host() as host:
        worker = worker_of(place, "faulty")
        caller = place.start("call", "fail", "kind=ignore_sigterm", "--timeout", "600")
        until(lambda: _busy(worker), "the call has begun")
        host.process.send_signal(signal.SIGINT)
        host.wait_for("host.stopping")
        assert host.end(signal.SIGINT) == Exit.INTERRUPTED
        until(lambda: not alive(worker), "the worker ended")
        caller.communicate(timeout=SOON)
        assert caller.returncode == Exit.NO_HOST


def _busy(worker: int) -> bool:
    """Tell whether the worker ignores SIGTERM by now, which its hook does first."""
    status = Path(f"/proc/{worker}/status").read_text()
    ignored = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(ignored >> (signal.SIGTERM - 1) & 1)


def test_one_bad_plugin_does_not_stop_the_host(place: Place) -> None:
    """A plugin that cannot be loaded is reported and listed as failed; the others serve."""
    plugin_dir("raises_at_import", "1.0.0", place.here)
    (place.here / "blackhole.yaml").write_text(CONFIG + "sources: [raises_at_import-1.0.0]\n")
    with place.output_of("run", "--json") as host:
        ready = host.wait_for("host.ready")["data"]
        assert set(ready["loaded"]) == {"counter", "upper"}
        assert "raises_at_import" in ready["failed"]
        failed = next(plugin for plugin in place.json("ps") if plugin["name"] == "raises_at_import")
        assert failed["phase"] == "failed"
        assert "RuntimeError" in failed["last_error"]
        assert "raises_at_import: " in place.run("ps")
        assert host.end(signal.SIGTERM) == 0


def test_safe_mode_loads_nothing(place: Place) -> None:
    """``--safe-mode`` brings the host up without plugins, so that a bad one can be dealt with."""
    with place.host("run", "--safe-mode") as host:
        assert place.json("ps") == []
        assert host.end(signal.SIGTERM) == 0


def test_specs_that_cannot_be_used_end_the_start(place: Place) -> None:
    """A host whose specs are missing does not begin: the sentence names them."""
    (place.here / "blackhole.yaml").write_text('project: notes\nspecs: ["notes_api:Nope"]\n')
    assert "the hook specs 'notes_api:Nope' that the configuration names cannot be used: AttributeError" in place.run(
        "run", code=Exit.FAILED
    )
    assert list(place.socket.parent.iterdir()) == []


def test_a_broken_configuration_ends_the_start(place: Place) -> None:
    """Every problem of blackhole.yaml is printed."""
    (place.here / "blackhole.yaml").write_text("project: notes\nstate_dri: x\ndefault_isolation: moon\n")
    error = place.run("run", code=Exit.FAILED)
    assert "blackhole.yaml:2: state_dri" in error
    assert "blackhole.yaml:3: default_isolation" in error


def test_the_host_goes_on_when_nobody_reads_its_output(place: Place) -> None:
    """A closed pipe at the host's output costs the output and nothing else."""
    process = place.start("run", "--json")
    try:
        until(lambda: '"host.ready"' in place._run_here(("logs", "--json"))[1], "all is loaded")
        assert process.stdout is not None
        process.stdout.close()
        for _ in range(3):
            place.run("swap", "counter", "--source", "../wheels")
            place.run("rollback", "counter")
        assert place.json("call", "transform", "text=hi") == ["HI"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 0
    finally:
        process.kill()
        process.wait(SOON)
        assert process.stderr is not None
        process.stderr.close()


# --- developing ---------------------------------------------------------------------------------------------------------


def test_watch_reloads_what_is_saved(place: Place) -> None:
    """A save is served with the state; a broken one is reported with its traceback and the old code serves; a good one recovers."""
    tree = plugin_dir("counter", "1.0.0", place.here)
    (place.here / "blackhole.yaml").write_text(
        f'project: notes\nspecs: ["notes_api:NotesSpecs"]\nallow: [counter]\nsources: [{tree.name}]\nplugins: {{counter: {{isolation: thread, source: {tree.name}}}}}\n'
    )
    file = tree / "notes_counter" / "__init__.py"
    good = file.read_text()
    with place.host("watch") as host:
        place.run("call", "add", "amount=5")
        file.write_text(good.replace('return "1.0.0"', 'return "edited"'))
        done = host.wait_for("reload.done")["data"]
        assert done["files"] == ["__init__.py"]
        assert done["report"]["state_bytes"] > 0
        assert (place.json("call", "version"), place.json("call", "total")) == (["edited"], [5])
        file.write_text(good + "\nraise RuntimeError('half done')\n")
        failed = host.wait_for("reload.failed")["data"]
        assert "RuntimeError: half done" in failed["traceback"]
        assert place.json("call", "version") == ["edited"]
        file.write_text(good)
        host.wait_for("reload.done")
        assert (place.json("call", "version"), place.json("call", "total")) == (["1.0.0"], [5])
        assert host.end(signal.SIGINT) == 0


def test_watch_brings_in_a_plugin_that_was_broken_at_the_start(place: Place) -> None:
    """A plugin that cannot be loaded when development begins is loaded by the save that mends it."""
    tree = plugin_dir("upper", "1.0.0", place.here)
    (place.here / "blackhole.yaml").write_text(
        f'project: notes\nspecs: ["notes_api:NotesSpecs"]\nallow: [upper]\nplugins: {{upper: {{source: {tree.name}}}}}\n'
    )
    file = tree / "notes_upper" / "__init__.py"
    good = file.read_text()
    file.write_text("raise RuntimeError('not yet')\n")
    with place.host("watch") as host:
        assert place.json("ps")[0]["phase"] == "failed"
        file.write_text(good)
        host.wait_for("plugin.loaded")
        assert place.json("call", "transform", "text=hi") == ["HI"]
        assert host.end(signal.SIGTERM) == 0


def test_watch_for_people_frames_the_traceback(place: Place) -> None:
    """Without --json a reload is one line, and a failure a framed traceback."""
    tree = plugin_dir("upper", "1.0.0", place.here)
    (place.here / "blackhole.yaml").write_text(
        f'project: notes\nspecs: ["notes_api:NotesSpecs"]\nallow: [upper]\nplugins: {{upper: {{source: {tree.name}}}}}\n'
    )
    file = tree / "notes_upper" / "__init__.py"
    good = file.read_text()
    with place.output_of("watch", "upper") as host:
        host.line_with("project notes: upper loaded, save a file to reload")
        file.write_text(good.replace("text.upper()", "text.lower()"))
        line = host.line_with("upper: __init__.py changed → 1.0.0")
        assert "generation 2" in line
        assert "no state to carry" in line
        file.write_text(good.replace("class Upper", "raise RuntimeError('half done')\nclass Upper"))
        host.line_with("upper does not work")
        host.line_with("RuntimeError: half done")
        assert host.end(signal.SIGTERM) == 0
