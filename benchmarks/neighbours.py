"""What a plugin notices of a neighbour that misbehaves: how many times longer its calls take (p99) while the other burns, floods, or forks.

Calls are made one after the other for a second, alone and then beside the neighbour, and so again in each round; p99 is that of all calls of a kind together. One second's is a matter of
chance: it depends on which processors the two ends of a call happen to share, and moves fourfold with it while nothing else runs.

The neighbour of ours has limits (half a core, 24 processes), those of the peers have none to set; each is a pool of one worker for the caller and another for
the neighbour. What a peer's worker writes goes to ``/dev/null``; what ours writes is read by the host, cut into lines and given to ``logging``. A fork bomb of a peer's ends by itself after 200 processes, or the machine would not survive the benchmark.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import attrs

import blackhole_core as bh
from benchmarks.harness import options
from benchmarks.results import Document, Result, publish, scaled

#: Seconds of one sample: ten of the kernel's periods, in each of which a neighbour with a limit burns and is held back. Thousands of calls.
_SECONDS: Final = 1.0
_ROUNDS: Final = 4
#: Seconds that a neighbour has misbehaved when the sample begins, and goes on after it. A host looks at a worker that was idle once a second, and after that four times: this is about what
#: others notice from then on.
_BEFORE: Final = 1.5
_AFTER: Final = 0.2
#: Processes of a fork bomb that nothing holds.
_BOMB: Final = 200
#: Times as long as alone that a call may take.
_TARGET: Final = 1.5


def echo(value: str) -> str:
    """Return ``value``."""
    return value


def burn(seconds: float) -> None:
    """Keep as many processes busy as the machine has processors, and two more."""
    until = time.monotonic() + seconds
    for _ in range((os.cpu_count() or 1) + 1):
        with contextlib.suppress(OSError):
            if os.fork() == 0:
                while time.monotonic() < until:
                    pass
                os._exit(0)
    while time.monotonic() < until:
        pass


def flood(seconds: float) -> None:
    """Write as much as goes through."""
    until, line = time.monotonic() + seconds, b"x" * 200 + b"\n"
    while time.monotonic() < until:
        os.write(1, line * 100)


def bomb(seconds: float) -> None:
    """Fork until that is refused, and again; what was forked does nothing."""
    until, made = time.monotonic() + seconds, []
    while time.monotonic() < until:
        try:
            pid = os.fork() if len(made) < _BOMB else 0
        except OSError:
            continue
        if pid == 0 and len(made) < _BOMB:
            time.sleep(2 * seconds)  # one of the bomb: it is only there; its parent ends it
            os._exit(0)
        elif pid:
            made.append(pid)
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


MISBEHAVIOURS: Final[dict[str, Callable[[float], None]]] = {"burns": burn, "floods its output": flood, "forks without end": bomb}

#: The caller of a quiet plugin, and what has its neighbour misbehave (returns when that has ended).
_Pair = tuple[Callable[[str], Any], Callable[[str, float], Any]]


class Specs:
    """The hooks of both plugins of ours."""

    @bh.HookspecMarker("bench")
    def echo(self, value: str) -> str:
        """Return ``value``."""
        raise NotImplementedError

    @bh.HookspecMarker("bench")
    def misbehave(self, kind: str, seconds: float) -> None:
        """Do something to the neighbours."""


_SOURCES: Final = {
    "quiet": "import blackhole_core as bh\nclass Plugin:\n    @bh.HookimplMarker('bench')\n    def echo(self, value): return value\n",
    "noisy": "import blackhole_core as bh\nfrom benchmarks.neighbours import MISBEHAVIOURS\nclass Plugin:\n"
    "    @bh.HookimplMarker('bench')\n    def misbehave(self, kind, seconds): MISBEHAVIOURS[kind](seconds)\n",
}


@contextlib.contextmanager
def _ours() -> Iterator[_Pair]:
    config = {"plugins": {"noisy": {"resources": {"cpu": 50, "pids": 24}, "unenforced": "allow"}}}
    with tempfile.TemporaryDirectory(prefix="bench-neighbours-") as folder, bh.PluginManager("bench", config=config) as pm:
        pm.add_hookspecs(Specs)
        for name, source in _SOURCES.items():
            place = Path(folder, name)
            place.mkdir()
            (place / f"bench_{name}.py").write_text(source)
            (place / "plugin.yaml").write_text(f"name: {name}\nversion: 1.0.0\nentry: bench_{name}:Plugin\nisolation: process\n")
            pm.load(name, source=place)
        yield (lambda value: pm.hook.echo(value=value)), (lambda kind, seconds: pm.hook.misbehave(kind=kind, seconds=seconds))


@contextlib.contextmanager
def _pools() -> Iterator[_Pair]:
    with ProcessPoolExecutor(1) as quiet, ProcessPoolExecutor(1) as noisy:
        yield (
            (lambda value: quiet.submit(echo, value).result()),
            (lambda kind, seconds: noisy.submit(MISBEHAVIOURS[kind], seconds).result()),
        )


@contextlib.contextmanager
def _loky() -> Iterator[_Pair]:
    from loky.process_executor import ProcessPoolExecutor as Pool

    with Pool(1) as quiet, Pool(1) as noisy:
        yield (
            (lambda value: quiet.submit(echo, value).result()),
            (lambda kind, seconds: noisy.submit(MISBEHAVIOURS[kind], seconds).result()),
        )


@contextlib.contextmanager
def _pebble() -> Iterator[_Pair]:
    from pebble import ProcessPool

    with ProcessPool(1) as quiet, ProcessPool(1) as noisy:
        yield (
            (lambda value: quiet.submit(echo, None, value).result()),
            (lambda kind, seconds: noisy.submit(MISBEHAVIOURS[kind], None, seconds).result()),
        )


CONTENDERS: Final[dict[str, Callable[[], contextlib.AbstractContextManager[_Pair]]]] = {
    "blackhole": _ours,
    "ProcessPoolExecutor": _pools,
    "loky": _loky,
    "pebble": _pebble,
}


def timed(call: Callable[[str], Any]) -> list[float]:
    """Return the seconds that each call takes."""
    taken, until = [], time.perf_counter() + _SECONDS
    while (began := time.perf_counter()) < until:
        call("hi")
        taken.append(time.perf_counter() - began)
    return taken


@attrs.frozen
class Samples:
    """Seconds that calls took, ``alone`` and ``beside`` the neighbour."""

    alone: list[float] = attrs.field(factory=list)
    beside: list[float] = attrs.field(factory=list)

    def take(self, pair: _Pair, kind: str) -> None:
        """Call for a while, and again while the neighbour misbehaves."""
        call, misbehave = pair
        self.alone.extend(timed(call))
        noise = threading.Thread(target=misbehave, args=(kind, _BEFORE + _SECONDS + _AFTER))
        noise.start()
        time.sleep(_BEFORE)  # none of the peers can say that its worker has begun
        self.beside.extend(timed(call))
        noise.join()

    @property
    def times(self) -> float:
        """How many times longer the 99th percentile is beside the neighbour."""
        return p99(self.beside) / p99(self.alone)


def p99(seconds: list[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(seconds, n=100)[98]


def main() -> int:
    """Measure every contender with every misbehaviour, in an order drawn anew for each round."""
    asked = options(__doc__, None, default_rounds=_ROUNDS)
    order = random.Random(0)
    found = {(kind, name): Samples() for kind in MISBEHAVIOURS for name in CONTENDERS}
    logging.getLogger("blackhole").propagate = False
    logging.getLogger("blackhole").addHandler(logging.NullHandler())
    silence = os.open(os.devnull, os.O_WRONLY)
    output = os.dup(1)
    os.dup2(silence, 1)  # what peers' workers write goes where ours does: to no terminal
    try:
        with contextlib.ExitStack() as stack:
            pairs = {name: stack.enter_context(make()) for name, make in CONTENDERS.items()}
            for call, _ in pairs.values():
                timed(call)
            for _ in range(asked.rounds):
                for kind, name in order.sample(list(found), len(found)):
                    found[kind, name].take(pairs[name], kind)
    finally:
        sys.stdout.flush()
        os.dup2(output, 1)
    results = [row for kind in MISBEHAVIOURS for row in _rows(kind, {name: found[kind, name] for name in CONTENDERS})]
    return publish(Document("what neighbours notice", tuple(results)), to=asked.json, check=asked.check)


def _rows(kind: str, found: dict[str, Samples]) -> Iterator[Result]:
    """Yield, beside each peer, how many times longer calls take, and how long they take."""
    own = found["blackhole"]
    for name in list(CONTENDERS)[1:]:
        peer, row = found[name], f"p99 of a call while a neighbour {kind}"
        yield Result(
            f"{row}, beside p99 alone", own.times, "times", beside=name, peer=peer.times, ratio=peer.times / own.times, at_most=_TARGET
        )
        unit, (ours, theirs) = scaled((p99(own.beside), p99(peer.beside)))
        yield Result(row, ours, unit, beside=name, peer=theirs, ratio=theirs / ours)


if __name__ == "__main__":
    sys.exit(main())
