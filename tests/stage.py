"""A small host for tests of runners: the hook manager, the levels and nothing of the life cycle above them."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import notes_api

from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.context import PluginContext
from blackhole_core.executor.launch.oci.choosing import choose_engine
from blackhole_core.executor.launch.oci.launcher import ContainerLauncher
from blackhole_core.executor.launch.process import ProcessLauncher
from blackhole_core.executor.levels import Levels
from blackhole_core.executor.limits.limiter import Limiter
from blackhole_core.executor.output import LogPump
from blackhole_core.executor.remote import RemoteRunner
from blackhole_core.executor.runner import Host, Limits, Runner, RunnerSpec
from blackhole_core.executor.timers import Timers
from blackhole_core.executor.workerfactory import WorkerFactory
from blackhole_core.hooks.manager import HookManager
from blackhole_core.ids import Isolation, PluginId
from blackhole_core.lifecycle.specs import SpecBook
from blackhole_core.manifest.model import Container
from blackhole_core.messages import CONTRACT, Call, Surface
from tests.levels import require_level
from tests.plugins.build import HERE

__all__ = ["Running", "Stage", "eventually", "in_threads"]


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Look again and again until ``condition()`` holds; False when it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


class Running:
    """A started runner with the plugin's implementations by hook."""

    def __init__(self, runner: Runner, surface: Surface) -> None:
        self.runner = runner
        self.surface = surface

    def __call__(self, hook: str, *args: Any) -> Any:
        """Call the implementation of ``hook`` past every hook caller."""
        index = next(i for i, known in enumerate(self.surface.implementations) if known.hook == hook)
        return self.runner.call(Call(hook, args, index=index))

    def contract(self, name: str, *args: Any) -> Any:
        return self.runner.call(Call(name, args, CONTRACT))

    @property
    def remote(self) -> RemoteRunner:
        assert isinstance(self.runner, RemoteRunner)
        return self.runner

    @property
    def pid(self) -> int:
        assert self.remote.pid is not None
        return self.remote.pid


