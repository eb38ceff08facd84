"""A hook call at level process beside its peers: ``python -m benchmarks process_call [--json FILE] [--check]``.

Every contender has two processes of its own on the same machine; the value is a dict of about 110 bytes that goes there and back.
In a burst one call follows the other; at rest there is a pause before each, in which both processes sleep; with 64 outstanding
one caller begins 64 calls before it takes the first answer.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

from benchmarks.harness import Case, Loop, burst, main, rested
from benchmarks.levels import PAYLOAD, plugin_at
from benchmarks.process_peers import PEERS, SUBMITTING

SUBJECT: Final = "blackhole"
BURST: Final = "one call after the other"
REST: Final = "one call after a pause of 1 ms"
WINDOW: Final = "64 calls outstanding"

#: The argument that makes this program the caller of one contender.
_DRIVE: Final = "--drive"
#: Makes one call.
Call = Callable[[dict[str, Any]], Any]
#: Seconds; either end of a lane looks for a tenth of it at most before it sleeps, and no peer looks at all.
_PAUSE: Final = 0.001
_OUTSTANDING: Final = 64
#: Seconds of a burst. In the first milliseconds the kernel still decides where the two processes run: that is a row of its own, the calls after a pause.
_BURST: Final = 0.02

_FASTER: Final = {
    BURST: {"multiprocessing.Pipe": 5, "ProcessPoolExecutor": 25, "rpyc": 12, "Pyro5": 30, "grpcio": 50},
    REST: {"multiprocessing.Pipe": 2, "ProcessPoolExecutor": 10, "rpyc": 5, "Pyro5": 12, "grpcio": 20},
    WINDOW: {"ProcessPoolExecutor": 10, "grpcio": 25},
}
#: Issue 4's targets.
TARGETS: Final = {(row, peer): float(ratio) for row, peers in _FASTER.items() for peer, ratio in peers.items()}


def _submitted(submit: Callable[[dict[str, Any]], Any]) -> Loop:
    def window() -> None:
        for future in [submit(PAYLOAD) for _ in range(_OUTSTANDING)]:
            future.result()

    return burst(window)


def _blackhole() -> contextlib.AbstractContextManager[tuple[Call, Callable[[], object]]]:
    @contextlib.contextmanager
    def context() -> Iterator[tuple[Call, Callable[[], object]]]:
        many = [{"value": PAYLOAD}] * _OUTSTANDING
        with plugin_at("process") as hook:
            yield lambda value: hook(value=value), lambda: hook.map(many)

    return context()


def _drive(name: str) -> None:
    """Be the caller of one contender: for each line ``row count`` of standard input print the seconds that took."""
    with contextlib.ExitStack() as stack:
        loops: dict[str, Loop] = {}
        if name == SUBJECT:
            call, window = stack.enter_context(_blackhole())
            loops[WINDOW] = burst(window)
        else:
            call = stack.enter_context(PEERS[name]())
            if name in SUBMITTING:
                loops[WINDOW] = _submitted(stack.enter_context(SUBMITTING[name]()))
        once = functools.partial(call, PAYLOAD)
        loops |= {BURST: burst(once), REST: rested(once, _PAUSE)}
        for line in sys.stdin:
            row, _, count = line.rpartition(" ")
            print(loops[row](int(count)), flush=True)


class _Driver:
    """A process of its own for a contender's caller: threads that one peer's library keeps busy must not slow another one down."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-m", "benchmarks.process_call", _DRIVE, name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def loop(self, row: str) -> Loop:
        """Return the loop of one row."""

        def ask(count: int) -> float:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            print(f"{row} {count}", file=self._process.stdin, flush=True)
            return float(self._process.stdout.readline())

        return ask


def run() -> int:
    """Measure and print."""
    if sys.argv[1:2] == [_DRIVE]:
        _drive(sys.argv[2])
        return 0
    names = (SUBJECT, *PEERS)
    with contextlib.ExitStack() as stack:
        drivers = {name: stack.enter_context(_Driver(name)) for name in names}
        cases = [Case(row, name, driver.loop(row)) for row in (BURST, REST) for name, driver in drivers.items()]
        cases += [Case(WINDOW, name, drivers[name].loop(WINDOW)) for name in (SUBJECT, *SUBMITTING)]
        return main("A hook call at level process", SUBJECT, cases, targets=TARGETS, default_sample=_BURST)


if __name__ == "__main__":
    raise SystemExit(run())
