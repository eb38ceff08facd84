"""Limits on real workers: what passes one fails alone and says which, neighbours and host do not notice, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import blackhole_core as bh
from blackhole_core.executor.confinement import Confinement, Unenforced
from blackhole_core.executor.levels import Levels
from blackhole_core.executor.limits import cgroupfs
from blackhole_core.executor.limits.amounts import MB, OWN_TASKS, descriptors
from blackhole_core.executor.limits.detect import abilities_here
from blackhole_core.executor.limits.division import LEAF
from blackhole_core.executor.limits.limiter import Limiter
from blackhole_core.executor.limits.naming import myself
from blackhole_core.executor.limits.processes import family
from blackhole_core.executor.limits.tree import CONTROLLERS, Abilities, Tree
from blackhole_core.manifest.model import Resources
from tests.integration.managed import Log, manager
from tests.stage import Running, Stage, eventually, in_threads

HUNGRY = '''
import os, resource, signal, subprocess, sys, threading, time
from notes_api import hookimpl

class Hungry:
    def __init__(self):
        self.kept = []

    @hookimpl
    def transform(self, text):
        what, _, argument = text.partition(" ")
        return str(getattr(self, what)(argument))

    def echo(self, argument):
        return argument

    def pid(self, argument):
        return os.getpid()

    def allocate(self, megabytes):
        for _ in range(int(megabytes)):
            self.kept.append(b"x" * 2**20)
            time.sleep(0.001)
        return "allocated"

    def memfd(self, megabytes):
        file = os.memfd_create("greedy")
        for _ in range(int(megabytes)):
            os.write(file, b"x" * 2**20)
        return "filled"

    def fork(self, most):
        made = 0
        try:
            for made in range(int(most)):
                if os.fork() == 0:
                    signal.pause()
        except OSError as error:
            return f"{made} {type(error).__name__}"
        return f"{made} nothing stopped it"

    def bomb(self, enough):
        """Have as many processes as one may, and try to start more until the file is there."""
        made = []
        while not os.path.exists(enough):
            try:
                made.append(os.fork())
            except OSError:
                continue
            if made[-1] == 0:
                signal.pause()
        for pid in made:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return "gave up"

    def threads(self, most):
        stop = threading.Event()
        made = 0
        try:
            for made in range(int(most)):
                threading.Thread(target=stop.wait, daemon=True).start()
        except RuntimeError as error:
            return f"{made} {error}"
        finally:
            stop.set()
        return f"{made} nothing stopped it"

    def spin(self, seconds):
        until = time.process_time() + float(seconds)
        while time.process_time() < until:
            pass
        return "spun"

    def spin_until(self, enough):
        while not os.path.exists(enough):
            pass
        return "spun"

    def descriptors(self, argument):
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    def orphan(self, argument):
        """Start a process that is nobody's child and in nobody's session."""
        program = "import os, sys, time; os.fork() and os._exit(0); os.setsid(); print(os.getpid(), flush=True); os.close(1); time.sleep(1000)"
        return subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout.decode().strip()

    def sparse(self, path):
        with open(path, "wb") as file:
            file.truncate(2**40)
        return "made"

    def fill(self, path):
        for number in range(10_000):
            with open(f"{path}/{number}", "wb") as file:
                file.write(b"x" * 2**18)
            time.sleep(0.002)
        return "filled"

    def fill_removed(self, path):
        """Fill files that have no name any more."""
        for number in range(10_000):
            file = open(f"{path}/removed", "wb", buffering=0)
            os.unlink(f"{path}/removed")
            self.kept.append(file)
            file.write(b"x" * 2**20)
            time.sleep(0.002)
        return "filled"
'''

needs_groups = pytest.mark.skipif(
    not all(abilities_here().holds(name) for name in CONTROLLERS), reason=f"no control groups here: {abilities_here().why_not}"
)


def no_groups() -> Abilities:
    """Return what there is where there are no control groups."""
    return Abilities((), tuple((name, "this test has none") for name in CONTROLLERS))


def kill_only() -> Abilities:
    """Return what there is where control groups can only end what is in them."""
    return Abilities(
        tuple(attrs.evolve(tree, controllers=frozenset()) for tree in abilities_here().trees if tree.kills),
        tuple((name, "this test has none") for name in CONTROLLERS),
    )


def own_groups() -> list[Path]:
    """Return the groups of workers of this process that exist; the one that it has moved to itself stays."""
    places = [tree.directory / myself().directory for tree in abilities_here().trees]
    return [group for place in places if place.exists() for group in place.iterdir() if group.is_dir() and group.name != LEAF]


def existing(directories: list[Path]) -> list[Path]:
    """Return those that exist."""
    return [directory for directory in directories if directory.exists()]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a control group of this process behind."""
    yield
    assert eventually(lambda: not own_groups()), own_groups()


