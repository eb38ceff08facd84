"""Calls that kill every worker they are given to: found, refused, and let through again."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import blackhole_core as bh
from tests.integration.managed import Log, manager

PATIENT = {"restart": {"intensity": 20, "period": 60, "delay": 0.01, "max_delay": 0.01}}

_PLUGIN = """
import os, time
import blackhole_core as bh
hookimpl = bh.HookimplMarker("notes")
class Plugin:
    @hookimpl
    def transform(self, text: str) -> str:
        if text.startswith("die"):
            os._exit(3)
        return text.upper()
    @hookimpl
    def slow(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"
    @hookimpl
    def blob(self, size: int) -> bytes:
        return b""
    @bh.hookimpl
    def plugin_handle(self, request):
        if len(request["data"]) > 1_000_000 or request["method"] == "die":
            os._exit(4)
        return "well"
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "fragile.py").write_text(_PLUGIN, "utf-8")
    (tmp_path / "plugin.yaml").write_text("name: fragile\nversion: 1.0.0\nentry: fragile:Plugin\n", "utf-8")
    return tmp_path


def _killed(pm: bh.PluginManager, text: str, times: int) -> None:
    for _ in range(times):
        with pytest.raises(bh.WorkerDied):
            pm.hook.transform(text=text)


def test_the_third_death_is_the_last(source: Path) -> None:
    """The fourth call fails at once, untried; others go on; ``release_poison`` ends it, and so does a reload."""
    log = Log()
    with manager(PATIENT, log=log) as pm:
        fragile = pm.load("fragile", source=source)
        _killed(pm, "die", 3)
        told = log.wait("call.poisoned").data
        log.wait("worker.restarted", 3)
        for _ in range(2):
            with pytest.raises(bh.PoisonedCall, match=r"the same call ended 3 workers; release_poison\(\)") as caught:
                pm.hook.transform(text="die")
        assert (caught.value.hook, caught.value.deaths, fragile.poisoned) == ("transform", 3, (caught.value.call,))
        assert (told["call"], fragile.as_dict()["poisoned"]) == (caught.value.call, [caught.value.call])
        assert pm.hook.transform(text="well") == ["WELL"]
        assert len(log.of("worker.died")) == 3
        assert fragile.release_poison() == (caught.value.call,)
        assert fragile.release_poison() == fragile.poisoned == ()
        _killed(pm, "die", 3)
        assert log.wait("call.poisoned", 2).data == told
        assert fragile.poisoned == (caught.value.call,)
        log.wait("worker.restarted", 6)
        (source / "fragile.py").write_text(_PLUGIN + "\n", "utf-8")
        pm.reload("fragile")
        assert fragile.poisoned == ()


def test_an_answer_clears_a_call(source: Path) -> None:
    """It is not the call's fault when it is well most of the time."""
    log = Log()
    with manager({**PATIENT, "poison_deaths": 2}, log=log) as pm:
        fragile = pm.load("fragile", source=source)
        died: list[bh.WorkerDied] = []

        def call() -> None:
            try:
                pm.hook.slow(seconds=1.5)
            except bh.WorkerDied as error:
                died.append(error)

        for number in range(1, 4):
            assert pm.hook.slow(seconds=1.5) == ["slept"] if number > 1 else True
            caller = threading.Thread(target=call)
            caller.start()
            runner = pm.parts.supervisor.member("fragile").instance.runner  # type: ignore[union-attr]  # there is one
            while runner.drained(0):
                time.sleep(0.001)
            assert fragile.pid is not None
            os.kill(fragile.pid, signal.SIGKILL)
            caller.join(30)
            log.wait("worker.restarted", number)
        assert (len(died), log.of("call.poisoned"), fragile.poisoned) == (3, [], ())


def test_those_that_wait_are_refused_as_well(source: Path) -> None:
    """Ten callers with the same bad input cost three workers, not ten."""
    log = Log()
    with manager(PATIENT, log=log) as pm:
        pm.load("fragile", source=source)
        outcomes: list[BaseException] = []

        def call() -> None:
            try:
                pm.hook.transform(text="die")
            except bh.PluginError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=call) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["PoisonedCall"] * 7 + ["WorkerDied"] * 3


def test_many_calls_at_once_are_told_apart(source: Path) -> None:
    """``map`` with one bad call among fifty: that one is found, the rest is answered."""
    with manager({**PATIENT, "poison_deaths": 2}) as pm:
        fragile = pm.load("fragile", source=source)
        calls = [{"text": "die" if number == 25 else str(number)} for number in range(50)]
        for _ in range(200):
            outcomes = list(pm.hook.transform.map(calls, return_exceptions=True))
            if fragile.poisoned:
                break
        outcomes = list(pm.hook.transform.map(calls, return_exceptions=True))
        assert [number for number, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)] == [25]
        assert isinstance(outcomes[25], bh.PoisonedCall)


def test_a_request_with_much_data_is_known_again(source: Path) -> None:
    """What lies in shared memory belongs to the arguments; ``execute`` is a call like any other."""
    log = Log()
    with manager({**PATIENT, "poison_deaths": 2}, log=log) as pm:
        fragile = pm.load("fragile", source=source)
        large = b"x" * 3_000_000
        for number in (1, 2):
            with pytest.raises(bh.WorkerDied):
                pm.execute("fragile", data=large)
            log.wait("worker.restarted", number)  # while there is no worker, there is no memory to put it into, and it travels another way
        with pytest.raises(bh.PoisonedCall):
            pm.execute("fragile", data=large)
        with pytest.raises(bh.WorkerDied):
            pm.execute("fragile", data=large + b"y")
        assert pm.execute("fragile", data=b"small") == "well"
        assert len(fragile.poisoned) == 1
