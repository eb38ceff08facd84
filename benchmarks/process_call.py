"""A hook call at level process beside its peers: ``python -m benchmarks process_call [--json FILE] [--check]``.

Both ends of every contender live in two processes of the same machine; the value is a dict of about 110 bytes that goes there and back.
In a burst one call follows the other; at rest there is a pause before each, in which both processes sleep; with 64 outstanding
one caller begins 64 calls before it takes the first answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks.harness import Case, Loop, main
from benchmarks.levels import PAYLOAD, plugin_at
from benchmarks.process_peers import PEERS, SUBMITTING

BURST: Final = "one call after the other"
REST: Final = "one call after a pause of 1 ms"
WINDOW: Final = "64 calls outstanding"

#: Seconds; both processes are asleep long before it is over.
_PAUSE: Final = 0.001
_OUTSTANDING: Final = 64

_FASTER: Final = {
    BURST: {"multiprocessing.Pipe": 5, "ProcessPoolExecutor": 25, "rpyc": 12, "Pyro5": 30, "grpcio": 50},
    REST: {"multiprocessing.Pipe": 2, "ProcessPoolExecutor": 10, "rpyc": 5, "Pyro5": 12, "grpcio": 20},
    WINDOW: {"ProcessPoolExecutor": 10, "grpcio": 25},
}
#: Issue 4's targets.
TARGETS: Final = {(row, peer): float(ratio) for row, peers in _FASTER.items() for peer, ratio in peers.items()}


def _burst(call: Callable[[dict[str, Any]], Any]) -> Loop:
    def loop(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            call(PAYLOAD)
        return time.perf_counter() - begun

    return loop


def _rested(call: Callable[[dict[str, Any]], Any]) -> Loop:
    def loop(count: int) -> float:
        taken = 0.0
        for _ in range(count):
            time.sleep(_PAUSE)
            begun = time.perf_counter()
            call(PAYLOAD)
            taken += time.perf_counter() - begun
        return taken

    return loop


def _submitted(submit: Callable[[dict[str, Any]], Any]) -> Loop:
    def window(_: dict[str, Any]) -> None:
        for future in [submit(PAYLOAD) for _ in range(_OUTSTANDING)]:
            future.result()

    return _burst(window)


def run() -> int:
    """Measure and print."""
    with contextlib.ExitStack() as stack:
        hook = stack.enter_context(plugin_at("process"))
        callers = {"blackhole": lambda value: hook(value=value)} | {name: stack.enter_context(peer()) for name, peer in PEERS.items()}
        cases = [Case(BURST, name, _burst(call)) for name, call in callers.items()]
        cases += [Case(REST, name, _rested(call)) for name, call in callers.items()]
        many = [{"value": PAYLOAD}] * _OUTSTANDING
        cases.append(Case(WINDOW, "blackhole", _burst(lambda _: hook.map(many))))
        cases += [Case(WINDOW, name, _submitted(stack.enter_context(peer()))) for name, peer in SUBMITTING.items()]
        return main("A hook call at level process", "blackhole", cases, targets=TARGETS)


if __name__ == "__main__":
    raise SystemExit(run())
