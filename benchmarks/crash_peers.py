"""The peers of :mod:`benchmarks.crash`, each used as its documentation shows, and brought back after a crash as each wants it.

After a crash, pebble goes on by itself, loky is asked for its executor again, and a ``ProcessPoolExecutor`` has to be made anew.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

import attrs

__all__ = ["PEERS", "Contender", "die", "echo"]

#: Seconds for one answer: nobody takes so long.
_PATIENCE: Final = 30


@attrs.frozen
class Contender:
    """``crash`` has its worker killed in a call and returns when the caller has the error, ``answer`` makes a call that is answered, ``end`` releases it."""

    name: str
    crash: Callable[[], object]
    answer: Callable[[], object]
    end: Callable[[], object]


def echo(value: Any) -> Any:
    """Return the value; what the workers run."""
    return value


def die() -> None:
    """End the worker in the middle of a call."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(_PATIENCE)  # the signal ends it; it must not answer first


def _pebble() -> Contender:
    from pebble import ProcessExpired, ProcessPool

    pool = ProcessPool(max_workers=1)

    def crash() -> None:
        try:
            pool.schedule(die).result(_PATIENCE)
        except ProcessExpired:
            return
        raise RuntimeError("pebble's worker was not killed")

    def end() -> None:
        pool.close()
        pool.join()

    return Contender("pebble", crash, lambda: pool.schedule(echo, args=[1]).result(_PATIENCE), end)


def _loky() -> Contender:
    from loky import get_reusable_executor
    from loky.process_executor import BrokenProcessPool

    def executor() -> Any:
        return get_reusable_executor(max_workers=1, timeout=600)

    def crash() -> None:
        try:
            executor().submit(die).result(_PATIENCE)
        except BrokenProcessPool:
            return
        raise RuntimeError("loky's worker was not killed")

    return Contender("loky", crash, lambda: executor().submit(echo, 1).result(_PATIENCE), lambda: executor().shutdown(wait=True))


def _pool() -> Contender:
    from concurrent.futures.process import BrokenProcessPool

    pools = [ProcessPoolExecutor(1)]

    def crash() -> None:
        try:
            pools[0].submit(die).result(_PATIENCE)
        except BrokenProcessPool:
            return
        raise RuntimeError("the pool's worker was not killed")

    def answer() -> None:
        try:
            pools[0].submit(echo, 1).result(_PATIENCE)
        except BrokenProcessPool:
            pools[0].shutdown(wait=False)
            pools[0] = ProcessPoolExecutor(1)
            pools[0].submit(echo, 1).result(_PATIENCE)

    return Contender("ProcessPoolExecutor", crash, answer, lambda: pools[0].shutdown())


PEERS: Final[tuple[Callable[[], Contender], ...]] = (_pebble, _loky, _pool)
