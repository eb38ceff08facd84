"""Many calls at once, the same at every level: what :meth:`Runner.call_many` promises."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import notes_api
import pytest

import blackhole_core as bh
from blackhole_core.errors import CallTimeout, PluginUnloaded
from blackhole_core.messages import Calls, Replies
from tests.levels import MACHINES, require_level
from tests.stage import Running, Stage, eventually, in_threads

LEVELS = ("none", "thread", "process", "container", *(["vm"] if MACHINES else []))

_PLUGIN = """
import contextvars, sys, time
from notes_api import NotesError, release
from notes_asking import Asking
from blackhole_core.callcontext import get_deadline
seen = contextvars.ContextVar("seen", default=0)
class Plugin(Asking):
    def __init__(self):
        self.begun = []
    @hookimpl
    def add(self, amount: int) -> int:
        self.begun.append(amount)
        if amount < 0:
            raise NotesError(f"no {amount}")
        if amount == 1000:
            sys.exit(3)
        if amount == 999:
            release.wait(20)
        if amount > 1000:
            time.sleep((amount - 1000) / 1000)
        return amount * 10 + 1
    @hookimpl
    def total(self) -> int:
        seen.set(seen.get() + 1)
        return seen.get()
    @hookimpl
    def collect(self, items: list[int]) -> dict[str, int]:
        return {str(place): number for place, number in enumerate(self.begun)}
    @hookimpl
    def ask(self, text: str) -> str:
        return repr(self.hook.add.map([{"amount": int(part)} for part in text.split(",")])) if "," in text else str(get_deadline() is not None)
"""


@pytest.fixture(params=LEVELS)
def plugin(request: pytest.FixtureRequest, stage: Stage, tmp_path: Path) -> Running:
    require_level(request.param)
    return stage.start("adhoc", str(request.param), **stage.write(tmp_path, _PLUGIN))


@pytest.fixture
def threaded(stage: Stage, tmp_path: Path) -> Running:
    return stage.start("adhoc", "thread", call_timeout=0.5, hang_grace=0.2, **stage.write(tmp_path, _PLUGIN))


def _many(plugin: Running, *amounts: int, stop: bool = False, hook: str = "add") -> Replies:
    index = next(place for place, known in enumerate(plugin.surface.implementations) if known.hook == hook)
    return plugin.runner.call_many(Calls(hook, [amounts], len(amounts), index, stop))


def _begun(plugin: Running) -> list[int]:
    return list(plugin("collect", []).values())


def test_the_replies_are_those_of_the_calls(plugin: Running) -> None:
    """Results in order, as many as were asked for."""
    assert list(_many(plugin, *range(100)).results) == [amount * 10 + 1 for amount in range(100)]
    assert list(_many(plugin, 5).results) == [51]
    assert _begun(plugin) == [*range(100), 5]


def test_a_failure_stands_for_its_call(plugin: Running) -> None:
    """The others are answered; the error is noted as that of a plain call is."""
    replies = _many(plugin, 1, -2, 3)
    assert list(replies.results) == [11, None, 31]
    [(place, error)] = replies.failures.items()
    assert place == 1
    assert isinstance(error, notes_api.NotesError)
    assert any(note.startswith("plugin adhoc@1.0.0, hook add, level") for note in error.__notes__)


def test_the_first_failure_may_be_the_end(plugin: Running) -> None:
    """What was left out was not begun, and what is in the replies was, once."""
    replies = _many(plugin, 1, -2, 3, -4, stop=True)
    assert list(replies.results)[:2] == [11, None]
    assert min(replies.failures) == 1
    assert _begun(plugin) == [1, -2, 3, -4][: len(replies.results)]


def test_a_deadline_ends_the_rest(plugin: Running) -> None:
    """What was answered stays answered, what runs fails, and each is begun at most once."""
    if plugin.runner.level.value == "none":
        pytest.skip("at level none a running call cannot be interrupted")
    with bh.deadline(2.0):
        replies = _many(plugin, 1, 2, 4000, 4)
    assert list(replies.results)[:3] == [11, 21, None]
    assert isinstance(replies.failures[2], CallTimeout)
    assert plugin.runner.drained(10)
    assert [amount for amount in _begun(plugin) if amount == 4] == []


def test_a_stopped_plugin_says_so(plugin: Running) -> None:
    """There is a reply, and it says that nothing was executed."""
    plugin.runner.stop()
    replies = _many(plugin, 1, 2)
    assert isinstance(replies.failures[0], PluginUnloaded)


def test_hooks_map_through_any_level(stage: Stage, plugin: Running) -> None:
    """``pm.hook.x.map`` is a loop of calls, at every level and from inside of a call of the same plugin."""
    items = [{"amount": amount} for amount in (1, 2, -3, 4)]
    *fine, last = stage.hook.add.map([items[0], items[1], items[3], items[2]], window=2, return_exceptions=True)
    assert fine == [[11], [21], [41]]
    assert isinstance(last, notes_api.NotesError)
    with pytest.raises(notes_api.NotesError, match="no -3") as caught:
        stage.hook.add.map(items)
    assert "item 2 of map" in caught.value.__notes__


@pytest.mark.parametrize("level", ["none", "thread"])
def test_a_plugin_maps_its_own_hook(stage: Stage, level: str, tmp_path: Path) -> None:
    """The calls run on the thread that is blocked in the outer one: no deadlock."""
    plugin = stage.start("adhoc", level, **stage.write(tmp_path, _PLUGIN))
    assert plugin("ask", "1,2,3") == "[[11], [21], [31]]"


def test_another_plugin_maps_back(stage: Stage, tmp_path: Path) -> None:
    """A thread that is blocked in a call runs the many calls that come back to it, here through another plugin."""
    relay = """
