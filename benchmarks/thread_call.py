"""A hook call at level thread beside its peer: ``python -m benchmarks.thread_call [--json FILE] [--check]``.

Where the kernel puts the two threads decides more than anything else, so one row has the whole process on one CPU. Beside a thread that
computes, each hand-over waits until that thread gives the interpreter up, which it does every 5 ms.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from benchmarks.harness import Case, Loop, burst, main, rested
from benchmarks.levels import PAYLOAD, plugin_at

BURST: Final = "call after call"
PINNED: Final = "call after call, on one CPU"
REST: Final = "a call after 1 ms of rest"
BESIDE: Final = "beside a thread that computes"
WINDOW: Final = "64 outstanding"

_PEER: Final = "ThreadPoolExecutor"

#: Seconds; the threads of either pool sleep as soon as they have nothing to do.
_PAUSE: Final = 0.001
_OUTSTANDING: Final = 64
#: Calls of a sample beside a thread that computes: some of them find the interpreter free by chance.
_BESIDE: Final = 5

#: Issue 4's targets.
TARGETS: Final = {(BURST, _PEER): 2.0, (PINNED, _PEER): 2.5, (BESIDE, _PEER): 1.0, (WINDOW, _PEER): 10.0}


def echo(value: dict[str, Any]) -> dict[str, Any]:
    """Return the value; what the peer's thread runs."""
    return value


@contextlib.contextmanager
def _on_one_cpu() -> Iterator[None]:
    """Keep all threads of the process on one CPU."""
    allowed = os.sched_getaffinity(0)
    _allow({min(allowed)})
    try:
        yield
    finally:
        _allow(allowed)


def _allow(cpus: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread), cpus)


def _pinned(call: Callable[[], object]) -> Loop:
    calls = burst(call)

    def loop(count: int) -> float:
        with _on_one_cpu():
            calls(10)  # until both threads have moved there
            return calls(count)

    return loop


@contextlib.contextmanager
def _computing() -> Iterator[None]:
    """Have a thread hold the interpreter whenever it can."""
    over, begun = False, threading.Event()

    def compute() -> None:
        begun.set()
        number = 0
        while not over:
            number += 1

    thread = threading.Thread(target=compute)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        over = True
        thread.join()


def _beside(call: Callable[[], object]) -> Loop:
    calls = burst(call)

    def loop(count: int) -> float:
        with _computing():
            return calls(_BESIDE) / _BESIDE * count

    return loop


def run() -> int:
    """Measure and print."""
    with contextlib.ExitStack() as stack:
        hook = stack.enter_context(plugin_at("thread"))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        calls = {"blackhole": lambda: hook(value=PAYLOAD), _PEER: lambda: pool.submit(echo, PAYLOAD).result()}
        ways = {BURST: burst, PINNED: _pinned, REST: lambda call: rested(call, _PAUSE), BESIDE: _beside}
        cases = [Case(row, contender, way(call)) for row, way in ways.items() for contender, call in calls.items()]
        many = [{"value": PAYLOAD}] * _OUTSTANDING

        def submitted() -> list[Any]:
            return [future.result() for future in [pool.submit(echo, PAYLOAD) for _ in range(_OUTSTANDING)]]

        cases += [Case(WINDOW, "blackhole", burst(lambda: hook.map(many))), Case(WINDOW, _PEER, burst(submitted))]
        return main("A hook call at level thread", "blackhole", cases, targets=TARGETS)


if __name__ == "__main__":
    raise SystemExit(run())
