"""A hook call at level thread beside its peer: ``python -m benchmarks.thread_call [--json FILE] [--check]``."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.harness import Case, main, statement
from benchmarks.levels import PAYLOAD, plugin_at


def echo(value: dict[str, Any]) -> dict[str, Any]:
    """Return the value; what the peer's thread runs."""
    return value


def run() -> int:
    """Measure and print."""
    with contextlib.ExitStack() as stack:
        hook = stack.enter_context(plugin_at("thread"))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        names = {"hook": hook, "pool": pool, "echo": echo, "value": PAYLOAD}
        cases = [
            Case("echo a dict", "blackhole", statement("hook(value=value)", names, clock=time.perf_counter)),
            Case("echo a dict", "ThreadPoolExecutor", statement("pool.submit(echo, value).result()", names, clock=time.perf_counter)),
        ]
        return main("A hook call at level thread", "blackhole", cases)


if __name__ == "__main__":
    raise SystemExit(run())
