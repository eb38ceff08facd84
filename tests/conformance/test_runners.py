"""One suite for every runner: the same calls, the same results, the same errors at none, thread and process."""

from __future__ import annotations

import datetime
import decimal
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import notes_api
import pytest
from notes_api import Note, NotesError

import blackhole_core as bh
from blackhole_core.errors import CallTimeout, LoadFailed, PluginUnloaded, RemoteError
from tests.levels import MACHINES
from tests.stage import Running, Stage, eventually, in_threads

#: The last where there is time for it: `nox -s machines`.
_LAST = ("vm",) if MACHINES else ()
LEVELS = ("none", "thread", "process", "container", *_LAST)
#: Levels whose plugin is in a process of its own.
WORKERS = ("process", "container", *_LAST)
INTERRUPTIBLE = ("thread", "process", "container", *_LAST)
#: At level process a worker is forked by the zygote and called through shared memory; where that cannot be had, it is executed and called by pipes.
FALL_BACKS = "process fall-backs"

_NOTE = Note("a note", ("x", "y"), datetime.datetime(2026, 11, 22, 13, 0, tzinfo=datetime.UTC))


@pytest.fixture(params=(*LEVELS, FALL_BACKS))
def level(request: pytest.FixtureRequest, stage: Stage) -> str:
    return _set_up(stage, request.param)


@pytest.fixture(params=(*INTERRUPTIBLE, FALL_BACKS))
def own_level(request: pytest.FixtureRequest, stage: Stage) -> str:
    """A level at which the plugin has threads of its own, so that callers can give up."""
    return _set_up(stage, request.param)


def _set_up(stage: Stage, way: str) -> str:
    level, _, fall_backs = way.partition(" ")
    if fall_backs:
        stage.use_fall_backs()
    return level


# --- values ----------------------------------------------------------------------------------------------------------

_PLAIN = [
    None, True, 0, -(2**63), 2**64, 1 << 200, 1.5, "", "größe ✓", b"\x00\xff", bytearray(b"x"), (), (1, (2, [3])), [1, 2], {"a": 1}, {1: {2: (3,)}},
    {1, 2}, frozenset({("a", 1)}), complex(1, 2), _NOTE.when, datetime.date(2026, 1, 2), decimal.Decimal("1.10"), uuid.UUID(int=7),
]  # fmt: skip


def test_every_hook_answers_the_same(stage: Stage, level: str) -> None:
    """Arguments and results of all annotated hooks are the same at every level."""
    full = stage.start("full", level)
    stage.hook.started.call_historic(kwargs={"name": "other"})
    assert full("transform", "abc") == "cba"
    assert full("pick", "other") == "other has started"
    assert full("pick", "nobody") is None
    assert full("collect", [1, 2, 3]) == {"sum": 6, "len": 3}
    assert full("blob", 1000) == bytes(range(256)) * 3 + bytes(range(232))
    assert full("slow", 0.001) == "1.0.0"
    assert full("version") == "1.0.0"
    note = full("note", _NOTE)
    assert note == Note("A Note", ("x", "y", "seen"), _NOTE.when)
    assert (type(note), type(note.tags)) == (Note, tuple)
    assert stage.hook.note(note=_NOTE) == [note]


def test_plain_values_arrive_as_they_left(stage: Stage, level: str) -> None:
    """A hook without annotations takes and gives every plain value, with its type."""
    full = stage.start("full", level)
    for value in _PLAIN:
        answer = full("raw", value)
        assert answer == value
        assert type(answer) is type(value)


def test_a_plugin_that_is_a_module(stage: Stage, level: str) -> None:
    """Functions of a module are implementations like methods of an object; lazy imports find the plugin's own modules."""
    modplug = stage.start("modplug", level)
    assert modplug("transform", "x") == "x by modplug"
    assert modplug("version") == "1.0.0"
    assert modplug("pick", "unknown part") is None


