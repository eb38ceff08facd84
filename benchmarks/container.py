"""A plugin in a container: ``python -m benchmarks.container [--rounds N] [--json FILE] [--check]``.

*Start* is from the wish to load a plugin until its first call has answered, beside ``runc run`` of the same interpreter in the same bundle until its first byte has come: alone,
and after it has imported what a worker imports. The end of each is not counted. *Round trip* is one call of about 110 bytes there and back, beside level process.
All take turns within one run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.harness import options
from benchmarks.levels import Beside, in_turns, manager, plugin_at, rows, start, trip
from benchmarks.results import Document, publish
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.launch.oci.binds import binds_of, interpreter
from blackhole_core.executor.launch.oci.bundle import Box, config
from blackhole_core.executor.launch.oci.choosing import choose_engine
from blackhole_core.executor.sandbox.plan import draw_up

_ROUNDS: Final = 20
#: What is aimed at, as times better than the peer: at most twice its time, at most 1.2 times.
_START, _TRIP = 1 / 2, 1 / 1.2

_ALONE: Final = "import os; os.write(1, b'x')"
_IMPORTS: Final = (
    "import sys; sys.path[:] = sys.argv[1:]; import blackhole_core.executor.working, blackhole_core.executor.sandbox.enclose; " + _ALONE
)


@contextlib.contextmanager
def _bare(program: str) -> Iterator[Callable[[], float]]:
    """Yield what runs ``program`` once in a container and returns the seconds until its first byte."""
    engine = choose_engine()
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    path = [str(Path(entry).absolute()) for entry in sys.path]
    policy = draw_up(Confinement(), plugin=directory, import_path=path, layers=(), temporary=None)
    box = Box(str(directory / "root"), (interpreter(), "-I", "-S", "-c", program, *path), {}, tuple(binds_of(policy.places)))
    (directory / "root").mkdir()
    (directory / "config.json").write_text(json.dumps(config(box)))
    command = [engine.program, "--root", str(directory / "state"), "run", "--bundle", str(directory), f"bench-{os.getpid()}"]

    def run() -> float:
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
            assert running.stdout is not None
            assert running.stdout.read(1) == b"x"
            return time.perf_counter() - begun

    yield run
    shutil.rmtree(directory)


def _measure(rounds: int) -> dict[str, list[float]]:
    with contextlib.ExitStack() as opened:
        in_process, in_container = (opened.enter_context(plugin_at(level)) for level in ("process", "container"))
        pm, source = opened.enter_context(manager())
        what: dict[str, Callable[[], float]] = {
            "alone": opened.enter_context(_bare(_ALONE)),
            "imports": opened.enter_context(_bare(_IMPORTS)),
            "start": lambda: start(pm, source, "container"),
            "process": lambda: trip(in_process),
            "container": lambda: trip(in_container),
        }
        return in_turns(what, rounds)


_TABLE: Final = (
    Beside("start to first answer", "start", "alone", "runc run, interpreter alone", "ms", 1e3, _START),
    Beside("start to first answer", "start", "imports", "runc run, interpreter and a worker's imports", "ms", 1e3),
    Beside("round trip", "container", "process", "level process", "µs", 1e6, _TRIP),
)


def main() -> int:
    """Be the command line."""
    asked = options(__doc__, default_rounds=_ROUNDS)
    return publish(Document("A plugin in a container", tuple(rows(_measure(asked.rounds), _TABLE))), to=asked.json, check=asked.check)


if __name__ == "__main__":
    raise SystemExit(main())
