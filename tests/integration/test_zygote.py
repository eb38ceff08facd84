"""The zygote: workers that are forked are as clean as those that are executed, and whatever dies at whatever moment, nothing is left."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.executor.confinement import Confinement, Sandbox
from blackhole_core.executor.launch import newborn, nursery, zygote
from blackhole_core.executor.launch.child import Child, LaunchSpec
from blackhole_core.executor.launch.process import ProcessLauncher
from blackhole_core.executor.launch.zygote import Zygote
from blackhole_core.manifest.model import Resources
from tests.plugins.build import NOTES_API
from tests.stage import Running, Stage, eventually, in_threads

_ROOT = Path(__file__).parents[2]

_LOOKING = """
import gc, os, resource, signal, sys, threading, time
class Plugin:
    @hookimpl
    def raw(self, value):
        return eval(value, globals())
"""

#: What may differ between the two ways, and why: the command line is the zygote's, the descriptors have other numbers.
_SEEN = {
    "environment": "dict(os.environ)",
    "import path": "sys.path",
    "arguments": "sys.argv",
    "flags": "tuple(sys.flags)",
    "finders": "[type(finder).__name__ for finder in sys.meta_path]",
    "working directory": "os.getcwd()",
    "umask": "(os.umask(0o22), os.umask(0o22))[0]",
    "limits": "[resource.getrlimit(number) for number in range(16)]",
    "blocked signals": "sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))",
    "signals": "[str(signal.getsignal(number)) for number in sorted(signal.valid_signals())]",
    "ignored signals": "[line for line in open('/proc/self/status') if line.startswith(('SigIgn', 'SigBlk'))]",
    "parent": "os.getppid()",
    "leads": "(os.getpid() == os.getpgid(0), os.getpid() == os.getsid(0))",
    "threads": "sorted(thread.name for thread in threading.enumerate())",
    "collector": "(gc.isenabled(), gc.get_threshold())",
    "kind of descriptors": "sorted(os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{n}'))",
    "inheritable descriptors": "[n for n in range(3, 64) if os.path.lexists(f'/proc/self/fd/{n}') and os.get_inheritable(n)]",
    "stdin": "sys.stdin.read()",
    "standard streams": "[(s.fileno(), s.encoding, s.errors, s.line_buffering, s.seekable()) for s in (sys.stdin, sys.stdout, sys.stderr)]",
    "niceness": "os.nice(0)",
    "time zone": "time.tzname",
}


def _look(tmp_path: Path, *, forked: bool, what: dict[str, str] = _SEEN, **options: Any) -> dict[str, Any]:
    stage = Stage(zygote=forked)
    try:
        plugin = stage.start("adhoc", **options, **stage.write(tmp_path, _LOOKING))
        assert _start(plugin) == ("zygote" if forked else "exec")
        return {name: plugin("raw", expression) for name, expression in what.items()}
    finally:
        stage.close()


def _start(running: Running) -> str:
    worker = running.remote._traffic.worker
    assert worker is not None
    return worker.connection.child.start.way


def _zygote(launcher: ProcessLauncher) -> Zygote:
    found = launcher._nursery._zygote
    assert found is not None
    return found


def _spare_is_ready(launcher: ProcessLauncher) -> bool:
    """Wait until one waits that was told all it can be told: before, it may be out of sight for a moment."""
    return eventually(lambda: launcher._nursery._spare is not None and launcher._nursery._spare[0].ready)


def _spare_pid(launcher: ProcessLauncher) -> int:
    assert _spare_is_ready(launcher)
    assert launcher._nursery._spare is not None
    return launcher._nursery._spare[0].pid


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; whoever it was left to may not have waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _is_gone(pid: int) -> bool:
    """Whether the process has ended and was waited for."""
    return not Path(f"/proc/{pid}").exists()


@contextlib.contextmanager
def _launcher() -> Iterator[ProcessLauncher]:
    launcher = ProcessLauncher()
    yield launcher
    launcher.close()


_SPEC = LaunchSpec("probe", tuple(str(Path(entry).absolute()) for entry in sys.path))


# --- as clean as an executed one -------------------------------------------------------------------------------------


def test_a_forked_worker_looks_like_an_executed_one(tmp_path: Path) -> None:
    """What a plugin can see of its process is the same in both: environment, limits, signals, descriptors, threads, streams, paths."""
    options: dict[str, Any] = {"environment": {"GRANTED": "yes", "TZ": "Asia/Tokyo", "TMPDIR": "/tmp"}}  # each has a TMPDIR of its own
    forked, executed = (_look(tmp_path, forked=forked, **options) for forked in (True, False))
    assert {name: value for name, value in forked.items() if value != executed[name]} == {}
    assert forked["environment"]["GRANTED"] == "yes"
    assert forked["parent"] == os.getpid()
    assert forked["time zone"][0] == "JST"


def test_a_forked_worker_has_nothing_more_of_ours_than_the_zygote_itself(tmp_path: Path) -> None:
    """No plugin code and no part of the host is in a zygote: beside what an executed worker has, only what forks and what it leans on."""
    what = {"modules": "sorted(sys.modules)"}
    more = set(_look(tmp_path, forked=True, what=what)["modules"]) - set(_look(tmp_path, forked=False, what=what)["modules"])
    ours = {name for name in more if name.startswith("blackhole")}
    ours = {
        name for name in ours if not name.startswith("blackhole_core.executor.sandbox")
    }  # builds walls; imported where there are to be some
    assert ours == {f"blackhole_core.executor.{name}" for name in ("cloning", "rehearsal", "wire.spawn", "zygote")}
    assert {name for name in more if not name.startswith("blackhole")} <= {"_ctypes", "_posixsubprocess", "_struct", "ctypes", "ctypes._endian", "fcntl", "resource", "select", "_selectors",
                           "selectors", "socket", "struct", "array", "_socket", "math", "hashlib", "_hashlib", "_blake2"}  # fmt: skip


def _is_ready_for_walls(launcher: ProcessLauncher) -> bool:
    spare = launcher._nursery._spare
    return spare is not None and bool(spare[0].namespaces)


def _spaces(pid: int | str) -> dict[str, str]:
    return {kind: str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("user", "mnt", "net", "ipc", "uts")}


def test_after_one_with_walls_the_next_has_made_its_namespaces(stage: Stage) -> None:
    """The worker ahead is one like the last: what of its walls needs no role is there when it is wanted, and its walls hold like all others."""
    walled = Confinement(sandbox=Sandbox.NATIVE)
    stage.start("counter", confinement=walled)
    assert eventually(lambda: _is_ready_for_walls(stage.launcher))
    pid = _spare_pid(stage.launcher)
    assert eventually(lambda: len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) == 2)  # process 1 and the worker
    plugin = stage.start("full", confinement=walled)
    worker = plugin.remote._traffic.worker
    assert worker is not None
    assert worker.connection.child.pid == pid
    assert (plugin.remote.facts.walls_report.open, set(plugin.remote.facts.walls_report.layers.values())) == ({}, {""})
    assert not set(_spaces(plugin.pid).items()) & set(_spaces("self").items())


def test_one_that_is_ready_for_walls_is_none_without(stage: Stage, tmp_path: Path) -> None:
    """A plugin without walls sees the host's own namespaces, also when the worker ahead has left them."""
    stage.start("counter", confinement=Confinement(sandbox=Sandbox.NATIVE))
    assert eventually(lambda: _is_ready_for_walls(stage.launcher))
    ahead = _spare_pid(stage.launcher)
    plugin = stage.start("adhoc", **stage.write(tmp_path, _LOOKING))
    assert _spaces(plugin.pid) == _spaces("self")
    assert eventually(lambda: _is_gone(ahead))  # one that is like the last took its place
    assert _spare_is_ready(stage.launcher)
    assert not _is_ready_for_walls(stage.launcher)