def test_contracts_and_state(stage: Stage, level: str) -> None:
    """Contracts are called the same way, and state is kept between calls."""
    counter = stage.start("counter", level)
    assert [counter("add", 2), counter("add", 3), counter("total")] == [2, 5, 5]
    assert counter.contract("plugin_export_state") == {"count": 5}
    counter.contract("plugin_import_state", {"count": 40})
    assert counter("total") == 40


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected", "says"),
    [
        ("value_error", ValueError, "bad value, on purpose"),
        ("key_error", KeyError, "missing"),
        ("notes_error", NotesError, "an error that both sides know"),
        ("recursion", RecursionError, "maximum recursion depth"),
        ("no such kind", LookupError, "faulty knows no kind"),
        ("group", ExceptionGroup, "two at once"),
    ],
)
def test_errors_are_the_same(stage: Stage, level: str, kind: str, expected: type[Exception], says: str) -> None:
    """What a plugin raises reaches the caller as that type, with one note that names plugin, version, hook and level."""
    faulty = stage.start("faulty", level)
    with pytest.raises(expected, match=says) as caught:
        faulty("fail", kind)
    assert type(caught.value) is expected
    assert caught.value.__notes__.count(f"plugin faulty@1.0.0, hook fail, level {level}") == 1
    assert faulty("transform", "still there") == "still there"


def test_causes_and_groups_come_along(stage: Stage, level: str) -> None:
    """The cause of an error and the members of a group are errors of their own types."""
    faulty = stage.start("faulty", level)
    with pytest.raises(ValueError, match="raised from") as caught:
        faulty("fail", "cause")
    assert type(caught.value.__cause__) is KeyError
    with pytest.raises(ExceptionGroup) as group:
        faulty("fail", "group")
    assert [(type(error), error.args) for error in group.value.exceptions] == [(ValueError, ("first",)), (KeyError, ("second",))]


@pytest.mark.parametrize(
    ("kind", "type_name"),
    [("sys_exit", "SystemExit"), ("base_exception", "KeyboardInterrupt"), ("cancelled", "asyncio.exceptions.CancelledError")],
)
def test_what_would_end_a_program_does_not_end_the_host(stage: Stage, own_level: str, kind: str, type_name: str) -> None:
    """A13: SystemExit and its like become RemoteError, with the same name at both levels."""
    faulty = stage.start("faulty", own_level)
    with pytest.raises(RemoteError) as caught:
        faulty("fail", kind)
    assert caught.value.type_name == type_name
    assert faulty("fail", "none") == "well"


def test_an_error_object_that_is_raised_again_has_one_note(stage: Stage, level: str, tmp_path: Path) -> None:
    """A cached exception does not collect copies of the note."""
    source = """
error = ValueError("always the same")
class Plugin:
    @hookimpl
    def version(self) -> str:
        raise error
"""
    plugin = stage.start("adhoc", level, **stage.write(tmp_path, source))
    for _ in range(3):
        with pytest.raises(ValueError, match="always the same") as caught:
            plugin("version")
    assert caught.value.__notes__.count(f"plugin adhoc@1.0.0, hook version, level {level}") == 1


def test_an_error_that_refuses_notes_arrives(stage: Stage, level: str, tmp_path: Path) -> None:
    """An exception class may not keep its own error from its caller."""
    source = """
class Stubborn(ValueError):
    __notes__ = 5
    def add_note(self, note):
        raise RuntimeError("no notes")
class Plugin:
    @hookimpl
    def version(self) -> str:
        raise Stubborn("it")
"""
    plugin = stage.start("adhoc", level, **stage.write(tmp_path, source))
    with pytest.raises(ValueError if level not in WORKERS else RemoteError):
        plugin("version")


# --- deadlines -------------------------------------------------------------------------------------------------------


def test_a_deadline_ends_the_wait(stage: Stage, own_level: str) -> None:
    """The caller gets CallTimeout on time; the plugin serves on when the call ends."""
    full = stage.start("full", own_level)
    begun = time.monotonic()
    with bh.deadline(0.3), pytest.raises(CallTimeout, match="executed: unknown") as caught:
        full("slow", 1.5)
    assert time.monotonic() - begun > 0.25
    assert f"plugin full@1.0.0, hook slow, level {own_level}" in caught.value.__notes__
    assert isinstance(caught.value, TimeoutError)
    assert full("version") == "1.0.0"