from notes_asking import Asking
class Plugin(Asking):
    @hookimpl
    def transform(self, text: str) -> str:
        return repr(self.hook.add.map([{"amount": number} for number in range(3)]))
"""
    back = """
from notes_asking import Asking
class Plugin(Asking):
    @hookimpl
    def add(self, amount: int) -> int:
        return amount
    @hookimpl
    def ask(self, text: str) -> str:
        return self.hook.transform(text=text)[0]
"""
    stage.start("relay", "thread", **stage.write(tmp_path, relay, "relay"))
    outer = stage.start("back", "thread", **stage.write(tmp_path / "b", back, "back"))
    assert outer("ask", "go") == "[[0], [1], [2]]"


# --- level thread ----------------------------------------------------------------------------------------------------


def test_each_call_has_a_context_of_its_own(threaded: Running) -> None:
    """What one of them sets is not seen by the next, nor by the caller."""
    index = next(place for place, known in enumerate(threaded.surface.implementations) if known.hook == "total")
    assert list(threaded.runner.call_many(Calls("total", [], 4, index)).results) == [1] * 4


def test_a_deadline_that_has_passed_lets_nothing_begin(threaded: Running) -> None:
    """There is a reply all the same."""
    with bh.deadline(-1.0):
        replies = _many(threaded, 1, 2, 3)
    assert isinstance(replies.failures[0], CallTimeout)
    assert all(place in replies.failures for place in range(len(replies.results)))
    assert _begun(threaded) == []


def test_an_exit_of_one_call_is_its_failure(threaded: Running) -> None:
    """The calls behind it run on."""
    replies = _many(threaded, 1, 1000, 3)
    assert list(replies.results) == [11, None, 31]
    assert "SystemExit" in str(replies.failures[1])


def test_each_call_has_the_plugin_s_timeout(stage: Stage, tmp_path: Path) -> None:
    """Together they may take longer than one of them may."""
    plugin = stage.start("adhoc", "thread", call_timeout=2.0, **stage.write(tmp_path, _PLUGIN))
    replies = _many(plugin, *[1500] * 5)
    assert len(replies.results) == 5
    assert not replies.failures


def test_a_call_that_hangs_is_set_aside(stage: Stage, threaded: Running) -> None:
    """It fails with its own timeout, its thread is quarantined, and who comes next is answered."""
    replies = _many(threaded, 1, 2500, 3)
    assert list(replies.results) == [11, None]
    assert isinstance(replies.failures[1], CallTimeout)
    assert "still running" in str(replies.failures[1])
    assert eventually(lambda: "plugin.quarantined" in stage.event_names())
    assert threaded("add", 4) == 41
    assert threaded.runner.drained(10)


def test_all_threads_take_part(stage: Stage, tmp_path: Path) -> None:
    """With three threads three calls of a batch run at once."""
    source = """
