"""A process of its own that writes snapshots, for tests that kill it: ``state_writer.py ROOT COUNT KEEP [POINT [NTH]]``.

Each finished put is one line ``id number`` on stdout, written before the next put begins. With POINT the process kills itself when it reaches
that step for the NTH time.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from blackhole_core.state.files import FileStateStore
from blackhole_core.state.snapshot import Draft


def main(root: str, count: str, keep: str, point: str = "", nth: str = "1") -> None:
    left = int(nth)

    def reached(here: str) -> None:
        nonlocal left
        left -= here == point
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    store = FileStateStore(Path(root), keep=int(keep), reached=reached)
    for number in range(int(count)):
        # Larger than one page, so that a write can be caught in its middle.
        kept = store.put(Draft("counter", "1.0.0", 1, 0, 0.0, "periodic", {"number": number, "filler": ["x" * 1000] * 20}))
        os.write(1, f"{kept.id} {number}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