def test_a_plugin_s_own_timeout(stage: Stage, own_level: str) -> None:
    """Without a deadline of the caller's the plugin's own holds; with one, the caller's does."""
    full = stage.start("full", own_level, call_timeout=0.1)
    with pytest.raises(CallTimeout):
        full("slow", 1.0)
    with bh.deadline(20):
        assert full("slow", 0.3) == "1.0.0"


_SLOW_COUNTER = """
import time
class Plugin:
    count = 0
    @hookimpl
    def slow(self, seconds: float) -> str:
        time.sleep(seconds)
        return "done"
    @hookimpl
    def add(self, amount: int) -> int:
        self.count += amount
        return self.count
"""


def test_a_call_that_waits_for_its_turn_is_withdrawn(stage: Stage, own_level: str, tmp_path: Path) -> None:
    """F-11: a call whose caller gave up before it began is never run, and what kept it waiting is not taken for hung."""
    plugin = stage.start("adhoc", own_level, hang_grace=0.1, **stage.write(tmp_path, _SLOW_COUNTER))
    begun = threading.Event()

    def call(number: int) -> Any:
        if number == 0:
            begun.set()
            return plugin("slow", 1.2)
        begun.wait(10)
        assert eventually(lambda: not plugin.runner.drained(0))
        with bh.deadline(0.1):
            return plugin("add", 1)

    slow, add = in_threads(2, call)
    assert slow == "done"
    assert isinstance(add, CallTimeout)
    assert plugin("add", 10) == 10
    assert "plugin.quarantined" not in stage.event_names()


def test_deadlines_without_end(stage: Stage, level: str) -> None:
    """An infinite deadline is none."""
    counter = stage.start("counter", level)
    with bh.deadline(float("inf")):
        assert counter("add", 1) == 1


# --- calls back and nested calls -------------------------------------------------------------------------------------

_ASKING = """
import threading
from blackhole_core.callcontext import get_deadline
from notes_asking import Asking
class Plugin(Asking):
    @hookimpl
    def ask(self, text: str) -> str:
        if text == "deadline":
            return str(get_deadline() is not None)
        if text == "thread":
            found = []
            thread = threading.Thread(target=lambda: found.extend(self.hook.transform(text="bg")))
            thread.start(); thread.join()
            return "|".join(found)
        depth = int(text)
        return f"{depth}>" + ("end" if depth == 0 else "|".join(self.hook.ask(text=str(depth - 1))))
    @hookimpl
    def transform(self, text: str) -> str:
        return f"adhoc:{text}"
"""


def test_plugins_ask_the_host(stage: Stage, level: str) -> None:
    """A plugin calls the host's hooks while a call to it runs; its own implementation answers too."""
    asker = stage.start("asker", level)
    stage.start("full", "none")
    assert sorted(asker("ask", "transform:hi").split("|")) == ["asker:hi", "ih"]
    assert asker("ask", "nest:5").startswith("5>4>3>2>1>0>")


@pytest.mark.parametrize("other", LEVELS)
def test_calls_nest_both_ways(stage: Stage, level: str, other: str, tmp_path: Path) -> None:
    """Two plugins call each other through the host eight levels deep, one call at a time each, and nothing deadlocks."""
    options = stage.write(tmp_path, _ASKING.replace("adhoc", "ping"), "ping")
    ping = stage.start("ping", level, **options)
    pong = stage.start("pong", other, **stage.write(tmp_path / "b", _ASKING, "pong"))
    assert ping("ask", "3").count("end") == 8
    assert pong("ask", "3").count("end") == 8


def test_calls_from_a_thread_of_the_plugin_s_own(stage: Stage, level: str, tmp_path: Path) -> None:
    """A plugin's background thread may call the host; for threads that wait for the plugin's only thread, give it two."""
    plugin = stage.start("adhoc", level, threads=2, **stage.write(tmp_path, _ASKING))
    assert plugin("ask", "thread") == "adhoc:bg"


def test_the_deadline_is_inherited(stage: Stage, own_level: str, tmp_path: Path) -> None:
    """Code of the plugin, and what it calls, knows by when the caller wants the answer."""
    plugin = stage.start("adhoc", own_level, **stage.write(tmp_path, _ASKING))
    assert plugin("ask", "deadline") == "True"


