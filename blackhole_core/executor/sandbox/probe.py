"""Find out which layers can be had here, by building them all in a process made for that. The verdict is remembered for as long as the host is what it is."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from blackhole_core.executor.confinement import Confinement, Unenforced
from blackhole_core.executor.launch.standing import Standing, read_standing
from blackhole_core.executor.wire.policy import NAMESPACES, Layer, Policy, WallReport

__all__ = ["ALL_LAYERS", "PROGRAM", "SECONDS", "main", "what_holds"]

#: What a worker builds where everything can be had.
ALL_LAYERS: Final = (*NAMESPACES, Layer.LANDLOCK, Layer.SECCOMP)
#: Seconds that the process may take: fifty milliseconds of work, on a machine under heavy load some seconds.
SECONDS: Final = 20.0
PROGRAM: Final = "import sys; sys.path[:] = sys.argv[1:]; del sys.argv[1:]; from blackhole_core.executor.sandbox.probe import main; main()"

_lock: Final = threading.Lock()
_known: Final[dict[Standing, WallReport]] = {}


def what_holds(import_path: Sequence[str]) -> WallReport:
    """Return what a worker of this host can build around itself; the first call takes some 50 ms.

    :raises OSError: the system refused to start a process.
    """
    standing = read_standing()
    with _lock:
        report = _known.get(standing)
        if report is None:
            report = _try(import_path, ALL_LAYERS)
            if report is None:  # namespaces that can be made and are of no use, as where an administrator forbids them so
                without = _try(import_path, (Layer.LANDLOCK, Layer.SECCOMP)) or WallReport(
                    open={"everything": "no worker could be enclosed"}
                )
                unusable = dict.fromkeys(map(str, NAMESPACES), "it was of no use: the process in it ended")
                report = WallReport({**unusable, **without.layers}, without.open)
            _known[standing] = report
        return report


def _try(import_path: Sequence[str], layers: Sequence[Layer]) -> WallReport | None:
    """Have a process build ``layers``. Return its report, None when it did not live to write one."""
    from blackhole_core.executor.sandbox.plan import draw_up

    plugin = Path(__file__).parent
    policy = draw_up(Confinement(unenforced=Unenforced.ALLOW), plugin=plugin, import_path=import_path, layers=layers, temporary=None)
    try:
        tried = subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROGRAM, *import_path],
            input=msgspec.msgpack.encode(policy),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
            timeout=SECONDS,
            check=False,
        )
        return msgspec.msgpack.decode(tried.stdout, type=WallReport)
    except (subprocess.TimeoutExpired, msgspec.DecodeError):
        return None


def main() -> None:
    """Be that process: build what standard input names, and write the report to standard output."""
    from blackhole_core.executor.sandbox.enclose import enclose

    policy = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Policy)
    enclosed = enclose(policy, keep=(0, 1, 2))
    sys.stdout.buffer.write(msgspec.msgpack.encode(enclosed.report))
    sys.stdout.flush()
