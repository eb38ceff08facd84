"""The heartbeat beside many calls, deadlines and deaths: nobody is taken for hung, nothing is a breach, and every timer ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.errors import WorkerDied
from tests.stage import Running, Stage, eventually

_SECONDS = 2.0
_HOOKS = """
import time
class Plugin:
    @hookimpl
    def slow(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"
    @hookimpl
    def transform(self, text: str) -> str:
        return text
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    stage = Stage()
    yield stage
    stage.close()
    sys.setswitchinterval(interval)


def _call(plugin: Running, number: int, until: float, strange: list[BaseException]) -> None:
    """Call until then, and keep each failure that is not the end of a worker that was killed."""
    while time.monotonic() < until:
        try:
            if number == 0:
                plugin("slow", 0.003)
            else:
                assert plugin("transform", str(number)) == str(number)
        except WorkerDied as error:
            if error.reason is not None:
                strange.append(error)
        except BaseException as error:
            strange.append(error)


def test_a_heartbeat_a_thousand_times_a_second(stage: Stage, tmp_path: Path) -> None:
    """Six callers, and a worker that is killed now and then: each end is that kill's and none the heartbeat's."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _HOOKS), heartbeat=0.001, hung_after=20.0, threads=2)
    ends: list[Any] = []

    def died(ended: Any) -> None:
        ends.append(ended)
        threading.Thread(target=plugin.remote.restart, args=(lambda via: None,)).start()

    plugin.remote.watch(died)
    until = time.monotonic() + _SECONDS
    strange: list[BaseException] = []
    callers = [threading.Thread(target=_call, args=(plugin, number, until, strange)) for number in range(6)]
    for caller in callers:
        caller.start()
    while time.monotonic() < until:
        pid = plugin.remote.pid
        if pid is not None and plugin.remote._state.value == "ready":
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)  # a pace, no wait for anything
    for caller in callers:
        caller.join(30)
    assert strange == []
    assert eventually(lambda: plugin.remote._state.value == "ready")
    assert {(ended.exit, ended.reason) for ended in ends} == {(-signal.SIGKILL, None)}
    worker: Any = plugin.remote._traffic.worker
    assert plugin("transform", "well") == "well"
    assert eventually(lambda: not worker.vigil.awake)