def test_errors_pass_through_a_plugin_that_asked(stage: Stage, level: str) -> None:
    """An error of one plugin that another one asked for reaches the caller as what it was, and says both ways."""
    asker = stage.start("asker", level)
    stage.start("faulty", level)
    with pytest.raises(NotesError, match="both sides know") as caught:
        asker("ask", "fail:notes_error")
    notes = "\n".join(caught.value.__notes__)
    assert f"plugin faulty@1.0.0, hook fail, level {level}" in notes
    assert f"plugin asker@1.0.0, hook ask, level {level}" in notes


# --- many callers ----------------------------------------------------------------------------------------------------

_CONCURRENT = """
import threading, time
class Plugin:
    def __init__(self):
        self.lock, self.now, self.most = threading.Lock(), 0, 0
    @hookimpl
    def total(self) -> int:
        return self.most
    @hookimpl
    def add(self, amount: int) -> int:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1
        return amount
"""


@pytest.mark.parametrize("threads", [1, 4])
def test_as_many_calls_at_once_as_the_plugin_says(stage: Stage, own_level: str, threads: int, tmp_path: Path) -> None:
    """With one thread never two calls at a time; with four, up to four."""
    plugin = stage.start("adhoc", own_level, threads=threads, **stage.write(tmp_path, _CONCURRENT))
    assert in_threads(12, lambda number: plugin("add", number)) == list(range(12))
    most = plugin("total")
    assert most == 1 if threads == 1 else 2 <= most <= 4


@pytest.mark.usefixtures("fast_switching")
def test_no_call_is_lost_or_doubled_among_many_callers(stage: Stage, level: str) -> None:
    """Eight callers add a hundred times each: the count is exact."""
    counter = stage.start("counter", level)
    in_threads(8, lambda _: [counter("add", 1) for _ in range(100)])
    assert counter("total") == 800
    assert counter.runner.drained(0)


def test_drained_is_exact(stage: Stage, own_level: str) -> None:
    """Not drained while a call runs, also when its caller gave up; drained as soon as it ended."""
    full = stage.start("full", own_level)
    assert full.runner.drained(0)
    begun = time.monotonic()
    with bh.deadline(0.3), pytest.raises(CallTimeout):
        full("slow", 1.2)
    early = full.runner.drained(0)
    assert not early or time.monotonic() - begun > 1.2  # or so long did the machine stand still
    assert full.runner.drained(10)


# --- ending ----------------------------------------------------------------------------------------------------------


def test_stop_is_idempotent_and_later_calls_say_so(stage: Stage, level: str) -> None:
    """A stopped plugin answers no call; the error says that the call was not executed."""
    counter = stage.start("counter", level)
    counter.runner.stop()
    counter.runner.stop()
    with pytest.raises(PluginUnloaded, match="executed: no"):
        counter("total")


def test_stop_lets_what_is_begun_end(stage: Stage, own_level: str) -> None:
    """The running calls are answered before the plugin ends, on every one of its threads."""
    full = stage.start("full", own_level, threads=3, stop_grace=10.0)

    def act(number: int) -> Any:
        if number < 3:
            return full("slow", 0.2 + number / 10)
        assert eventually(lambda: not full.runner.drained(0))
        time.sleep(0.1)  # until all three have begun; if one has not, it is answered before the end all the same
        return full.runner.stop()

    assert in_threads(4, act) == ["1.0.0", "1.0.0", "1.0.0", None]


def test_stop_is_bounded_when_a_call_hangs(stage: Stage, own_level: str) -> None:
    """F-14: a plugin that does not end by itself is let go or killed within its grace; its caller is told."""
    faulty = stage.start("faulty", own_level, stop_grace=0.5)
    errors: list[BaseException] = []

    def hang() -> None:
        try:
            with bh.deadline(30):
                faulty("fail", "hang")
        except Exception as error:
            errors.append(error)

    caller = threading.Thread(target=hang)
    caller.start()
    assert eventually(lambda: not faulty.runner.drained(0))
    begun = time.monotonic()
    faulty.runner.stop()
    assert time.monotonic() - begun < 20  # it did not wait until the caller gave up
    notes_api.release.set()
    caller.join(10)
    assert len(errors) == 1
    if own_level == "thread":
        assert "plugin.thread_left" in stage.event_names()


