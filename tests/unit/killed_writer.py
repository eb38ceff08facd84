"""A process of its own that writes, for tests that kill it.

``killed_writer.py state ROOT POINT NTH COUNT KEEP`` writes snapshots, ``killed_writer.py grants DIRECTORY POINT NTH COUNT NAME`` grants. What is
finished is one line on stdout, written before the next begins. At the step POINT the process kills itself the NTH time; ``-`` is no step.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["start_writer"]

Reached = Callable[[str], None]


def start_writer(kind: str, place: Path, count: int, further: object, point: str = "-", nth: int = 1) -> subprocess.Popen[str]:
    """Start one: ``further`` is how many snapshots of a plugin are kept, or the plugin that is granted something."""
    command = [sys.executable, __file__, kind, str(place), point, str(nth), str(count), str(further)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _snapshots(place: Path, reached: Reached, count: int, keep: str) -> Iterator[str]:
    from blackhole_core.state.files import FileStateStore
    from blackhole_core.state.snapshot import Draft

    store = FileStateStore(place, keep=int(keep), reached=reached)
    for number in range(count):
        # Larger than one page, so that a write can be caught in its middle.
        kept = store.put(Draft("counter", "1.0.0", 1, 0, 0.0, "periodic", {"number": number, "filler": ["x" * 1000] * 20}))
        yield f"{kept.id} {number}\n"


def _grants(place: Path, reached: Reached, count: int, name: str) -> Iterator[str]:
    from blackhole_core.lifecycle.grantfile import FileGrants
    from blackhole_core.lifecycle.grants import with_grants

    store = FileGrants(place, reached=reached)
    for number in range(count):
        store.change(lambda grants, text=f"env:N{number}": with_grants(grants, name, (text,), 1.0))  # type: ignore[misc]  # a default in a lambda
        yield f"{number}\n"


def main(kind: str, place: str, point: str, nth: str, count: str, further: str) -> None:
    left = int(nth)

    def reached(here: str) -> None:
        nonlocal left
        left -= here == point
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for line in {"state": _snapshots, "grants": _grants}[kind](Path(place), reached, int(count), further):
        os.write(1, line.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
