"""A worker that stands by: what takes it, what replaces it, and that nobody is told of its end. With workers of level process, which come up in
milliseconds; level vm, where it can be asked for, has the same runner.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.errors import LoadFailed, WorkerDied
from blackhole_core.executor import spare
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.remote import RemoteRunner
from blackhole_core.executor.spare import SpareFacts
from blackhole_core.executor.startup import Startup
from blackhole_core.ids import Isolation
from tests.stage import Running, Stage, eventually

_PLUGIN = """
import os
with open(__file__ + ".imports", "a") as file:
    file.write(f"{os.getpid()}\\n")
class Plugin:
    @hookimpl
    def transform(self, text: str) -> str:
        return text + os.environ.get("GRANTED", "")
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No spare worker waits for anything but its turn."""
    monkeypatch.setattr(spare, "_SETTLE", 0.0)
    monkeypatch.setattr(spare, "_DELAY", 0.0)


def _make(stage: Stage, directory: Path, source: str = _PLUGIN, **options: object) -> RemoteRunner:
    spec = stage.spec("adhoc", **stage.write(directory, source), **options)  # type: ignore[arg-type]  # a test may give anything
    runner = stage.levels._remote(spec, Isolation.PROCESS, stage.levels._launcher(), spare=True)
    assert isinstance(runner, RemoteRunner)
    stage._runners.append(runner)
    return runner


def _start(stage: Stage, directory: Path, source: str = _PLUGIN, **options: object) -> Running:
    return stage.begin(_make(stage, directory, source, **options), "adhoc")


def _facts(plugin: Running) -> SpareFacts:
    facts = plugin.remote.spare
    assert facts is not None
    return facts


def _ready(plugin: Running, *other_than: int) -> int:
    """Wait for a spare worker that is none of these; return its process id."""
    seen: list[SpareFacts] = []

    def ready() -> bool:
        seen.append(_facts(plugin))
        return seen[-1].phase == "ready" and seen[-1].pid not in other_than

    assert eventually(ready), seen[-1]
    return seen[-1].pid or 0


def _kill(plugin: Running) -> None:
    """Kill the worker that serves, and wait until its end is known."""
    dead = threading.Event()
    plugin.remote.watch(lambda ended: dead.set())
    os.kill(plugin.pid, signal.SIGKILL)
    assert dead.wait(10)


def _gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_restart_takes_the_worker_that_stands_by(stage: Stage, tmp_path: Path) -> None:
    """It is the one that serves then, and says so; another one stands by after it."""
    plugin = _start(stage, tmp_path)
    waiting = _ready(plugin)
    _kill(plugin)
    plugin.remote.restart(lambda call: None)
    assert plugin("transform", "x") == "x"
    assert plugin.pid == waiting
    assert str(plugin.remote.facts.start_way).endswith(", stood by")
    assert _ready(plugin) != waiting


def test_a_restart_waits_for_one_that_is_coming_up(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is further than a new one would be, and two at once would take twice as long."""
    greet, wanted = Startup.greet, threading.Event()

    def held(self: Startup, send: Any, tail: Any) -> None:
        assert wanted.wait(10)
        greet(self, send, tail)

    monkeypatch.setattr(Startup, "greet", held)
    plugin = _start(stage, tmp_path)
    assert eventually(lambda: _facts(plugin).phase == "starting")
    waiting = _facts(plugin).pid
    _kill(plugin)
    restarting = threading.Thread(target=plugin.remote.restart, args=(lambda call: None,))
    restarting.start()
    assert eventually(lambda: plugin.remote._coming_up)
    wanted.set()
    restarting.join(10)
    assert plugin.pid == waiting


def test_no_plugin_code_is_in_a_worker_that_stands_by(stage: Stage, tmp_path: Path) -> None:
    """The plugin is imported when it is wanted: once for each worker that served."""
    plugin = _start(stage, tmp_path)
    first, waiting = plugin.pid, _ready(plugin)
    imports = tmp_path / "adhoc.py.imports"
    assert imports.read_text().split() == [str(first)]
    _kill(plugin)
    plugin.remote.restart(lambda call: None)
    assert imports.read_text().split() == [str(first), str(waiting)]


