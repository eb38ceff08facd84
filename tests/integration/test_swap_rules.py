"""The rules of a swap: who may ask for it, when, and what is told of it."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from notes_api import NotesSpecs, hookimpl

import blackhole_core as bh
from blackhole_core.lifecycle.supervisor import Supervisor
from blackhole_core.lifecycle.swap import Swapper
from tests.integration.managed import LEVELS, Log, manager, renumbered, wheel
from tests.levels import require_level
from tests.plugins.build import plugin_dir


@pytest.mark.parametrize("level", [*LEVELS, "container"])
def test_a_call_that_swaps_its_own_plugin_is_refused(level: str, tmp_path: Path) -> None:
    """A call cannot wait for its own end: the error says so, at once, and the call goes on. From a worker it comes through a callback."""
    require_level(level)
    with manager() as pm:

        class Swapper:
            """Answers the plugin's callback, on the thread of the outer call."""

            @hookimpl
            def transform(self, text: str) -> str:
                with pytest.raises(bh.SwapFailed, match="from inside a call") as caught:
                    pm.swap("asker", source=new)
                return f"refused in {caught.value.phase}"

        pm.load("asker", source=wheel("asker", "1.0.0", tmp_path), isolation=level)
        new = renumbered("asker", "1.0.0", "1.1.0", tmp_path)
        pm.register(Swapper())
        [answer] = pm.hook.ask(text="transform:hi")
        assert "refused in" in answer
        assert pm.swap("asker", source=new).to_version == "1.1.0"


@pytest.mark.parametrize("level", LEVELS)
def test_a_request_that_swaps_or_unloads_its_own_plugin_is_refused(level: str, tmp_path: Path) -> None:
    """The same for ``execute``."""
    tree = _handler_tree(tmp_path)
    with manager() as pm:
        refused: list[str] = []

        class Meddler:
            @hookimpl
            def transform(self, text: str) -> str:
                for action in (lambda: pm.unload("upper"), lambda: pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path))):
                    try:
                        action()
                    except bh.BlackholeError as error:
                        refused.append(str(error))
                return text

        pm.load("upper", source=tree, isolation=level)
        pm.register(Meddler())
        assert pm.execute("upper", "call_back") == "done"
        assert len(refused) == 2
        assert all("from inside a call" in sentence for sentence in refused)
        assert pm.execute("upper") == "here"


@pytest.mark.parametrize("operation", ["swap", "unload", "reload", "rollback", "export_state"])
def test_two_operations_at_once_are_refused(operation: str, tmp_path: Path) -> None:
    """S-13: while a swap is under way, another operation on the plugin is refused by name; a plugin beside it is not concerned."""
    other = wheel("counter", "2.0.0", tmp_path)
    caught: list[BaseException] = []

    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path), isolation="none")

        def meddle(event: bh.Event) -> None:
            if event.name == "swap.phase" and event.plugin == "counter" and event.data["phase"] == "load":
                thread = threading.Thread(target=lambda: attempt())
                thread.start()
                thread.join()
                pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path))

        def attempt() -> None:
            with pytest.raises(bh.SwapInProgress, match="a swap is in progress") as error:
                {
                    "swap": lambda: pm.swap("counter", source=other),
                    "unload": lambda: pm.unload("counter"),
                    "reload": lambda: pm.reload("counter"),
                    "rollback": lambda: pm.rollback("counter"),
                    "export_state": lambda: pm.export_state("counter"),
                }[operation]()
            caught.append(error.value)

        pm.on_event(meddle)
        assert pm.swap("counter", source=other).ok
        assert len(caught) == 1
        assert pm.hook.transform(text="hi") == ["HI!"]


def test_a_listener_that_swaps_the_plugin_being_swapped_is_refused(tmp_path: Path) -> None:
    """S-13: on the very thread of the swap as well, and it does not wait for itself."""
    caught: list[BaseException] = []
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))

        def meddle(event: bh.Event) -> None:
            if event.name == "swap.phase" and event.data["phase"] == "switch":
                for action in (lambda: pm.swap("upper", source=wheel("upper", "1.0.0", tmp_path)), pm.close):
                    try:
                        action()
                    except (bh.SwapInProgress, RuntimeError) as error:
                        caught.append(error)

        pm.on_event(meddle)
        assert pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path)).ok
        assert [type(error) for error in caught] == [bh.SwapInProgress, RuntimeError]
        assert "cannot be closed from inside a swap of plugin upper" in str(caught[1])
        assert pm.hook.transform(text="hi") == ["HI!"]


@pytest.mark.parametrize("step", range(1, 40, 2))
def test_an_interrupt_at_any_step_of_claiming_a_plugin_does_not_keep_the_host_open(tmp_path: Path, step: int) -> None:
    """Ctrl-C comes between any two lines, also where an operation begins, or would say that it has ended: what is left is over, for those who go on and for those who close."""
    left = step
    old, new = wheel("upper", "1.0.0", tmp_path), wheel("upper", "2.0.0", tmp_path)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        ours = frame.f_code in (Supervisor.claim.__wrapped__.__code__, Swapper.swap.__code__)  # type: ignore[attr-defined]  # the context manager's generator
        return trace if ours else None

    gc.collect()  # the claim that the step before left would be closed by a collection, under this trace: nobody gets an interrupt that comes there
    pm = bh.PluginManager("notes")
    try:
        pm.add_hookspecs(NotesSpecs)
        pm.load("upper", source=old)
        sys.settrace(trace)
        try:
            pm.swap("upper", source=new)
        except KeyboardInterrupt:
            sys.settrace(None)
            assert pm.swap("upper", source=new).ok
        finally:
            sys.settrace(None)
        assert pm.hook.transform(text="hi") == ["HI!"]
    finally:
        pm.close()
    with pytest.raises(RuntimeError, match="closed"):
        pm.load("upper", source=old)