@pytest.fixture
def run(stage: Stage, tmp_path: Path) -> Callable[..., Running]:
    """Return a function that runs the greedy plugin in a worker with the limits it is given."""

    def start(resources: Resources, abilities: Callable[[], Abilities] | None = None, **confinement: Any) -> Running:
        if abilities is not None:
            stage.levels.close()
            stage.levels = Levels(stage.host, limiter=Limiter(abilities))
        spec = stage.spec("hungry", stop_grace=0.5, **stage.write(tmp_path / "hungry", HUNGRY.replace("Hungry:", "Plugin:")))
        confined = Confinement(**{"unenforced": Unenforced.ALLOW, **confinement, "resources": resources})
        runner = stage.levels.make(bh.Isolation.PROCESS, attrs.evolve(spec, confinement=confined))
        stage._runners.append(runner)
        return stage.begin(runner, "hungry")

    return start


@pytest.fixture
def enough(tmp_path: Path) -> Path:
    """Return the file that ends what a worker does until the host has noticed it, however long a busy host takes."""
    return tmp_path / "enough"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the directory of the greedy plugin, with a manifest."""
    package = tmp_path / "hungry"
    package.mkdir()
    (package / "hungry.py").write_text(HUNGRY)
    (package / "plugin.yaml").write_text("name: hungry\nversion: 1.0.0\nentry: hungry:Hungry\nisolation: process\n")
    return package


def configured(**said: Any) -> dict[str, Any]:
    return {"plugins": {"hungry": {"isolation": "process", **said}}}


# --- the kernel holds it ---------------------------------------------------------------------------------------------------


@needs_groups
@pytest.mark.parametrize("way", ["allocate", "memfd"])
def test_a_worker_that_takes_ten_times_its_memory_fails_its_call_alone(source: Path, way: str) -> None:
    """F-19, A35: the call says which limit and how much, the event too; the next call is answered by the next worker."""
    log = Log()
    with manager(configured(resources={"memory": 64}), log=log) as pm:
        pm.load("hungry", source=source)
        with pytest.raises(bh.LimitExceeded, match="passed its limit memory: at most 64 MB, got 64") as caught:
            pm.hook.transform(text=f"{way} 640")
        error = caught.value
        assert isinstance(error, bh.WorkerOverLimit)
        assert isinstance(error, bh.WorkerDied)
        assert (error.limit, error.wanted, error.unit, error.executed, error.exit) == ("memory", 64, "MB", "unknown", -signal.SIGKILL)
        assert error.got >= 64
        assert pm.hook.transform(text="echo again") == ["again"]
        died = log.wait("worker.died")
    assert died.data["limit"]["limit"] == "memory"
    assert "passed its limit memory" in died.data["reason"]


@needs_groups
def test_calls_that_wait_behind_one_that_dies_of_its_memory_are_answered(source: Path) -> None:
    """F-19: what the dead worker had not begun goes to the next one."""
    with manager(configured(resources={"memory": 64})) as pm:
        pm.load("hungry", source=source)

        def call(number: int) -> Any:
            try:
                return pm.hook.transform(text="allocate 640" if number == 0 else f"echo {number}")
            except bh.LimitExceeded as error:
                return error.limit

        answers = in_threads(6, call)
    assert sorted(map(str, answers)) == sorted(["memory", *(str([str(number)]) for number in range(1, 6))])


@needs_groups
def test_a_fork_bomb_stays_within_its_processes(source: Path) -> None:
    """A29: it gets an error at its limit; the other plugin and the host go on, and all its processes end with it."""
    with manager(configured(resources={"pids": 16})) as pm:
        pm.load("hungry", source=source)
        [said] = pm.hook.transform(text="fork 2000")
        made, _, error = said.partition(" ")
        assert error == "BlockingIOError"
        assert int(made) < 16 + OWN_TASKS
        usage = pm.plugin("hungry").usage
        assert usage.pids is not None
        assert 16 <= usage.pids <= 16 + OWN_TASKS
        assert pm.plugin("hungry").enforcement == {"resources.pids": "kernel"}


@needs_groups
def test_threads_count_as_processes_do(run: Callable[..., Running]) -> None:
    """A29: ten thousand threads end at the limit."""
    made, _, error = run(Resources(pids=12))("transform", "threads 10000").partition(" ")
    assert error == "can't start new thread"
    assert int(made) < 12 + OWN_TASKS


@needs_groups
def test_a_worker_that_spins_is_held_back(run: Callable[..., Running]) -> None:
    """A36: the kernel counts periods in which it had used up its share, which is so small that any machine has more to give."""
    running = run(Resources(cpu=4))
    assert running("transform", "spin 0.03") == "spun"
    assert running.remote.facts.limits is not None
    throttled = running.remote.facts.limits.throttled
    assert throttled is not None
    assert throttled > 0


@needs_groups
def test_a_worker_that_wants_more_than_its_limit_lets_others_go_first(run: Callable[..., Running], enough: Path) -> None:
    """A36: it runs when nobody else wants to, until it is content with its share again."""
    running = run(Resources(cpu=4))
    limits = running.remote.facts.limits
    assert limits is not None
    ranks = [file for group in own_groups() if group.name.startswith("hungry") and (file := group / "cpu.idle").exists()]
    if not ranks:
        pytest.skip("this kernel has no groups that run after all others")
    spinning = threading.Thread(target=running, args=("transform", f"spin_until {enough}"))
    spinning.start()
    try:
        assert eventually(lambda: limits.yields)
        assert eventually(lambda: [file.read_text() for file in ranks] == ["1\n"])
    finally:
        enough.touch()
        spinning.join()
    assert eventually(lambda: not limits.yields)
    assert eventually(lambda: [file.read_text() for file in ranks] == ["0\n"])


@needs_groups
@pytest.mark.parametrize("share", [None, 50.0])
def test_a_worker_that_forks_without_end_gets_next_to_nothing_of_the_processor(
    run: Callable[..., Running], enough: Path, monkeypatch: pytest.MonkeyPatch, share: float | None
) -> None:
    """A28: each refused fork stops the processor for all others, so there may not be many; it has its share again when it stops."""
    monkeypatch.setattr("blackhole_core.executor.limits.pressure._LOOKS", 0.05)
    monkeypatch.setattr("blackhole_core.executor.limits.pressure._REFUSED", 0)
    running = run(Resources(cpu=share, pids=12))
    limits = running.remote.facts.limits
    assert limits is not None
    group = next(
        group
        for group in own_groups()
        if group.name.startswith("hungry") and any((group / file).exists() for file in ("cpu.max", "cpu.cfs_quota_us"))
    )
    before = _share(group)
    answers: list[str] = []
    bombing = threading.Thread(target=lambda: answers.append(running("transform", f"bomb {enough}")))
    bombing.start()
    try:
        assert eventually(lambda: limits.short)
        assert eventually(lambda: _share(group) == 1.0)
    finally:
        enough.touch()
        bombing.join()
    assert answers == ["gave up"]
    assert eventually(lambda: not limits.short)
    assert eventually(lambda: _share(group) == before)
    assert before == share


def _share(group: Path) -> float | None:
    """Return the % of one core that a group gets, None when it is not bounded."""
    if (file := group / "cpu.max").exists():
        quota, period = file.read_text().split()
    else:
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    return None if quota in ("max", "-1") else 100 * int(quota) / int(period)


@pytest.mark.skipif(not abilities_here().kills, reason="cgroup.kill does not work here")
@pytest.mark.parametrize("abilities", [None, kill_only])
def test_what_left_session_and_parent_ends_with_its_worker(run: Callable[..., Running], abilities: Any) -> None:
    """A process that has nothing to do with its worker any more, but for the control group, is gone when the worker is."""
    running = run(Resources(), abilities)
    orphan = int(running("transform", "orphan"))
    os.kill(running.pid, signal.SIGKILL)
    assert eventually(lambda: not _runs(orphan))


def test_a_worker_has_fewer_descriptors_than_its_host(run: Callable[..., Running]) -> None:
    """It can neither have more nor allow itself more, so what it leaves in sockets never reaches the bound at which its host's messages are refused."""
    most = descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    assert run(Resources())("transform", "descriptors") == f"({most}, {most})"