def test_what_waits_ends_with_all_it_has_started(stage: Stage) -> None:
    """The processes that keep the namespaces of a worker ahead are gone when its host has closed its launcher, and so are its control groups."""
    stage.start("counter", confinement=Confinement(sandbox=Sandbox.NATIVE))
    assert eventually(lambda: _is_ready_for_walls(stage.launcher))
    spare = stage.launcher._nursery._spare
    assert spare is not None
    pid, group = spare[0].pid, spare[0].group
    assert eventually(lambda: len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) == 2)
    started = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    places = list(group._directories.values()) if group is not None else []
    stage.launcher._nursery.close()
    assert eventually(lambda: all(map(_has_ended, started)))
    assert not [place for place in places if place.exists()]


def test_a_worker_ahead_is_in_groups_of_its_own(stage: Stage) -> None:
    """Moving a process takes the kernel long, so it is done before; the limits come with the role."""
    if not stage.levels._limiter().abilities.trees:
        pytest.skip("there are no control groups here")
    stage.start("counter")
    assert _spare_is_ready(stage.launcher)
    pid = _spare_pid(stage.launcher)
    before = Path(f"/proc/{pid}/cgroup").read_text()
    plugin = stage.start("full", confinement=Confinement(resources=Resources(pids=7)))
    assert plugin.pid == pid
    assert Path(f"/proc/{pid}/cgroup").read_text() == before
    limits = plugin.remote.facts.limits
    assert limits is not None
    places = list(limits._group._directories.values())
    assert len(places) == before.count("/ahead-")
    if stage.levels._limiter().abilities.holds("pids"):
        assert [place.joinpath("pids.max").read_text().strip() for place in places if place.joinpath("pids.max").exists()] != ["max"]
    plugin.runner.stop()
    assert not [place for place in places if place.exists()]