def test_thirty_lives_leave_nothing(stage: Stage, level: str) -> None:
    """Start and stop thirty times: the leak check around the test finds no thread, process, descriptor or module."""
    for _ in range(30 if level not in WORKERS else 10):
        runner = stage.make("counter", level)
        counter = Running(runner, runner.start())
        assert counter("add", 1) == 1
        runner.stop()


_BROKEN = {
    "import error": ("import no_such_module_anywhere", ModuleNotFoundError, "no_such_module_anywhere"),
    "syntax error": ("def broken(:", SyntaxError, "invalid syntax"),
    "raises": ("raise NotImplementedError('not yet')", NotImplementedError, "not yet"),
    "no plugin object": ("x = 1", AttributeError, "Plugin"),
}


@pytest.mark.parametrize("fault", _BROKEN)
def test_a_plugin_that_cannot_be_imported(stage: Stage, level: str, fault: str, tmp_path: Path) -> None:
    """H-05: the error of the import reaches the caller as its own type; nothing is left behind."""
    source, expected, says = _BROKEN[fault]
    runner = stage.make("adhoc", level, **stage.write(tmp_path, source))
    with pytest.raises(expected, match=says):
        runner.start()
    runner.stop()


@pytest.mark.parametrize("name", ["exits_at_import", "raises_at_import"])
def test_the_test_plugins_that_fail_at_import(stage: Stage, own_level: str, name: str) -> None:
    """H-05, A13: an exit at import is an error of the load, not an end of the host."""
    runner = stage.make(name, own_level)
    with pytest.raises(Exception, match=r"exit|import|Exit"):
        runner.start()


def test_an_import_that_hangs(stage: Stage, own_level: str) -> None:
    """H-06: a plugin that does not come up within start_timeout fails the load; a worker is killed, a thread let go and named."""
    patience = 8.0 if own_level == "vm" else 0.5  # seconds; an emulated guest imports after two
    runner = stage.make("hangs_at_import", own_level, start_timeout=patience, stop_grace=0.2)
    begun = time.monotonic()
    with pytest.raises(LoadFailed, match="start_timeout"):
        runner.start()
    assert time.monotonic() - begun < patience + 4.5
    if own_level == "thread":
        assert "plugin.thread_left" in stage.event_names()
        notes_api.release.set()  # the thread ends, and what it imported late is released: the leak check looks


def test_a_generator_wrapper(stage: Stage, level: str) -> None:
    """A hook wrapper works at none and thread; a process refuses it at load, naming the hook."""
    if level in WORKERS:
        with pytest.raises(bh.PluginError, match="a generator implementation .hook wrapper. of hook 'transform'.*level none or thread"):
            stage.start("wrapper", level)
        return
    stage.start("full", "none")
    stage.start("wrapper", level)
    assert stage.hook.transform(text="ab") == ["([ba])"] or stage.hook.transform(text="ab") == ["(['ba'])"]


def test_a_live_argument(stage: Stage, level: str) -> None:
    """A callback works in the host's process; for a worker it is refused at load, naming hook, argument and type."""
    if level in WORKERS:
        with pytest.raises(bh.PluginError, match="argument 'callback' of hook 'live'.*Callable"):
            stage.start("live_plugin", level)
        return
    called: list[int] = []
    live = stage.start("live_plugin", level)
    live("live", lambda: called.append(1))
    assert called == [1]


def test_a_class_that_no_annotation_of_the_plugin_names(stage: Stage, level: str) -> None:
    """The host's Note can be made in a worker only if the plugin's own annotation names it; the advice says so."""
    if level in WORKERS:
        with pytest.raises(bh.PluginError, match="argument 'note' of hook 'note'.*notes_api.Note.*annotate it"):
            stage.start("untyped_note", level)
        return
    assert stage.start("untyped_note", level)("note", _NOTE).title == "untyped a note of 2026"