def test_a_file_larger_than_the_disk_limit_is_refused(run: Callable[..., Running], tmp_path: Path) -> None:
    """A37: a sparse file of 1 TB fails where it is made, with the error that Python has for it."""
    running = run(Resources(disk=16))
    with pytest.raises(OSError, match="File too large"):
        running("transform", f"sparse {tmp_path / 'sparse'}")
    assert running("transform", "echo alive") == "alive"


@pytest.mark.parametrize("way", ["fill", "fill_removed"])
def test_a_directory_that_grows_past_the_disk_limit_ends_its_worker(run: Callable[..., Running], tmp_path: Path, way: str) -> None:
    """A37: many files, with names or without, each of them far below the limit of a single one."""
    data = tmp_path / "data"
    data.mkdir()
    running = run(Resources(disk=8), data=data)
    with pytest.raises(bh.LimitExceeded, match="passed its limit disk: at most 8 MB") as caught:
        running("transform", f"{way} {data}")
    assert (caught.value.limit, caught.value.unit) == ("disk", "MB")
    assert caught.value.got > 8


# --- the host holds it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abilities", [no_groups, kill_only])
def test_without_control_groups_memory_is_watched(run: Callable[..., Running], abilities: Callable[[], Abilities]) -> None:
    """F-19: it is ended when it is seen above its limit, or its allocation fails at the kernel's cap a little above."""
    running = run(Resources(memory=48), abilities)
    assert running.runner.enforcement() == {"resources.memory": "broker"}
    with pytest.raises((bh.LimitExceeded, MemoryError)) as caught:
        running("transform", "allocate 480")
    if isinstance(caught.value, bh.LimitExceeded):
        assert caught.value.limit == "memory"
        assert caught.value.got >= 48