def test_the_end_of_one_that_stands_by_is_no_death_of_the_plugin_s(stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No caller and no supervisor is told; it is logged, and another one stands by."""
    plugin = _start(stage, tmp_path)
    deaths: list[Ended] = []
    plugin.remote.watch(deaths.append)
    serving, waiting = plugin.pid, _ready(plugin)
    os.kill(waiting, signal.SIGKILL)
    assert _ready(plugin, waiting)
    assert plugin("transform", "x") == "x"
    assert (plugin.pid, deaths) == (serving, [])
    assert "has no spare worker: it was killed by SIGKILL" in caplog.text


def test_each_loss_in_a_row_puts_the_next_one_off(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that cannot come up costs a moment now and then, and says why it is not there; the plugin serves, and a restart makes its own worker."""
    monkeypatch.setattr(spare, "_DELAY", 0.01)
    monkeypatch.setattr(spare, "_MOST_DELAY", 0.04)
    plugin = _start(stage, tmp_path)
    waiting = _ready(plugin)
    made = plugin.remote._factory.launcher
    refused = threading.Semaphore(0)

    class Refusing:
        def launch(self, spec: object) -> object:
            refused.release()
            raise OSError("no more of anything")

    object.__setattr__(plugin.remote._factory, "launcher", Refusing())
    os.kill(waiting, signal.SIGKILL)
    for _ in range(4):
        assert refused.acquire(timeout=10)
    object.__setattr__(plugin.remote._factory, "launcher", made)
    assert plugin("transform", "x") == "x"
    assert _ready(plugin)
    delays = [record.args[2] for record in caplog.records if "spare worker" in record.msg and isinstance(record.args, tuple)]
    assert delays[:4] == [0.01, 0.02, 0.04, 0.04]


def test_files_that_changed_meanwhile_make_a_worker_of_their_own(stage: Stage, tmp_path: Path) -> None:
    """The one that stands by was made before, with what lies beside the text; the text itself is that of the first load, with and without one."""
    plugin = _start(stage, tmp_path)
    waiting = _ready(plugin)
    stage.write(tmp_path, _PLUGIN.replace("text +", "'new ' + text +"))
    _kill(plugin)
    plugin.remote.restart(lambda call: None)
    assert plugin("transform", "x") == "x"
    assert plugin.pid != waiting
    assert eventually(lambda: _gone(waiting))
    assert _ready(plugin) != waiting


def test_what_it_may_read_of_the_host_is_that_of_now(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A granted variable that has changed since is not given as it was."""
    monkeypatch.setenv("GRANTED", "1")
    given = Confinement(requested=("env:GRANTED",), granted=("env:GRANTED",))
    plugin = _start(stage, tmp_path, confinement=given)
    waiting = _ready(plugin)
    monkeypatch.setenv("GRANTED", "2")
    _kill(plugin)
    plugin.remote.restart(lambda call: None)
    assert plugin("transform", "x") == "x2"
    assert plugin.pid != waiting


def test_one_that_was_made_for_another_confinement_is_replaced_at_once(stage: Stage, tmp_path: Path) -> None:
    """What was revoked must not wait in a worker."""
    plugin = _start(stage, tmp_path, confinement=Confinement(requested=("env:PATH",), granted=("env:PATH",)))
    waiting = _ready(plugin)
    plugin.remote.confine(Confinement(requested=("env:PATH",)))
    assert eventually(lambda: _gone(waiting))
    waiting = _ready(plugin, waiting)
    _kill(plugin)
    plugin.remote.restart(lambda call: None)
    assert plugin.pid == waiting


def test_one_that_is_coming_up_meanwhile_is_replaced_as_well(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made before the permission was revoked."""
    greet, began, revoked = Startup.greet, threading.Event(), threading.Event()
    pids: list[int | None] = []

    def held(self: Startup, send: Any, tail: Any) -> None:
        if not began.is_set():
            assert runner.spare is not None
            pids.append(runner.spare.pid)
            began.set()
            assert revoked.wait(10)
        greet(self, send, tail)

    monkeypatch.setattr(Startup, "greet", held)
    runner = _make(stage, tmp_path, confinement=Confinement(requested=("env:PATH",), granted=("env:PATH",)))
    plugin = stage.begin(runner, "adhoc")
    assert began.wait(10)
    plugin.remote.confine(Confinement(requested=("env:PATH",)))
    revoked.set()
    waiting = _ready(plugin, pids[0] or 0)
    assert eventually(lambda: _gone(pids[0] or 0))
    _kill(plugin)
    plugin.remote.restart(lambda call: None)
    assert plugin.pid == waiting


@pytest.mark.parametrize("phase", ["absent", "starting", "ready"])
def test_a_stop_ends_it_however_far_it_is(stage: Stage, tmp_path: Path, phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process and no thread is left of one that is not there yet, comes up, or stands."""
    if phase == "absent":
        monkeypatch.setattr(spare, "_SETTLE", 3600.0)
    greeted = threading.Event()

    def mute(self: Startup, send: object, tail: Any) -> None:
        greeted.set()
        self.converse(lambda message: None, 0, tail)  # it is told nothing, and so says nothing

    if phase == "starting":
        monkeypatch.setattr(Startup, "greet", mute)
    plugin = _start(stage, tmp_path, start_timeout=60.0)
    assert eventually(lambda: _facts(plugin).phase == phase)
    if phase == "starting":
        assert greeted.wait(10)
    pid = _facts(plugin).pid
    stopping = threading.Thread(target=plugin.runner.stop)
    stopping.start()
    stopping.join(20)
    assert not stopping.is_alive()  # it does not wait for what never comes up
    assert pid is None or _gone(pid)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("blackhole-spare-")]
    assert _facts(plugin) == SpareFacts("absent", reason=_facts(plugin).reason)


def test_giving_up_a_plugin_gives_up_what_stands_by(stage: Stage, tmp_path: Path) -> None:
    """No worker of it will ever be brought up again."""
    plugin = _start(stage, tmp_path)
    waiting = _ready(plugin)
    plugin.remote.give_up("enough")
    assert eventually(lambda: _gone(waiting))
    assert eventually(lambda: _facts(plugin).phase == "absent")  # which is noted a moment after it has ended


def test_deaths_on_both_sides_at_any_moment_lose_no_call(stage: Stage, tmp_path: Path) -> None:
    """Whoever dies, and whenever: a call is answered or told of a death, restarts go on, and nothing is left."""
    runner = _make(stage, tmp_path)
    plugin = stage.begin(runner, "adhoc")
    threads: list[threading.Thread] = []

    def bring_back(ended: Ended) -> None:
        threads.append(threading.Thread(target=again))
        threads[-1].start()

    def again() -> None:
        while True:
            try:
                runner.restart(lambda call: None)
            except LoadFailed:
                continue  # killed again while it came up
            return

    runner.watch(bring_back)
    chance, before = random.Random(6), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            _kill_some(runner, chance)
            for _ in range(chance.randrange(20)):
                _answers(plugin)
    finally:
        sys.setswitchinterval(before)
    assert eventually(lambda: _answers(plugin))
    runner.stop()
    for thread in threads:
        thread.join(10)


def _kill_some(runner: RemoteRunner, chance: random.Random) -> None:
    standing = runner._spare
    assert standing is not None
    for worker in (runner._traffic.worker, standing._worker):
        if worker is not None and chance.random() < 0.5:
            worker.connection.child.kill()


def _answers(plugin: Running) -> bool:
    try:
        return bool(plugin("transform", "x") == "x")
    except WorkerDied:
        return False