import threading
class Plugin:
    def __init__(self):
        self.together = threading.Barrier(3)
    @hookimpl
    def add(self, amount: int) -> int:
        self.together.wait(10)
        return amount
"""
    plugin = stage.start("adhoc", "thread", threads=3, **stage.write(tmp_path, source))
    assert list(_many(plugin, *range(9)).results) == list(range(9))


def test_ctrl_c_lets_no_further_call_begin(stage: Stage, tmp_path: Path) -> None:
    """An interrupted caller's calls end with the one that runs."""
    plugin = stage.start("adhoc", "thread", **stage.write(tmp_path, _PLUGIN))
    begun = plugin.runner._hosted.plugin.begun  # type: ignore[attr-defined]  # the module, or object, is the test's own
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        assert eventually(lambda: 999 in begun)
        signal.pthread_kill(main, signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            _many(plugin, 1, 999, 3)
        sent.result()
    notes_api.release.set()
    assert plugin.runner.drained(10)
    assert _begun(plugin) == [1, 999]


@pytest.mark.usefixtures("fast_switching")
@pytest.mark.parametrize("threads", [1, 3])
def test_no_call_is_lost_or_doubled(stage: Stage, threads: int, tmp_path: Path) -> None:
    """Callers with short deadlines race with each other and with the end of the plugin: what was answered ran once, what was left out never."""
    source = stage.write(tmp_path, _PLUGIN)
    for _ in range(8):
        runner = stage.make("adhoc", "thread", threads=threads, **source)
        plugin = Running(runner, runner.start())
        index = next(place for place, known in enumerate(plugin.surface.implementations) if known.hook == "add")

        def call(number: int, runner: Any = runner, index: int = index) -> dict[int, str]:
            if number == 0:
                time.sleep(0.02)
                runner.stop()
                return {}
            fates: dict[int, str] = {}
            next_one = number * 100_000
            while len(fates) < 2000:
                amounts = [-place for place in range(next_one, next_one + 32)]
                with bh.deadline(0.001 * number):
                    replies = runner.call_many(Calls("add", [amounts], len(amounts), index))
                for place, _result in enumerate(replies.results):
                    error = replies.failures[place]
                    fates[next_one + place] = (
                        type(error).__name__ if not isinstance(error, CallTimeout) else str(error).rpartition("executed: ")[2]
                    )
                if any(isinstance(error, PluginUnloaded) for error in replies.failures.values()):
                    return fates
                next_one += len(replies.results)
            return fates

        plugin_object = runner._hosted.plugin  # type: ignore[attr-defined]  # the module, or object, is the test's own
        _stopped, *fates = in_threads(4, call)
        ran = [-amount for amount in plugin_object.begun]
        assert len(set(ran)) == len(ran)
        known = {number: fate for some in fates for number, fate in some.items()}
        assert {number for number, fate in known.items() if fate == "NotesError"} <= set(ran)
        assert not {number for number, fate in known.items() if fate == "PluginUnloaded" or fate.startswith("no")} & set(ran)
        assert set(ran) <= set(known)
