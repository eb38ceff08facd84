"""Nothing is left behind after a swap: leases are undone, the old generation is freed, and what keeps it is named."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.events import Event
from blackhole_core.loader import leaks
from tests.stage import eventually

hookspec = bh.HookspecMarker("leaky")

#: Reloads of the soak, and after how many of them memory is expected to be level. A generation that was kept would cost 450 KB, so that five of the 160 that follow are seen.
#: ``python -m benchmarks reload_soak --check`` does it 1,500 times with a larger plugin.
RELOADS, WARM = 320, 160


class Specs:
    @hookspec(firstresult=True)
    def answer(self, question: str) -> str: ...


HEAD = """
import json, logging, threading
import blackhole_core as bh
hookimpl = bh.HookimplMarker("leaky")

def function(*args): pass

class Plugin:
    @hookimpl
    def answer(self, question): return VERSION

    @bh.hookimpl
    def plugin_start(self, context):
        self.context = context
        start(context)

plugin = Plugin
"""

Write = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def no_rationing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after every swap: the heap of a whole test session is large, and would have the looks rationed."""
    monkeypatch.setattr("blackhole_core.loader.leaks._CHEAP", float("inf"))
    monkeypatch.setattr("blackhole_core.loader.leaks._BUSY", float("inf"))
    monkeypatch.setattr(leaks._rations, "_not_before", 0.0)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes version ``version`` of the plugin, with ``start(context)`` as given."""

    def write(version: str, start: str) -> Path:
        root = tmp_path / "leaky"
        (root / "leaky").mkdir(parents=True, exist_ok=True)
        (root / "pyproject.toml").write_text(
            '[project]\nname = "leaky"\nversion = "1.0"\n[project.entry-points.leaky]\nleaky = "leaky:plugin"\n'
        )
        (root / "leaky" / "__init__.py").write_text(f"VERSION = {version!r}\n{HEAD}\n{textwrap.dedent(start)}")
        return root

    return write


@pytest.fixture
def host() -> Iterator[Any]:
    """A manager that notes its events."""
    with bh.PluginManager("leaky") as pm:
        pm.add_hookspecs(Specs)
        pm.events = []
        pm.on_event(pm.events.append)
        yield pm


def told(host: Any, name: str) -> list[Event]:
    return [event for event in host.events if event.name == name]


NOTHING = "def start(context): pass\n"
LEASES = """
def start(context):
    context.thread(context.stopping.wait, name="poller")
    context.every(1000, function)
    context.add_log_handler("leaky", logging.NullHandler())
    context.patch(json, "dumps", function)
    (context.temp_dir() / "file").write_text("x")
    context.executor(1).submit(context.stopping.wait)