def test_an_operation_that_is_left_does_not_stand_for_a_later_one(tmp_path: Path) -> None:
    """Its own end, which may come late (when the traceback of the interrupt is let go), ends nothing that began after it; nor does it outlive its thread."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        assert pm._parts is not None
        supervisor = pm._parts.supervisor
        member = supervisor.member("upper")

        def interrupted() -> contextlib.AbstractContextManager[None]:
            claim = supervisor.claim(member, "a swap")
            claim.__enter__()
            return claim

        first = interrupted()
        with supervisor.claim(member, "a swap"):
            first.__exit__(None, None, None)
            assert supervisor.operation_here() == f"a swap of plugin {member.label}"
        thread = threading.Thread(target=interrupted)
        thread.start()
        thread.join()
        assert pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path)).ok


@pytest.mark.parametrize("level", LEVELS)
def test_closing_waits_for_a_swap_and_lets_none_begin(level: str, tmp_path: Path) -> None:
    """F30: the swap under way ends one way or the other; everything it started is gone afterwards (the leak check looks)."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        new = wheel("counter", "2.0.0", tmp_path)
        loading, closing, outcome = threading.Event(), threading.Event(), []

        def hold(event: bh.Event) -> None:
            if event.name == "swap.phase" and event.data["phase"] == "load":
                loading.set()
                closing.wait(10)

        pm.on_event(hold)

        def swap() -> None:
            try:
                outcome.append(pm.swap("counter", source=new))
            except bh.BlackholeError as error:
                outcome.append(error)

        thread = threading.Thread(target=swap)
        thread.start()
        assert loading.wait(10)
        closing.set()
        pm.close()
        thread.join(30)
        [report] = outcome
        assert isinstance(report, bh.SwapReport)
        assert pm.get_plugins() == set()
        with pytest.raises(RuntimeError, match="closed"):
            pm.swap("counter", source=new)


def test_a_plugin_that_does_not_run_cannot_be_swapped(tmp_path: Path) -> None:
    """The sentence says what to do instead."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        pm.unload("upper")
        with pytest.raises(bh.SwapFailed, match="is not running \\(phase stopped\\); load it instead"):
            pm.swap("upper", source=wheel("upper", "2.0.0", tmp_path))
        with pytest.raises(bh.UnknownPlugin):
            pm.swap("unheard-of", "1.0.0")


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_version_and_code_is_a_no_op(level: str, tmp_path: Path) -> None:
    """S-14: nothing is started, and the report says so."""
    with manager() as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation=level)
        before = pm.get_plugin("counter")
        report = pm.swap("counter", source=wheel("counter", "1.0.0", tmp_path))
        assert report.unchanged
        assert pm.get_plugin("counter") is before
        assert pm.plugin("counter").generation == 1


def test_a_version_that_is_not_there_fails_in_prepare(tmp_path: Path) -> None:
    """The versions that are there are named."""
    with manager() as pm:
        pm.load("upper", source=wheel("upper", "1.0.0", tmp_path))
        with pytest.raises(bh.SwapFailed, match=r"9\.0\.0") as caught:
            pm.swap("upper", "9.0.0")
        assert caught.value.phase == "prepare"


def test_the_phases_are_told_in_order_and_timed(tmp_path: Path) -> None:
    """What a progress display lives on."""
    log = Log()
    with manager(log=log) as pm:
        pm.load("counter", source=wheel("counter", "1.0.0", tmp_path), isolation="none")
        report = pm.swap("counter", source=wheel("counter", "2.0.0", tmp_path))
        phases = list(dict.fromkeys(event.data["phase"] for event in log.of("swap.phase")))
        assert phases == ["prepare", "load", "export", "import", "switch", "cleanup"] == list(report.phases)
        assert all(seconds > 0 for seconds in report.phases.values())
        assert log.of("swap.done")[0].data["report"]["to_version"] == "2.0.0"
        assert log.of("swap.failed") == []


def _handler_tree(tmp_path: Path) -> Path:
    """Return an ``upper`` that answers ``execute``, and calls its host back when asked to."""
    tree = plugin_dir("upper", "1.0.0", tmp_path)
    code = tree / "notes_upper" / "__init__.py"
    code.write_text(
        "import blackhole_core as bh\n\n\n"
        "class Upper:\n"
        "    @bh.hookimpl\n"
        "    def plugin_start(self, context):\n"
        "        self.hook = context.hook\n\n"
        "    @bh.hookimpl\n"
        "    def plugin_handle(self, request):\n"
        "        if request['method'] == 'call_back':\n"
        "            self.hook.transform(text='x')\n"
        "            return 'done'\n"
        "        return 'here'\n",
        "utf-8",
    )
    return tree
