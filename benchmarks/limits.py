"""What a limit of the processor is worth: the share that a worker gets which wants all of it, held by control groups, or by stopping where there are none.

Each figure is how far the measured share is from the limit, above or below, in % of the limit; the share itself is beside it. On a machine that is busy with something else a
worker gets less than its limit, which is nobody's limit then: this benchmark wants a quiet one.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from benchmarks.harness import options
from benchmarks.hosting import hosting, one_file
from benchmarks.results import Document, Result, publish
from blackhole_core.executor.confinement import Confinement, Unenforced
from blackhole_core.executor.limits.detect import abilities_here
from blackhole_core.executor.limits.limiter import Limiter
from blackhole_core.executor.limits.tree import Abilities
from blackhole_core.executor.remote import RemoteRunner
from blackhole_core.ids import Isolation
from blackhole_core.manifest.model import Resources
from blackhole_core.messages import Call

#: Seconds of one sample: twenty periods of the kernel's control. It begins and ends when the worker has been held back and goes on, so that it holds whole periods.
_SECONDS: Final = 2.0
#: Seconds after which a worker that goes on all the time is measured all the same: it is not held back.
_NO_PAUSE: Final = 0.3
#: Seconds of processor time that a worker uses between two looks at the least, or it did not run: clocks of groups move by a few microseconds of their own.
_RAN: Final = 1e-4
_ROUNDS: Final = 3
#: % of the limit that the share may be away from it.
_TARGET: Final = 15.0
#: % of one core, and processes that want all of it.
_CASES: Final = ((10, 1), (25, 1), (50, 1), (100, 2), (25, 4))

_SOURCE: Final = """
import os, time
import blackhole_core as bh
class Greedy:
    @bh.HookimplMarker("bench")
    def burn(self, seconds, processes):
        until = time.monotonic() + seconds
        children = []
        for _ in range(processes - 1):
            pid = os.fork()
            if pid == 0:
                while time.monotonic() < until:
                    pass
                os._exit(0)
            children.append(pid)
        while time.monotonic() < until:
            pass
        for pid in children:
            os.waitpid(pid, 0)
"""


def measure(way: str, abilities: Callable[[], Abilities], percent: int, processes: int, rounds: int) -> Result:
    """Return how far from ``percent`` the share of so many processes is."""
    with tempfile.TemporaryDirectory(prefix="bench-limits-") as folder, hosting(limiter=Limiter(abilities)) as (levels, _):
        confinement = Confinement(unenforced=Unenforced.ALLOW, resources=Resources(cpu=percent))
        runner = levels.make(Isolation.PROCESS, one_file(Path(folder), "bench_greedy:Greedy", _SOURCE, confinement))
        assert isinstance(runner, RemoteRunner)
        try:
            runner.start()
            shares = _shares(runner, processes, rounds)
        finally:
            runner.stop()
    off = [100 * abs(share - percent) / percent for share in shares]
    row = f"{way}: cpu {percent}, {processes} process{'es' if processes > 1 else ''}"
    return Result(row, statistics.median(off), "% off", at_most=_TARGET, note=f"{statistics.median(shares):.1f} % of a core")


def _shares(runner: RemoteRunner, processes: int, rounds: int) -> list[float]:
    """Return the % of a core that the worker used, for some whiles in which it wanted all of it."""
    length = (rounds + 1) * (_SECONDS + 2 * _NO_PAUSE)
    burning = threading.Thread(target=lambda: runner.call(Call("burn", (length, processes), index=0)))
    burning.start()
    time.sleep(_SECONDS * 0.25)  # what it had saved up while it slept is used up, and its children are there
    shares = [_share(runner) for _ in range(rounds)]
    burning.join()
    return shares


def _share(runner: RemoteRunner) -> float:
    began, before = _goes_on(runner), runner.facts.usage.cpu
    time.sleep(_SECONDS)  # the length of the measurement
    ended, after = _goes_on(runner), runner.facts.usage.cpu
    assert before is not None
    assert after is not None
    return 100 * (after - before) / (ended - began)


def _goes_on(runner: RemoteRunner) -> float:
    """Wait until the worker goes on after a pause, and return when that was (``time.monotonic()``); or now, when it makes none."""
    until, paused, used = time.monotonic() + _NO_PAUSE, False, runner.facts.usage.cpu or 0.0
    while (now := time.monotonic()) < until:
        time.sleep(0.002)  # the resolution of what is looked for
        last, used = used, runner.facts.usage.cpu or 0.0
        if used - last < _RAN:
            paused = True
        elif paused:
            return now
    return now


def main() -> int:
    """Measure every case in both ways."""
    asked = options(__doc__, None, default_rounds=_ROUNDS)
    ways = {"control groups": abilities_here, "stopped by the host": _without}
    results = [
        measure(way, abilities, percent, processes, asked.rounds)
        for percent, processes in _CASES
        for way, abilities in ways.items()
        if way != "control groups" or abilities().holds("cpu")
    ]
    return publish(Document("a limit of the processor", tuple(results)), to=asked.json, check=asked.check)


def _without() -> Abilities:
    """Return what there is where control groups can only end what is in them."""
    return Abilities(tuple(attrs.evolve(tree, controllers=frozenset()) for tree in abilities_here().trees if tree.kills))


if __name__ == "__main__":
    sys.exit(main())