def test_what_the_host_changes_later_holds_for_workers_forked_later(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working directory, umask, limits and environment of a worker are those of its host now, not of its host when the zygote was started."""
    import resource

    stage.start("counter")
    assert _spare_is_ready(stage.launcher)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    umask = os.umask(0o27)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, limit[1]))
        plugin = stage.start("adhoc", **stage.write(tmp_path, _LOOKING))
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_CORE, limit)
    assert _start(plugin) == "zygote"
    assert plugin("raw", "os.getcwd()") == str(tmp_path / "here")
    assert plugin("raw", "(os.umask(0o22), os.umask(0o22))[0]") == 0o27
    assert plugin("raw", f"resource.getrlimit({resource.RLIMIT_CORE})") == (0, limit[1])
    assert plugin("raw", "os.environ['HOME']") == str(tmp_path)


def test_a_host_that_gives_something_away_gets_a_new_zygote(stage: Stage) -> None:
    """A zygote has the rights its host had when it was started; when those change, no worker comes from it any more."""
    first = stage.start("counter")
    before, spare = _zygote(stage.launcher).pid, _spare_pid(stage.launcher)
    assert stage.launcher._thread is not None
    os.setpriority(os.PRIO_PROCESS, stage.launcher._thread.native_id or 0, 1)  # of that thread; it ends with this test

    def nicer(_: int) -> Running:
        os.setpriority(os.PRIO_PROCESS, 0, 1)
        return stage.start("full")

    [second] = in_threads(1, nicer)
    assert _zygote(stage.launcher).pid != before
    assert _is_gone(before)
    assert _is_gone(spare)
    assert _start(second) == "zygote"
    assert os.getpriority(os.PRIO_PROCESS, second.pid) == 1
    assert (first("add", 1), second("version")) == (1, "1.0.0")


def test_variables_that_are_read_when_a_program_starts(stage: Stage, tmp_path: Path) -> None:
    """A worker with another LANG or LD_PRELOAD than the zygote's is executed, and says why."""
    for name in ("LANG", "LD_BIND_NOW", "MALLOC_ARENA_MAX"):
        plugin = stage.start("adhoc", environment={name: "1"}, **stage.write(tmp_path, _LOOKING))
        worker = plugin.remote._traffic.worker
        assert worker is not None
        assert str(worker.connection.child.start) == f"exec: {name} is read when a program starts"
        assert plugin("raw", "dict(os.environ)")[name] == "1"
        stage.hooks.unregister(name="adhoc")


def test_workers_that_start_at_once_share_no_descriptor(tmp_path: Path) -> None:
    """Sixteen workers started at once: each has its own three pipes, and nothing of another one."""
    with _launcher() as launcher:
        children = in_threads(16, lambda _: launcher.launch(_SPEC))
        assert all(isinstance(child, Child) and child.start.way == "zygote" for child in children)
        for child in children:
            assert eventually(lambda pid=child.pid: _is_assigned(pid))  # type: ignore[misc]  # a default binds the loop's value
        inodes = [_pipes(child.pid) for child in children]
        assert [len(mine) for mine in inodes] == [3] * 16
        assert len(set().union(*inodes)) == 3 * 16
        zygote = _zygote(launcher).pid
        assert _pipes(zygote).isdisjoint(set().union(*inodes))
        assert eventually(
            lambda: len(os.listdir(f"/proc/{zygote}/fd")) == 4
        )  # the standard streams, and the host; a spare may just be on its way
        for child in children:
            child.discard()


def _is_assigned(pid: int) -> bool:
    """Whether a worker has taken its descriptors: before that it has as many for a moment, and other ones."""
    try:
        return sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2", "3", "4"] and len(_pipes(pid)) == 3
    except FileNotFoundError:
        return False


def _pipes(pid: int) -> set[str]:
    targets = {str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in os.listdir(f"/proc/{pid}/fd")}
    return {target for target in targets if target.startswith("pipe:")}


# --- whatever dies ---------------------------------------------------------------------------------------------------


def test_the_zygote_is_killed(stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SIGKILL of the zygote: running workers, and calls in them, go on; it is reaped at once; the next worker has a new one."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _LOOKING))
    lost = _zygote(stage.launcher).pid
    caplog.set_level(logging.WARNING)
    answers: list[Any] = []
    calling = threading.Thread(target=lambda: answers.append(plugin("raw", "time.sleep(0.3) or 'slept'")))
    calling.start()
    os.kill(lost, signal.SIGKILL)
    assert eventually(lambda: _is_gone(lost))
    calling.join(20)
    assert answers == ["slept"]
    assert eventually(lambda: "it was killed by SIGKILL; workers are not affected" in caplog.text)
    assert _start(stage.start("counter")) == "zygote"
    assert _start(stage.start("full")) == "zygote"
    assert _zygote(stage.launcher).pid != lost


def test_the_spare_worker_is_killed(stage: Stage) -> None:
    """A worker that was forked ahead and died is reaped, and nobody gets it."""
    stage.start("counter")
    lost = _spare_pid(stage.launcher)
    os.kill(lost, signal.SIGKILL)
    assert eventually(lambda: _is_gone(lost))
    assert _start(stage.start("full")) == "zygote"


_STEPS: dict[str, tuple[Any, str]] = {
    "asked": (Zygote, "begin_fork"),
    "forked": (Zygote, "_answer"),
    "let go": (newborn.Newborn, "let_go"),
    "given its role": (newborn.Newborn, "assign"),
}


@pytest.mark.parametrize("victims", ["zygote", "zygote's group", "worker"])
def test_sigkill_at_every_step(victims: str) -> None:
    """SIGKILL of the zygote, of all that it forked, or of a new worker, before each step of a request and after it: workers come; nothing is left."""
    with _launcher() as launcher:
        first = launcher.launch(_SPEC)
        for (owner, name), when in itertools.product(_STEPS.values(), ("before", "after")):
            with pytest.MonkeyPatch.context() as patch:
                struck = _strike_once(patch, owner, name, when, lambda: _kill(launcher, victims, first.pid))
                children = in_threads(2, lambda _: launcher.launch(_SPEC))
                assert eventually(lambda struck=struck: struck)  # type: ignore[misc]  # else that of the next spare worker
                assert [child for child in children if not isinstance(child, Child)] == []
                for child in children:
                    child.discard()
        first.discard()
    # What is left of anything, the leak check of every test says.


def _strike_once(patch: pytest.MonkeyPatch, owner: Any, name: str, when: str, strike: Callable[[], None]) -> list[str]:
    """Have the first call of ``owner.name`` preceded or followed by ``strike``; the returned list is filled when it has been."""
    original, struck = getattr(owner, name), list[str]()

    def act(*args: Any) -> Any:
        first = not struck
        struck.append(when)
        if first and when == "before":
            strike()
        result = original(*args)
        if first and when == "after":
            strike()
        return result

    patch.setattr(owner, name, act)
    return struck


def _kill(launcher: ProcessLauncher, victims: str, *spared: int) -> None:
    zygote = launcher._nursery._zygote
    with contextlib.suppress(ProcessLookupError):
        if victims == "worker":
            for pid in _forked(*spared, zygote.pid if zygote is not None else 0):
                os.kill(pid, signal.SIGKILL)
        elif zygote is not None:
            (os.killpg if victims == "zygote's group" else os.kill)(zygote.pid, signal.SIGKILL)


def _forked(*known: int) -> list[int]:
    """Return the children of this process that came from a zygote and have left it, but ``known`` ones."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread or process that has just ended
            for pid in map(int, Path(f"/proc/self/task/{task}/children").read_text().split()):
                if pid not in known and "executor.zygote" in Path(f"/proc/{pid}/cmdline").read_text() and os.getsid(pid) == pid:
                    found.append(pid)  # noqa: PERF401 - what was found before one ended counts
    return found


def test_a_zygote_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped zygote is given up after the deadline of a step, killed and replaced."""
    with _launcher() as launcher:
        first = launcher.launch(_SPEC)
        assert _spare_is_ready(launcher)
        hung = _zygote(launcher)
        hung._control.settimeout(0.2)
        os.kill(hung.pid, signal.SIGSTOP)
        children = [launcher.launch(_SPEC), launcher.launch(_SPEC)]  # the spare one, and one that nobody forks
        assert [child.start.way for child in children] == ["zygote", "zygote"]
        assert _is_gone(hung.pid)
        for child in (first, *children):
            child.discard()


def test_no_zygote_can_be_had(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the zygote does not come up, workers are executed; the reason is logged once and told by each; it is not tried again at once."""
    monkeypatch.setattr(zygote, "_PROGRAM", "import sys; sys.exit('no such luck')")
    caplog.set_level(logging.WARNING)
    with _launcher() as launcher:
        children = [launcher.launch(_SPEC) for _ in range(2)]
        for child in children:
            assert child.start.way == "exec"
            assert "no zygote can be had: it has ended; it exited with status 1; last lines it wrote: no such luck" in child.start.reason
            child.discard()
        assert caplog.text.count("workers are executed, which takes longer") == 1
        monkeypatch.undo()
        monkeypatch.setattr(nursery, "_HOLD_OFF", 0.0)
        launcher._nursery._given_up = (0.0, "")
        again = launcher.launch(_SPEC)
        assert again.start.way == "zygote"
        again.discard()


def test_a_role_that_is_too_large_to_be_sent() -> None:
    """An environment of 200 KB does not fit into a message: that worker is executed, and the spare one stays for the next."""
    with _launcher() as launcher:
        launcher.launch(_SPEC).discard()
        spare = _spare_pid(launcher)
        large = LaunchSpec("probe", _SPEC.import_path, {"LARGE": "x" * 100_000, "MORE": "x" * 100_000})
        child = launcher.launch(large)
        assert child.start.way == "exec"
        assert "131072 can be sent" in child.start.reason
        child.discard()
        child = launcher.launch(_SPEC)
        assert child.pid == spare
        child.discard()


@pytest.mark.parametrize("end", ["killed", "exits without close"])
def test_the_host_ends(end: str, tmp_path: Path) -> None:
    """F-16, H-07: when the host is killed, or its interpreter ends without close, zygote, spare worker, guard and workers end."""
    program = textwrap.dedent(
        f"""
        import os, sys, threading
        sys.path[:0] = {[str(_ROOT), str(NOTES_API)]!r}
        from tests.stage import Stage, eventually
        stage = Stage()
        plugin = stage.start("counter")
        nursery = stage.launcher._nursery
        assert eventually(lambda: nursery._spare)
        print(plugin.pid, nursery._zygote.pid, nursery._spare[0].pid, stage.launcher._guard._process.pid, flush=True)
        if {end!r} == "killed":
            threading.Event().wait(100)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        pids = [int(word) for word in host.stdout.readline().split()]
        if end == "killed":
            host.kill()
        host.wait(30)
    assert len(pids) == 4
    assert eventually(lambda: all(_ended(pid) for pid in pids))


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_many_threads_start_and_end_workers(fast_switching: None) -> None:
    """Eight threads start and end workers while the zygote is killed again and again: each gets a worker, and nothing is left."""
    with _launcher() as launcher:
        done = threading.Event()

        def act(number: int) -> int:
            if number == 8:
                while not done.wait(0.05):
                    _kill(launcher, "zygote")  # by its process id: its pidfd may be closed, and the number another worker's
                return 0
            for _ in range(4):
                child = launcher.launch(_SPEC)
                child.discard()
            return 1

        def all_of_them(number: int) -> int:
            try:
                return act(number)
            finally:
                if number < 8:
                    finished.append(number)
                    if len(finished) == 8:
                        done.set()

        finished: list[int] = []
        assert in_threads(9, all_of_them) == [1] * 8 + [0]


def test_a_plugin_says_how_its_worker_was_started(tmp_path: Path) -> None:
    """``pm.plugin(…).start`` and what ``blackhole info`` prints of it; ``zygote: off`` executes, ``ahead`` has it ready before the first load."""
    import notes_api

    import blackhole_core as bh
    from tests.plugins.build import plugin_dir

    source = plugin_dir("counter", "1.0.0", tmp_path)
    for word, way in (("lazy", "zygote"), ("ahead", "zygote"), ("off", "exec")):
        with bh.PluginManager("notes", config={"zygote": word}) as pm:
            pm.add_hookspecs(notes_api.NotesSpecs)
            launcher = pm.parts._levels._process_launcher
            assert (launcher is not None) == (word == "ahead")
            if launcher is not None:
                assert eventually(lambda launcher=launcher: launcher._nursery._zygote is not None)  # type: ignore[misc]  # a default binds the loop's value
            handle = pm.load("counter", source=source, isolation="process")
            assert handle.start == handle.as_dict()["start"] == way
            pm.swap("counter", source=source, isolation="none", force=True)
            assert handle.start is None