@pytest.mark.parametrize("abilities", [no_groups, kill_only])
def test_without_control_groups_a_worker_that_spins_is_stopped_now_and_then(
    run: Callable[..., Running], abilities: Callable[[], Abilities]
) -> None:
    """A36: it is held for a part of the time, goes on afterwards, and whoever waits for a sign of life can know."""
    running = run(Resources(cpu=4), abilities)
    limits = running.remote.facts.limits
    assert limits is not None
    assert running("transform", "spin 0.03") == "spun"
    assert limits.held_seconds > 0
    assert running("transform", "echo alive") == "alive"


def test_a_worker_that_is_held_can_be_ended(run: Callable[..., Running]) -> None:
    """A stopped process does not answer a request to end; it is continued in its turn, or killed."""
    running = run(Resources(cpu=1), no_groups)
    limits = running.remote.facts.limits
    assert limits is not None

    def spin() -> None:
        with contextlib.suppress(bh.PluginError):
            running("transform", "spin 100")

    caller = threading.Thread(target=spin)
    caller.start()
    assert eventually(lambda: limits.held)
    running.runner.stop()
    caller.join(20)
    assert not caller.is_alive()


# --- what cannot be enforced -----------------------------------------------------------------------------------------------


def test_without_control_groups_a_limit_of_processes_is_refused(stage: Stage, source: Path) -> None:
    """Nothing else can hold it: the plugin does not start, and says which limit, why, and how to go without."""
    levels = Levels(stage.host, limiter=Limiter(no_groups))
    spec = attrs.evolve(stage.spec("hungry", path=source, entry="hungry:Hungry"), confinement=Confinement(resources=Resources(pids=5)))
    with contextlib.closing(levels), pytest.raises(bh.LoadFailed) as caught:
        levels.make(bh.Isolation.PROCESS, spec)
    assert "its limit pids cannot be enforced here: only a control group can hold it, and there is none: this test has none" in str(
        caught.value
    )
    assert "With unenforced: allow it starts all the same" in str(caught.value)


