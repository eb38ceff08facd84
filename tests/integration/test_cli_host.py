"""What is asked of a host that runs, as an operator does: by the real commands, over the real socket."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackhole_core.cli.exits import Exit
from tests.integration.cli_place import SOON, Host, Place, alive


@pytest.fixture(scope="module")
def shared_place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="h") as folder:
        yield Place(Path(folder))


@pytest.fixture(scope="module")
def shared_host(shared_place: Place) -> Iterator[Host]:
    """One host for the tests that leave it as they found it."""
    with shared_place.host() as host:
        yield host


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


#: Connects to the socket in its argument as another user, and says what it is told.
STRANGER = """
import os, socket, sys
os.chdir(os.path.dirname(sys.argv[1]))  # who may search what lies above is not the question
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as sock:
    try:
        sock.connect(os.path.basename(sys.argv[1]))
        sock.sendall(bytes(64))
        print("connected and got", sock.recv(100))
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_refused(shared_place: Place, shared_host: Host) -> None:
    """H-09: another user does not get into the socket's directory; where somebody opened that, he is cut off before a byte is read, and the host goes on."""
    directory = shared_place.socket.parent
    assert [path.stat().st_mode & 0o777 for path in (directory, shared_place.socket)] == [0o700, 0o600]

    def connect() -> str:
        command = [sys.executable, "-c", STRANGER, str(shared_place.socket)]
        return subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=True).stdout.strip()

    try:
        shared_place.socket.chmod(0o666)
        assert connect() == "PermissionError"
        directory.chmod(0o711)
        assert connect() in ("connected and got b''", "ConnectionResetError", "BrokenPipeError")
    finally:
        directory.chmod(0o700)
        shared_place.socket.chmod(0o600)
    assert shared_place.json("ps")


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
