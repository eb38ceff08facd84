"""Circuit breaker and bulkhead at every level; and that they are not there when nobody wants them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import notes_api
import pytest

import blackhole_core as bh
from tests.integration.managed import LEVELS, Log, manager, released, wheel
from tests.stage import eventually

BREAKER = {"breaker": {"failures": 2, "period": 60, "open": 30}}

_HANDLES = """
import blackhole_core as bh
class Handles:
    @bh.hookimpl
    def plugin_handle(self, request):
        raise ValueError("bad request")
"""


@pytest.mark.parametrize("level", LEVELS)
def test_a_plugin_that_keeps_failing_is_left_alone_for_a_while(level: str, tmp_path: Path) -> None:
    """Two failures, refused untried, one on trial, well again; the neighbour serves on."""
    log = Log()
    with manager(BREAKER, log=log) as pm:
        faulty = pm.load("faulty", source=wheel("faulty", "1.0.0", tmp_path), isolation=level)
        clock = _clock_of(pm, "faulty")
        for _ in range(2):
            with pytest.raises(ValueError, match="on purpose") as raised:
                pm.hook.fail(kind="value_error")
            assert f"plugin faulty@1.0.0, hook fail, level {level}" in raised.value.__notes__
        assert (faulty.breaker, faulty.as_dict()["breaker"]) == ("open", "open")
        with pytest.raises(bh.BreakerOpen, match="it failed too often and is left alone; try again in 30 s") as caught:
            pm.hook.fail(kind="none")
        assert (caught.value.hook, caught.value.retry_after) == ("fail", 30)
        [opened] = log.of("breaker.opened")
        assert (opened.data["failures"], opened.data["seconds"], "on purpose" in opened.data["error"]) == (2, 30, True)
        clock[0] += 30
        assert faulty.breaker == "half-open"
        assert pm.hook.fail(kind="none") == ["well"]
        assert (faulty.breaker, len(log.of("breaker.closed"))) == ("closed", 1)


@pytest.mark.parametrize("level", LEVELS)
def test_no_more_calls_wait_and_run_than_may(level: str, tmp_path: Path) -> None:
    """One runs, the second is refused at once; told once, not with each."""
    log = Log()
    with released(), manager({"max_calls": 1}, log=log) as pm:
        full = pm.load("full", source=wheel("full", "1.0.0", tmp_path), isolation=level)
        caller = threading.Thread(target=lambda: pm.hook.slow(seconds=1.0))
        caller.start()
        guard: Any = pm.parts.supervisor.member("full").instance.guard  # type: ignore[union-attr]  # there is one
        assert eventually(lambda: guard._running == 1)
        for _ in range(3):
            with pytest.raises(bh.TooManyCalls, match=r"1 of its calls wait or run, more are not allowed \(max_calls\)"):
                pm.hook.slow(seconds=0.0)
        caller.join(30)
        assert pm.hook.slow(seconds=0.0) == ["1.0.0"]
        assert [event.data["max_calls"] for event in log.of("plugin.overloaded")] == [1]
        assert full.breaker is None


def test_calls_that_never_reached_the_plugin_are_not_its_failures(tmp_path: Path) -> None:
    """A value that cannot cross is the caller's fault."""
    with manager(BREAKER) as pm:
        faulty = pm.load("faulty", source=wheel("faulty", "1.0.0", tmp_path), isolation="process")
        for _ in range(3):
            with pytest.raises(bh.CannotCross):
                pm.hook.fail(kind=object())
        assert faulty.breaker == "closed"
        assert pm.hook.fail(kind="none") == ["well"]


def test_execute_and_map_go_through_it(tmp_path: Path) -> None:
    """Every way to a plugin."""
    with manager(BREAKER) as pm:
        pm.load("faulty", source=wheel("faulty", "1.0.0", tmp_path), isolation="thread")
        calls = [{"kind": "value_error"}] * 5
        outcomes = list(pm.hook.fail.map(calls, return_exceptions=True))
        assert [type(outcome).__name__ for outcome in outcomes] == ["ValueError"] * 2 + ["BreakerOpen"] * 3
        (tmp_path / "handles.py").write_text(_HANDLES, "utf-8")
        (tmp_path / "plugin.yaml").write_text("name: handles\nversion: 1.0.0\nentry: handles:Handles\n", "utf-8")
        pm.load("handles", source=tmp_path, isolation="none")
        for _ in range(2):
            with pytest.raises(ValueError, match="bad request"):
                pm.execute("handles")
        with pytest.raises(bh.BreakerOpen):
            pm.execute("handles")


def test_a_new_version_begins_with_a_closed_breaker(tmp_path: Path) -> None:
    """It is not to blame for the old one."""
    with manager(BREAKER) as pm:
        counter = pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        for _ in range(2):
            with pytest.raises(TypeError):
                pm.hook.add(amount="text")
        assert counter.breaker == "open"
        assert pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path)).ok
        assert (counter.breaker, pm.hook.add(amount=1)) == ("closed", [1])


def test_without_one_nothing_stands_before_a_call(tmp_path: Path) -> None:
    """At level none the plugin itself is what is registered: it costs nothing when it is off."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="none")
        instance = pm.parts.supervisor.member("upper").instance
        assert instance is not None
        assert instance.guard is None
        assert pm.get_plugin("upper") is instance.runner.plugin_object()


def test_hook_wrappers_are_let_through(tmp_path: Path) -> None:
    """What fails inside of them is another plugin."""
    with manager({**BREAKER, "plugins": {"wrapper": {"max_calls": 1}}}) as pm:
        pm.load("wrapper", source=wheel("wrapper", "1.0.0", tmp_path), isolation="none")
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="none")
        assert pm.hook.transform(text="hi")
        assert pm.project_name == notes_api.PROJECT


def _clock_of(pm: bh.PluginManager, name: str) -> list[float]:
    """Have the plugin's guard look at a clock that stands still, and return it."""
    guard: Any = pm.parts.supervisor.member(name).instance.guard  # type: ignore[union-attr]  # there is one
    now = [1000.0]
    guard._clock = lambda: now[0]
    return now