class Stage:
    """Runs test plugins at any level, registered with a hook manager of project ``notes``. Closed by its fixture."""

    def __init__(self, *, zygote: bool = True, level: str = "process") -> None:
        """``zygote`` says whether workers are forked or executed; ``level`` is where plugins run when nothing else is said."""
        self.level = require_level(level)
        self.confinement = Confinement()  # of plugins for which nothing else is said
        self.container = Container()  # likewise
        self.hooks = HookManager(notes_api.PROJECT)
        self.hooks.add_hookspecs(notes_api.NotesSpecs)
        self.hooks.add_hookspecs(notes_api.LiveSpecs)
        self._labels: dict[str, str | None] = {}
        self.hooks.label_of = self._labels.get
        self.hook = self.hooks.hook
        self.timers = Timers()
        self.events: list[tuple[str, dict[str, Any]]] = []
        specs = SpecBook(self.hooks)
        self.host = Host(
            hook=self.hook,
            signature=specs.signature,
            hook_names=specs.names,
            is_firstresult=specs.is_firstresult,
            exception_type=specs.exception_type,
            timers=self.timers,
            emit=lambda name, plugin="", **data: self.events.append((name, data)),
        )
        self.levels = Levels(self.host, zygote=zygote)
        self._runners: list[Runner] = []
        self._closers: list[Callable[[], object]] = []

    def use_fall_backs(self) -> None:
        """Have every worker executed, and called by pipes alone; none has been started yet."""
        self.levels.close()
        self.levels = Levels(self.host, zygote=False, lane=False)

    @property
    def launcher(self) -> ProcessLauncher:
        """What brought up the workers; there is one."""
        assert self.levels._process_launcher is not None
        return self.levels._process_launcher

    # --- plugins -----------------------------------------------------------------------------------------------------

    def spec(
        self,
        name: str,
        *,
        path: Path | None = None,
        entry: str | None = None,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        confinement: Confinement | None = None,
        container: Container | None = None,
        **limits: Any,
    ) -> RunnerSpec:
        """Describe the test plugin ``name`` 1.0.0, or the one at ``path`` with ``entry``."""
        if path is None:
            path = HERE / f"{name}_1_0"
            project = tomllib.loads((path / "pyproject.toml").read_text())["project"]
            [entry] = project["entry-points"][notes_api.PROJECT].values()
        assert entry is not None
        package = entry.partition(":")[0]
        limits = {"call_timeout": 30.0, "stop_grace": 2.0, **limits}
        return RunnerSpec(
            PluginId(name, "1.0.0"),
            1,
            entry,
            path,
            (package,),
            notes_api.PROJECT,
            Limits(**limits),
            config or {},
            environment or {},
            confinement=confinement or self.confinement,
            container=container or self.container,
        )

    def make(self, name: str, level: str, **options: Any) -> Runner:
        """Return a runner that is not started; :meth:`close` stops it."""
        runner = self.levels.make(Isolation(level), self.spec(name, **options))
        self._runners.append(runner)
        return runner

    def start(self, name: str, level: str | None = None, **options: Any) -> Running:
        """Start a plugin, register it and tell it so."""
        return self.begin(self.make(name, level or self.level, **options), name)

    def begin(self, runner: Runner, name: str) -> Running:
        running = Running(runner, runner.start())
        self._labels[name] = f"{name}@1.0.0" if runner.level is Isolation.NONE else None
        self.hooks.register(runner.plugin_object(), name=name)
        if "plugin_start" in running.surface.contracts:
            wanted = running.surface.contracts["plugin_start"]
            local = runner.level in (Isolation.NONE, Isolation.THREAD)
            context = PluginContext(name, "1.0.0", 1, {}, self.hook) if local else None
            running.contract("plugin_start", *(context for _ in wanted))
        return running

    def hostile(self, program: str, **options: Any) -> RemoteRunner:
        """Return a runner whose workers run ``program``, which has the names ``say``, ``hear``, ``raw``, ``codec`` ``send``/``receive`` and ``shared``."""
        launcher, pump, limiter = self._launcher(_HOSTILE + program), LogPump(), Limiter()
        self._closers += [launcher.close, limiter.close, pump.close]
        import_path = tuple(str(Path(entry).absolute()) for entry in sys.path)
        spec = self.spec("hostile", path=HERE, entry="hostile:Plugin", **{"stop_grace": 0.2, **options})
        runner = RemoteRunner(spec, WorkerFactory(self.host, self.level, launcher, pump, import_path, limiter))
        self._runners.append(runner)
        return runner

    def hostile_up(self, program: str, **options: Any) -> tuple[Running, list[Ended]]:
        """Start such a runner; return it with what comes to be told of the ends of its workers."""
        runner = self.hostile(program, **options)
        running, ends = Running(runner, runner.start()), list[Ended]()
        runner.watch(ends.append)
        return running, ends

    def _launcher(self, program: str) -> ProcessLauncher | ContainerLauncher:
        return ContainerLauncher(choose_engine(), program) if self.level is Isolation.CONTAINER else ProcessLauncher(program)

    def write(self, directory: Path, source: str, name: str = "adhoc") -> dict[str, Any]:
        """Write a plugin module and return the options that describe it; its plugin object is the class ``Plugin``."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.py").write_text(f"from notes_api import hookimpl\nimport blackhole_core as bh\n{source}")
        return {"path": directory, "entry": f"{name}:Plugin"}

    def event_names(self) -> list[str]:
        return [name for name, _data in self.events]

    @contextlib.contextmanager
    def closing(self) -> Iterator[Self]:
        """Close it at the end of the block."""
        with contextlib.closing(self):
            yield self

    def close(self) -> None:
        for plugin in list(self.hooks.get_plugins()):
            self.hooks.unregister(plugin)
        for runner in reversed(self._runners):
            runner.stop()
        for close in self._closers:
            close()
        self.levels.close()
        self.timers.close()
        self.host.scratch.close()


#: A worker program of a stranger: it can speak the protocol, and then does what it likes.
_HOSTILE = """
import sys
sys.path[:] = sys.argv[5:]
import os, time, signal, msgspec
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.frames import FrameReader, frame
receive, send = int(sys.argv[1]), int(sys.argv[2])
shared = [int(word) for word in sys.argv[4].split(",") if word]
frames, inbox = FrameReader(2**32), []
def raw(data):
    data = memoryview(data)
    while data:
        data = data[os.write(send, data):]
def say(*messages):
    for message in messages:
        raw(frame(codec.encode(message)))
def hear():
    while not inbox:
        data = os.read(receive, 1 << 20)
        if not data:
            os._exit(0)
        inbox.extend(map(codec.decode_host_message, frames.feed(data)))
    return inbox.pop(0)
assert isinstance(hear(), codec.Confine)
NONE = msgspec.Raw(b"\\xc0")
TRANSFORM = codec.ImplementationInfo("transform", "transform", ("text",), {}, annotated=("text",))
def come_up(*implementations, contracts={}, lane=False):
    say(codec.Hello(codec.PROTOCOL, os.getpid(), "", lane))
    hear()
    say(codec.Loaded(implementations or (TRANSFORM,), contracts))
    hear()
    say(codec.Answer(0, NONE))
def hold():
    while True:
        time.sleep(60)
"""


def in_threads(count: int, action: Callable[[int], object]) -> list[Any]:
    """Run ``action(number)`` in so many threads at once and return what each returned or raised, in order."""
    outcomes: list[Any] = [None] * count
    together = threading.Barrier(count)

    def run(number: int) -> None:
        together.wait(10)
        try:
            outcomes[number] = action(number)
        except BaseException as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes
