"""A standing host as an operator has it, for tests: real processes, the real socket, the real commands."""

from __future__ import annotations

import contextlib
import json
import os
import queue
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
from tests.plugins.build import NOTES_API, install_plugin, plugin_wheel

__all__ = ["CONFIG", "SOON", "Host", "Place", "alive", "until", "worker_of"]

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


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def worker_of(place: Place, name: str) -> int:
    pid: int = next(plugin["pid"] for plugin in place.json("ps") if plugin["name"] == name)
    return pid