def test_where_it_is_allowed_a_limit_that_cannot_be_held_is_shown_as_such(run: Callable[..., Running]) -> None:
    """The plugin starts, and nobody is told that it was limited."""
    running = run(Resources(pids=5, disk=10, network=1), no_groups)
    assert running.runner.enforcement() == {"resources.pids": "none", "resources.disk": "none", "resources.network": "none"}
    assert running("transform", "echo alive") == "alive"


@pytest.mark.parametrize("level", ["none", "thread"])
def test_a_limited_plugin_does_not_start_inside_the_host_unless_that_is_allowed(source: Path, level: str) -> None:
    """Nothing can be held there: refused in a sentence, or allowed and shown."""
    sentence = f"at level {level} the plugin is part of the host's own process; run it at level process"
    limited = {"isolation": level, "resources": {"cpu": 50}}
    with manager({"plugins": {"hungry": limited}}) as pm, pytest.raises(bh.LoadFailed, match=sentence):
        pm.load("hungry", source=source)
    with manager({"plugins": {"hungry": {**limited, "unenforced": "allow"}}}) as pm:
        pm.load("hungry", source=source)
        assert pm.plugin("hungry").enforcement == {"resources.cpu": "none"}
        assert pm.hook.transform(text="echo here") == ["here"]


def test_a_group_that_cannot_be_made_refuses_the_worker_that_needs_it(stage: Stage, run: Callable[..., Running], tmp_path: Path) -> None:
    """F40: a tree that turned out unusable: with a limit that is an error, which leaves no worker; without one the worker does without."""

    def broken() -> Abilities:
        return Abilities((Tree(tmp_path / "nothing", 1, frozenset({"memory"})),))

    with pytest.raises(bh.LoadFailed, match="its limits could not be put in force"):
        run(Resources(memory=64), broken)
    assert run(Resources(), broken)("transform", "echo alive") == "alive"


# --- usage -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abilities", [abilities_here, no_groups])
def test_usage_is_measured_with_and_without_control_groups(
    run: Callable[..., Running], abilities: Callable[[], Abilities], tmp_path: Path
) -> None:
    """What is known is a number that follows what the plugin does; a directory that it does not have is not nothing."""
    running = run(Resources(), abilities)
    before = running.remote.facts.usage
    assert running("transform", "allocate 32") == "allocated"
    assert running("transform", "spin 0.05") == "spun"
    after = running.remote.facts.usage
    assert before.memory is not None
    assert after.memory is not None
    assert after.memory - before.memory > 30 * MB
    assert before.cpu is not None
    assert after.cpu is not None
    assert after.cpu - before.cpu >= 0.05
    assert after.pids is not None
    assert after.threads is not None
    assert after.pids >= after.threads >= 2
    assert after.disk is None


def test_a_plugin_that_has_ended_uses_nothing_that_is_known(run: Callable[..., Running]) -> None:
    """None, never 0."""
    running = run(Resources())
    running.runner.stop()
    assert set(attrs.asdict(running.remote.facts.usage).values()) == {None}


# --- hosts that are killed, and hosts side by side -------------------------------------------------------------------------

