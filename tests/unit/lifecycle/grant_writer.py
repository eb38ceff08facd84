"""A process of its own that grants, for tests that kill it: ``grant_writer.py DIRECTORY NAME COUNT [POINT [NTH]]``.

Each finished grant is one line with its number on stdout. With POINT the process kills itself when it reaches that step for the NTH time.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from blackhole_core.lifecycle.grantfile import FileGrants
from blackhole_core.lifecycle.grants import with_grants


def main(directory: str, name: str, count: str, point: str = "", nth: str = "1") -> None:
    left = int(nth)

    def reached(here: str) -> None:
        nonlocal left
        left -= here == point
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    store = FileGrants(Path(directory), reached=reached)
    for number in range(int(count)):
        store.change(lambda grants, text=f"env:N{number}": with_grants(grants, name, (text,), 1.0))  # type: ignore[misc]  # a default in a lambda
        os.write(1, f"{number}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
