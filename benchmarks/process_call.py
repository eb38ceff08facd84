"""A hook call at level process beside its peers: ``python -m benchmarks.process_call [--json FILE] [--check]``.

Both ends of every contender live in two processes of the same machine; the value is a dict of about 110 bytes that goes there and back.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Final

from benchmarks.harness import Case, main, statement
from benchmarks.levels import PAYLOAD, plugin_at

ROW: Final = "echo a dict of 110 bytes"


def echo(value: dict[str, Any]) -> dict[str, Any]:
    """Return the value; what the peers' workers run."""
    return value


def _answer(connection: Connection) -> None:
    while (value := connection.recv()) is not None:
        connection.send(value)


@contextlib.contextmanager
def _ping_pong() -> Iterator[Callable[[dict[str, Any]], Any]]:
    """Yield a function that sends over a ``multiprocessing.Pipe`` and waits for the answer: no protocol, one caller only."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there,))
    process.start()

    def call(value: dict[str, Any]) -> Any:
        here.send(value)
        return here.recv()

    yield call
    here.send(None)
    process.join()


def run() -> int:
    """Measure and print."""
    with contextlib.ExitStack() as stack:
        hook = stack.enter_context(plugin_at("process"))
        pipe = stack.enter_context(_ping_pong())
        pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))
        names = {"hook": hook, "pipe": pipe, "pool": pool, "echo": echo, "value": PAYLOAD}
        cases = [
            Case(ROW, contender, statement(source, names, clock=time.perf_counter))
            for contender, source in (
                ("blackhole", "hook(value=value)"),
                ("multiprocessing.Pipe", "pipe(value)"),
                ("ProcessPoolExecutor", "pool.submit(echo, value).result()"),
            )
        ]
        return main("A hook call at level process", "blackhole", cases)


if __name__ == "__main__":
    raise SystemExit(run())