_HOST = """
import sys
import blackhole_core as bh
from blackhole_core.executor.limits.detect import abilities_here
from blackhole_core.executor.limits.naming import myself
from notes_api import NotesSpecs
with bh.PluginManager("notes", state_dir=sys.argv[2], config={"sandbox": "off"}) as pm:  # walls would let it leave no orphan
    pm.add_hookspecs(NotesSpecs)
    pm.load("hungry", source=sys.argv[1], isolation="process")
    orphan = pm.hook.transform(text="orphan")[0]
    print(orphan, *(tree.directory / myself().directory for tree in abilities_here().trees), flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def other_host(source: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[Path], int]]:
    """Lend another host with a worker that has an orphan: its process, its directories of groups, and the orphan's pid."""
    command = [sys.executable, "-c", _HOST, str(source), str(source.parent / "state")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    with process:
        try:
            assert process.stdout is not None
            orphan, *directories = process.stdout.readline().decode().split()
            yield process, list(map(Path, directories)), int(orphan)
        finally:
            process.kill()


@pytest.mark.skipif(not abilities_here().kills, reason="cgroup.kill does not work here")
def test_a_killed_host_leaves_nothing(source: Path) -> None:
    """SIGKILL of the host: its guard ends and removes what is in its control groups, the orphan that nobody else can find included."""
    with other_host(source) as (process, directories, orphan):
        assert existing(directories)
        process.kill()
        process.wait()
    assert eventually(lambda: not _runs(orphan))
    assert eventually(lambda: existing(directories) == [])


@pytest.mark.skipif(not abilities_here().kills, reason="cgroup.kill does not work here")
def test_what_a_killed_host_left_is_removed_by_the_next_one(source: Path) -> None:
    """F40: its guard was killed before it: the next host finds groups and processes."""
    with other_host(source) as (process, directories, orphan):
        for pid in family(process.pid)[1:]:
            if b"cgroup.kill" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
    # What is left is there until the next host of this machine begins, which may be that of another test beside this one.
    limiter = Limiter(lambda: Abilities(tuple(Tree(directory.parent, 1) for directory in directories)))
    assert limiter.abilities.trees
    limiter.close()
    assert existing(directories) == []
    assert eventually(lambda: not _runs(orphan))


@pytest.mark.skipif(not abilities_here().kills, reason="cgroup.kill does not work here")
def test_one_manager_of_two_in_a_process_takes_only_its_own_groups_with_it(source: Path) -> None:
    """Both have their groups in one directory; the guard of the one that closes leaves it alone."""
    with manager(configured()) as pm:
        pm.load("hungry", source=source)
        with manager(configured()) as other:
            other.load("hungry", source=source)
            assert other.hook.transform(text="echo there") == ["there"]
        assert pm.hook.transform(text="echo here") == ["here"]
        assert pm.plugin("hungry").restarts == 0


@pytest.mark.skipif(not abilities_here().kills, reason="cgroup.kill does not work here")
def test_what_a_living_host_uses_is_not_touched(source: Path) -> None:
    """Two hosts at once: each has directories of its own, and one that starts leaves the other's alone."""
    with other_host(source) as (process, directories, orphan):
        before = existing(directories)
        limiter = Limiter(lambda: Abilities(tuple(Tree(directory.parent, 1) for directory in directories)))
        assert limiter.abilities.trees
        limiter.close()
        assert before
        assert existing(directories) == before
        assert _runs(orphan)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0
    assert existing(directories) == []
    assert eventually(lambda: not _runs(orphan))


@needs_groups
def test_a_group_that_is_in_use_is_waited_for_and_then_left_to_the_sweep(tmp_path: Path) -> None:
    """F40: busy: no endless wait; when who is in it has gone, it can be removed."""
    tree = next(tree for tree in abilities_here().trees if "pids" in tree.controllers)
    host = tree.directory / myself().directory
    directory = host / "busy" / "inner"
    directory.mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        cgroupfs.enter(directory, sleeper.pid)
        assert not cgroupfs.remove(directory.parent, 0.01)
        assert cgroupfs.members(directory) == [sleeper.pid]
        assert cgroupfs.kill_all(directory, 10)
        assert sleeper.wait() == -signal.SIGKILL
    assert cgroupfs.remove(directory.parent, 10)
    with contextlib.suppress(OSError):
        host.rmdir()  # on a machine with version 2 this process is in it


def _runs(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
