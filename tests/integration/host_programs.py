"""Hosts as programs of their own, in a directory that shows what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.plugins.build import NOTES_API

__all__ = ["PRELUDE", "ROOT", "SOON", "Place"]

ROOT = Path(__file__).parents[2]
#: Seconds within which something that must happen has happened, also on a busy machine.
SOON = 20.0

#: A plugin that leaves temporary files and a process, for which it needs the host's rights, and a mark when it is stopped as it should be.
TEMPORARY = """
import os, subprocess, tempfile
import blackhole_core as bh
from notes_api import hookimpl

class Plugin:
    @bh.hookimpl
    def plugin_start(self, context):
        self.directory = context.temp_dir()
        (self.directory / "file").write_text("x")
        tempfile.mkstemp()
        self.child = subprocess.Popen(["sleep", "1000"])
    @bh.hookimpl
    def plugin_stop(self):
        self.child.kill()
        self.child.wait()
        with open(os.environ["MARK"], "a") as file:
            file.write("stopped\\n")
    @hookimpl
    def version(self) -> str:
        return f"{os.getpid()} {self.child.pid}"
    @hookimpl
    def transform(self, text: str) -> str:
        return tempfile.gettempdir()
"""

PRELUDE = f"""
import os, signal, sys, threading, time
sys.path[:0] = {[str(ROOT), str(NOTES_API)]!r}
import blackhole_core as bh
from notes_api import NotesSpecs
place = os.environ["PLACE"]
def begin(level="process", **kw):
    pm = bh.PluginManager("notes", config={{"sandbox": "off", "default_isolation": level, "plugins": {{"temporary": {{"isolation": level, "environment": ["MARK"]}}}}}}, **kw)
    pm.add_hookspecs(NotesSpecs)
    return pm
def load(pm):
    return pm.load("temporary", source=place + "/temporary")
def say(*words):
    print(*words, flush=True)
"""


class Place:
    """A directory with the plugin, a temporary directory and a mark; hosts are started in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.temporary = root / "tmp"
        self.mark = root / "mark"
        self.temporary.mkdir()
        code = root / "temporary" / "notes_temporary"
        code.mkdir(parents=True)
        (code / "__init__.py").write_text(TEMPORARY)
        (code.parent / "pyproject.toml").write_text(
            '[project]\nname = "temporary"\nversion = "1.0.0"\n[project.entry-points.notes]\ntemporary = "notes_temporary:Plugin"\n'
        )
        self.environment = {**os.environ, "PLACE": str(root), "MARK": str(self.mark), "TMPDIR": str(self.temporary)}

    def start(self, program: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-X", "dev", "-c", PRELUDE + program],
            env=self.environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def run(self, program: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a host to its end."""
        with self.start(program, **options) as host:
            try:
                output, error = host.communicate(timeout=SOON)
            except subprocess.TimeoutExpired:
                os.kill(host.pid, signal.SIGABRT)  # with -X dev it says where it stands
                output, error = host.communicate()
        return subprocess.CompletedProcess((), host.returncode, output, error)

    def left(self) -> list[str]:
        """Return the names of what lies where temporary files go."""
        return sorted(path.name for path in self.temporary.iterdir())
