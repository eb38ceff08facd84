"""The README's example works as a newcomer runs it: paste the files, ``python host.py``, edit, kill, Ctrl-C."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blackhole_core.executor.limits.processes import family
from tests.docs.blocks import find_blocks, write_files
from tests.levels import require_level

README = Path(__file__).parents[2] / "README.md"

#: Seconds; a worker and a swap on a busy machine take two.
PATIENCE = 40


class Host:
    """``python host.py``, started by somebody who watches its output."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "host.py"],
            cwd=directory,
            env={**os.environ, "PYTHONWARNINGS": "error"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.seen: list[str] = []

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the match of the next line that is ``pattern``."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                pytest.fail("\n".join(["no line was", pattern, "among", *self.seen]), pytrace=False)
            self.seen.append(line)
            if found := re.fullmatch(pattern, line):
                return found

    def worker(self) -> int:
        """Return the pid of its one worker."""
        below = family(self._process.pid)  # behind walls it is a child of its keeper
        [worker] = [pid for pid in below if Path(f"/proc/{pid}/comm").read_text("utf-8") == "bh shout\n"]
        return worker

    def end(self) -> int:
        """Press Ctrl-C and return the exit status."""
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            assert self._process.stdout is not None
            self._process.stdout.close()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    require_level("process")
    write_files(find_blocks(README.read_text("utf-8")), tmp_path)
    running = Host(tmp_path)
    yield running
    running.end()


def edit(host: Host, old: str, new: str) -> None:
    """Save the plugin with ``old`` replaced."""
    path = host.directory / "shout" / "shout.py"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_the_readme_does_what_it_says(host: Host) -> None:
    """Paste, run, edit: the answer changes and the count goes on; a mistake or a kill does not stop it."""
    host.wait_for(r"<Plugin shout@1\.0\.0 running at level process, generation 1>")
    host.wait_for(r"HELLO \(call 1\)")

    edit(host, "upper", "title")
    assert int(host.wait_for(r"Hello \(call (\d+)\)")[1]) > 1

    edit(host, "return self.count", "return self.count +")
    before = int(host.wait_for(r"Hello \(call (\d+)\)")[1])
    assert int(host.wait_for(r"Hello \(call (\d+)\)")[1]) == before + 1
    edit(host, "return self.count +", "return self.count")

    os.kill(host.worker(), signal.SIGKILL)
    host.wait_for(r"Hello \(call \d+\)")


def test_ctrl_c_ends_the_example(host: Host) -> None:
    """No worker is left when the host was ended with Ctrl-C."""
    host.wait_for(r"HELLO \(call 1\)")
    worker = host.worker()

    assert host.end() in {1, 130, -signal.SIGINT}
    assert not Path(f"/proc/{worker}").exists()