"""


@pytest.mark.parametrize("level", ["none", "thread", "process"])
@pytest.mark.parametrize("start", [NOTHING, LEASES], ids=["nothing", "leases"])
def test_a_swap_leaves_nothing_behind(host: Any, write: Write, level: str, start: str, private_temporary_directory: Path) -> None:
    """A plugin that registers what it needs through its context is swapped without a trace, at every level."""
    dumps = json.dumps
    host.load("leaky", source=write("one", start), isolation=level)
    write("two", start)
    report = host.reload("leaky")
    assert report.leaks == ()
    assert host.hook.answer(question="?") == "two"
    host.unload("leaky")
    assert told(host, "plugin.leaked") == told(host, "plugin.lease_failed") == []
    assert json.dumps is dumps
    assert not logging.getLogger("leaky").handlers
    assert not list(private_temporary_directory.glob("blackhole-leaky-*"))


@pytest.mark.parametrize("level", ["none", "thread"])
def test_what_a_plain_leak_keeps_is_named(host: Any, write: Write, level: str) -> None:
    """A handler that the old version put on a logger by hand: report and event say what, whose, where and what to do."""
    start = """
    class Handler(logging.Handler):
        def emit(self, record): pass
    def start(context):
        logging.getLogger("leaky.host").addHandler(Handler())
    """
    host.load("leaky", source=write("one", start), isolation=level)
    write("two", NOTHING)
    try:
        [sentence] = host.reload("leaky").leaks
    finally:
        logging.getLogger("leaky.host").handlers.clear()
    assert sentence == (
        "plugin leaky@1.0, generation 1: an instance of leaky.Handler is a handler of logger 'leaky.host'; add it with context.add_log_handler"
    )
    [event] = told(host, "plugin.leaked")
    assert event.data["leaks"] == [sentence]
    json.dumps(dict(event.data))


def test_a_thread_that_still_runs_is_named_with_its_line(host: Any, write: Write) -> None:
    """A thread without a lease outlives its generation: the report says where it is."""
    start = """
    gate = threading.Event()
    def wait(): gate.wait()
    def start(context):
        thread = threading.Thread(target=wait, name="forgotten")
        thread.gate = gate
        thread.start()
    """
    root = write("one", start)
    host.load("leaky", source=root, isolation="none")
    write("two", NOTHING)
    try:
        [sentence] = host.reload("leaky").leaks
    finally:
        [thread] = [thread for thread in threading.enumerate() if thread.name == "forgotten"]
        thread.gate.set()  # type: ignore[attr-defined]  # the module, or object, is the test's own
        thread.join()
    assert f"thread 'forgotten' is still running, in wait ({root / 'leaky' / '__init__.py'}:" in sentence
    assert "start it with context.thread" in sentence


def test_a_failing_undo_is_told_and_the_swap_succeeds(host: Any, write: Write) -> None:
    """The new version serves; what could not be undone stands in the report and in an event."""
    host.load("leaky", source=write("one", "def start(context): context.lease(lambda: 1 / 0, what='the socket')\n"), isolation="none")
    write("two", NOTHING)
    wanted = "plugin leaky@1.0, generation 1: undoing the socket failed with ZeroDivisionError: division by zero"
    assert host.reload("leaky").leaks == (wanted,)
    assert [event.data["error"] for event in told(host, "plugin.lease_failed")] == [wanted]


@pytest.mark.parametrize("level", ["none", "thread", "process"])
def test_a_start_that_fails_undoes_what_it_had_taken(host: Any, write: Write, level: str, private_temporary_directory: Path) -> None:
    """All or nothing: a plugin_start that raises leaves no directory and no thread."""
    start = """
    def start(context):
        context.temp_dir()
        context.thread(context.stopping.wait, name="poller")
        raise RuntimeError("no")
    """
    with pytest.raises(bh.LoadFailed):
        host.load("leaky", source=write("one", start), isolation=level)
    assert not [thread for thread in threading.enumerate() if thread.name == "poller"]
    assert not list(private_temporary_directory.glob("blackhole-leaky-*"))


def test_leases_of_a_threaded_plugin_end_on_its_own_thread(host: Any, write: Write) -> None:
    """At level thread what belongs to the plugin's thread (an SQLite connection) is closed there."""
    start = """
    def start(context):
        me = threading.current_thread()
        def undo():
            if threading.current_thread() is not me: raise RuntimeError(f"undone on {threading.current_thread()}")
        context.lease(undo)
    """
    host.load("leaky", source=write("one", start), isolation="thread")
    write("two", NOTHING)
    assert host.reload("leaky").leaks == ()


@pytest.mark.parametrize("busy", [1, 3])
def test_a_busy_host_is_looked_at_later(host: Any, write: Write, monkeypatch: pytest.MonkeyPatch, busy: int) -> None:
    """No collection while other threads compute; what was left behind is told when they pause, and after some time in any case."""
    looks = iter([True] * busy)
    monkeypatch.setattr(leaks, "_others_are_busy", lambda: next(looks, False))
    monkeypatch.setattr("blackhole_core.lifecycle.instance._LOOKS_LATER", (0.01, 0.01, 0.01))
    host.load("leaky", source=write("1.0", "def start(context): logging.Logger.kept_by_the_host = [plugin.answer]"), isolation="none")
    try:
        assert host.swap("leaky", source=write("2.0", "def start(context): pass")).leaks is None
        assert eventually(lambda: bool(told(host, "plugin.leaked")))
        [event] = told(host, "plugin.leaked")
        assert event.data["generation"] == 1
        assert "leaky.Plugin" in event.data["leaks"][0]
    finally:
        del logging.Logger.kept_by_the_host


def test_a_version_that_still_drains_is_looked_at_when_it_has_ended(host: Any, write: Write) -> None:
    """While calls run on the old version nothing is known; the event tells when they are over."""
    start = """
    begun, release = threading.Event(), threading.Event()
    def answer(self, question):
        begun.set()
        release.wait()
        return VERSION
    Plugin.answer = hookimpl(answer)
    def start(context):
        logging.getLogger("leaky.host").addFilter(function)
    """
    host.load("leaky", source=write("one", start), isolation="none")
    module = sys.modules["leaky"]
    begun, release = module.begun, module.release  # type: ignore[attr-defined]  # the module, or object, is the test's own
    del module
    retired = threading.Event()
    leaked: list[Event] = []

    def listen(event: Event) -> None:
        if event.name == "plugin.leaked":
            leaked.append(event)
            retired.set()

    host.on_event(listen)
    caller = threading.Thread(target=host.hook.answer, kwargs={"question": "?"})
    caller.start()
    begun.wait()
    write("two", NOTHING)
    report = host.reload("leaky")
    assert report.retiring
    assert report.leaks is None
    release.set()
    caller.join()
    try:
        assert retired.wait(10)
    finally:
        logging.getLogger("leaky.host").filters.clear()
    assert "function leaky.function is a filter of logger 'leaky.host'" in leaked[0].data["leaks"][0]


