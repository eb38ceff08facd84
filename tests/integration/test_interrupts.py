"""Ctrl-C in the middle of an operation: whichever step it comes at, whole versions are left, callers go on, and the host can be closed.

CPython delivers a signal on the main thread where a function is entered, among other places; that is where these tests put it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.hooks.gate import HookGate
from blackhole_core.hooks.manager import HookManager
from blackhole_core.lifecycle.instance import Instance
from blackhole_core.lifecycle.snapshots import SnapshotKeeper
from blackhole_core.lifecycle.standstill import Standstill
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.lifecycle.swap import Swap
from tests.integration.managed import Log, manager
from tests.plugins.build import plugin_dir
from tests.stage import eventually

Sources = Mapping[tuple[str, str], Path]

#: Seconds within which whatever works is answered.
PATIENCE = 30.0


@contextlib.contextmanager
def _interrupted_at(function: Callable[..., Any]) -> Iterator[None]:
    """Expect the block to end by the Ctrl-C that comes when this thread first enters ``function``."""
    came = False

    def come(frame: FrameType, event: str, _: object) -> None:
        nonlocal came
        if event == "call" and frame.f_code is function.__code__:
            came = True
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(come)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        sys.setprofile(None)
    assert came


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The directories of some plugins, by name and version."""
    wanted = [("counter", "1.0.0"), ("counter", "2.0.0"), ("full", "1.0.0"), ("full", "2.0.0"), ("upper", "1.0.0")]
    return {one: plugin_dir(*one, tmp_path_factory.mktemp("sources")) for one in wanted}


def _elsewhere(action: Callable[[], Any]) -> Any:
    """Return what ``action`` returns on another thread: for it nothing is to be left by this one, which lives on."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(action).result(PATIENCE)


@pytest.mark.parametrize(
    ("step", "level"),
    [
        (Swap.confirm, "none"),
        (Standstill.__exit__, "none"),
        (HookGate.open, "none"),
        (Swap.settle, "process"),
        (Supervisor.watch, "process"),
        (Swap._end_old, "none"),
        (Instance.end, "process"),
    ],
)
def test_a_swap(step: Callable[..., Any], level: str, sources: Sources) -> None:
    """S-06: the version that serves is watched, the other one ends, and the swap is told as done where it was done."""
    log = Log()
    with manager({"zygote": "off", "sandbox": "off"}, log=log) as pm:
        pm.load("counter", source=sources["counter", "1.0.0"], isolation=level)
        pm.hook.add(amount=5)
        old = pm.parts.supervisor.member("counter").instance
        assert old is not None
        with _interrupted_at(step):
            pm.swap("counter", source=sources["counter", "2.0.0"])
        assert _elsewhere(lambda: pm.hook.total()) == [5]
        serving = pm.parts.supervisor.member("counter").instance
        assert serving is not None
        assert pm.hook.version() == [serving.id.version]
        if serving is old:
            assert log.of("swap.done") == []
            assert pm.plugin("counter").phase is bh.Phase.RUNNING
        else:
            log.wait("plugin.retired")
            assert len(log.of("swap.done")) == 1
        if level == "process":
            assert serving._deaths is not None
            assert serving._deaths._on_death is not None
        assert _elsewhere(lambda: pm.swap("counter", source=sources["counter", "2.0.0"])).ok
        assert pm.hook.total() == [5]
    assert log.of("host.operation_left") == []


@pytest.mark.parametrize("step", [Standstill.__exit__, HookManager.unregister, Supervisor.release, Instance.end])
def test_an_unload(step: Callable[..., Any], sources: Sources) -> None:
    """It leaves as a whole all the same, its worker ends, and it can be loaded again."""
    log = Log()
    with manager({"zygote": "off", "sandbox": "off"}, log=log) as pm:
        pm.load("counter", source=sources["counter", "1.0.0"], isolation="process")
        runner: Any = pm.parts.supervisor.member("counter").instance.runner  # type: ignore[union-attr]  # there is one
        with _interrupted_at(step):
            pm.unload("counter")
        assert eventually(lambda: runner.pid is None)
        assert (pm.plugin("counter").phase, pm.hook.total()) == (bh.Phase.STOPPED, [])
        assert _elsewhere(lambda: pm.load("counter", source=sources["counter", "1.0.0"])).phase is bh.Phase.RUNNING


@pytest.mark.parametrize("step", [Instance.__init__, Instance.begin, Instance.serve, Supervisor.watch, SnapshotKeeper.begin])
def test_a_load(step: Callable[..., Any], sources: Sources) -> None:
    """H-05: nothing is left of it, it is FAILED, and it can be tried again."""
    with manager({"zygote": "off", "sandbox": "off"}) as pm:
        with _interrupted_at(step):
            pm.load("counter", source=sources["counter", "1.0.0"], isolation="process")
        assert (pm.plugin("counter").phase, pm.hook.total()) == (bh.Phase.FAILED, [])
        assert _elsewhere(lambda: pm.load("counter", source=sources["counter", "1.0.0"])).phase is bh.Phase.RUNNING


def test_a_state_export(sources: Sources) -> None:
    """Calls go on: the gates do not stay closed."""
    with manager() as pm:
        pm.load("counter", source=sources["counter", "1.0.0"], isolation="none")
        with _interrupted_at(Standstill.__exit__):
            pm.export_state("counter")
        assert _elsewhere(lambda: pm.hook.add(amount=5)) == [5]
        assert _elsewhere(lambda: pm.export_state("counter")).data == {"count": 5}


@pytest.mark.parametrize("step", [threading.Condition.__enter__, threading.Condition.__exit__])
def test_a_lock_is_not_kept(step: Callable[..., Any], sources: Sources) -> None:
    """``threading.Condition`` is entered and left by functions in Python, between whose steps a lock can be lost: the supervisor's own is none."""
    with manager() as pm:
        pm.load("upper", source=sources["upper", "1.0.0"], isolation="none")
        supervisor = pm.parts.supervisor

        def come(frame: FrameType, event: str, function: Any) -> None:
            if frame.f_code is step.__code__ and event in {"call", "c_return"}:
                sys.setprofile(None)
                raise KeyboardInterrupt

        for action in (supervisor.members, supervisor.operation_here, supervisor.member("upper").turnstile.open):
            sys.setprofile(come)
            with contextlib.suppress(KeyboardInterrupt):
                action()  # type: ignore[operator]  # of three signatures
            sys.setprofile(None)
            _elsewhere(action)  # type: ignore[arg-type]


def test_the_end_of_a_host_with_an_old_version_in_use(sources: Sources) -> None:
    """S-02: what was replaced, and is still in a call, is ended where no Ctrl-C comes."""
    with manager({"zygote": "off", "sandbox": "off", "stop_grace": 0.3}) as pm:
        pm.load("full", source=sources["full", "1.0.0"], isolation="process")
        runner: Any = pm.parts.supervisor.member("full").instance.runner  # type: ignore[union-attr]  # there is one

        def call() -> None:
            with contextlib.suppress(bh.PluginError):
                pm.hook.slow(seconds=60.0)

        caller = threading.Thread(target=call)
        caller.start()
        assert eventually(lambda: not runner.drained(0))
        assert pm.swap("full", source=sources["full", "2.0.0"]).retiring
        with _interrupted_at(threading.Thread.join):
            pm.parts.supervisor.close()
        caller.join(PATIENCE)
        assert eventually(lambda: runner.pid is None)