# --- in a process of its own -----------------------------------------------------------------------------------------

NEVER = """
import os, sys, tempfile
from pathlib import Path
from blackhole_core.loader.leaks import Canary
from blackhole_core.loader.universe import Universe

root = Path(tempfile.mkdtemp(dir={directory!r}))
(root / "acme.py").write_text("def function(*args): pass\\ndef leave(): {body}\\n")
universe = Universe(["acme"], root, "1")
universe.load("acme:leave")()
canary = Canary(universe, "plugin acme@1, generation 1")
universe.release()
print("\\n".join(canary.leaks(at_any_cost=True)))
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os.register_at_fork(before=function)", "acme.function is in a list of the interpreter itself, as os.register_at_fork"),
        ("import sys; sys.addaudithook(function)", "function acme.function is held from C, as sys.addaudithook does"),
    ],
    ids=["register_at_fork", "addaudithook"],
)
def test_what_python_cannot_undo_is_named(tmp_path: Path, body: str, words: str) -> None:
    """Fork hooks and audit hooks stay for ever: the report says so and sends the plugin to level process."""
    script = NEVER.format(directory=str(tmp_path), body=body)
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
    assert words in found
    assert "run the plugin at level process" in found


SOAK = """
import gc, json, sys, threading, time, types
from pathlib import Path
import blackhole_core as bh
from blackhole_core.lifecycle.instance import Instance

root, reloads, warm = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
package = root / "leaky"
MODULE = '''
VERSION = {number}
class Thing:
    def __init__(self, x): self.x = x
    def move(self): return Thing(self.x + VERSION)
def helper(a, b=2): return a + b
def other(values): return [helper(x) for x in values]
'''

class Specs:
    @bh.HookspecMarker("leaky")(firstresult=True)
    def answer(self, question: str) -> str: ...

def count():
    # A look for leaks that waits for a quiet moment, 36 s at most, keeps the instance it looks for until then. One that leaked stays.
    until = time.monotonic() + 40
    while looks_for_leaks() and time.monotonic() < until:
        time.sleep(0.05)
    gc.collect()
    things = gc.get_objects()
    kinds = [sum(issubclass(type(thing), kind) for thing in things) for kind in (types.ModuleType, type, types.FunctionType)]
    return [len(sys.modules), *kinds], int(Path("/proc/self/statm").read_text().split()[1])

def looks_for_leaks():
    gc.collect()
    instances = sum(type(thing) is Instance for thing in gc.get_objects())
    return instances > 1 or any(thread.name.startswith("blackhole-leaks") for thread in threading.enumerate())

def edit(number):
    (package / f"m{number % 15}.py").write_text(MODULE.format(number=number))

for number in range(15):
    edit(number)
seen = {}
with bh.PluginManager("leaky") as pm:
    pm.add_hookspecs(Specs)
    pm.load("leaky", source=root, isolation="none")
    for number in range(1, reloads + 1):
        edit(number + 15)
        report = pm.reload("leaky")
        assert report.leaks in ((), None), report.leaks
        assert pm.hook.answer(question="?") == str(number + 15)
        if number in (10, warm, reloads):
            seen[number] = count()
print(json.dumps(list(seen.values())))
"""


@pytest.mark.timeout(300)
def test_many_reloads_leave_no_object_and_no_memory(tmp_path: Path) -> None:
    """320 reloads of a package of 16 files, one file edited each time: modules, classes and functions stay the same in number, memory within 5 %."""
    package = tmp_path / "leaky"
    package.mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "leaky"\nversion = "1.0"\n[project.entry-points.leaky]\nleaky = "leaky:Plugin"\n'
    )
    imports = "".join(f"from leaky import m{number}\n" for number in range(15))
    (package / "__init__.py").write_text(
        f"import blackhole_core as bh\n{imports}\n"
        "class Plugin:\n"
        "    @bh.HookimplMarker('leaky')\n"
        f"    def answer(self, question): return str(max({', '.join(f'm{number}.VERSION' for number in range(15))}))\n"
        "    @bh.hookimpl\n"
        "    def plugin_start(self, context): context.lease(lambda: None)\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", SOAK, str(tmp_path), str(RELOADS), str(WARM)], capture_output=True, text=True, check=False, timeout=280
    )
    assert output.returncode == 0, output.stderr
    (early, _), (middle, warm_pages), (late, pages) = json.loads(output.stdout)
    assert early == middle == late
    assert pages <= warm_pages * 1.05
