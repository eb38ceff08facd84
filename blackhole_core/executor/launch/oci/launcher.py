"""Level container: a worker in a container of its own, brought up by one of the :mod:`~blackhole_core.executor.launch.oci.engines`.

The worker is the same program as at level process, with the same pipes and shared memory: a container is on the host's own kernel. What it gets waits in a
socket, the only descriptor that the engine passes in. The engine is started from any thread; nothing depends on which one, since nothing ends with it.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from blackhole_core.errors import IsolationUnavailable
from blackhole_core.executor.confinement import Confinement
from blackhole_core.executor.container import TAKE
from blackhole_core.executor.launch.child import Child, LaunchSpec
from blackhole_core.executor.launch.oci.binds import binds_of, devices_of, interpreter
from blackhole_core.executor.launch.oci.bundle import Bind, Box, config
from blackhole_core.executor.launch.oci.engines import Engine
from blackhole_core.executor.launch.oci.image.root import lay_out
from blackhole_core.executor.launch.oci.image.store import Unpacked
from blackhole_core.executor.launch.oci.place import Place, containers_directory
from blackhole_core.executor.launch.oci.running import ContainerChild, Engaged, NotUp, remove_container
from blackhole_core.executor.launch.plumbing import Plumbing
from blackhole_core.executor.launch.process import PROGRAM, environment
from blackhole_core.executor.sandbox.imageroot import import_path_inside
from blackhole_core.executor.sandbox.plan import draw_up
from blackhole_core.executor.wire.policy import Policy

__all__ = ["ContainerLauncher", "start_engine"]

#: What runs before the worker's program, which is the same as at level process.
_FIRST_PROGRAM: Final = "import sys; sys.path[:] = sys.argv[2:]\n"
#: The same with an interpreter that may be any: it has to be able to read what is ours, and what that needs. The worker's program, and then
#: the host's import path, are around its own. Any Python 3 can read it.
_FIRST_PROGRAM_IN_IMAGE: Final = """
import sys
if sys.version_info < (3, 11):
    sys.exit("the Python of the image is %d.%d, and a plugin needs 3.11 or later in there" % sys.version_info[:2])
sys.path[:] = [sys.argv[2], *sys.path, *sys.argv[3:]]
sys.argv[2:] = sys.path
try:
    import msgspec
except ImportError as error:
    sys.exit("the image has no msgspec for its Python %d.%d, and that of this host cannot be used there (%s): " % (*sys.version_info[:2], error)
        + "install msgspec in the image, or use one with the Python of this host")
"""
_MAIN: Final = "from blackhole_core.executor.container import {0}; {0}()\n"
#: What a worker without a plugin needs beside the import path.
_OURS: Final = Path(__file__).parent
#: The number of the socket in there: the first after the three standard streams.
_LIFE: Final = 3
#: What the kernel takes for "no limit", which Python calls -1.
_NO_LIMIT: Final = 2**64 - 1
#: Seconds for a container to come up: a tenth of one, unless the machine is busy.
_UP_SECONDS: Final = 30.0


class ContainerLauncher:
    """Brings up workers in containers run by ``engine``; ``program`` is what a worker runs, as for a :class:`ProcessLauncher`. ``image`` is what their
    root directory is made of; None: of this machine.

    ``_place`` is made with the first container and goes with :meth:`close`; both under ``_lock``. ``host`` is a pidfd of this process, by which
    each container sees it end.
    """

    def __init__(self, engine: Engine, program: str = PROGRAM, image: Unpacked | None = None) -> None:
        self._engine = engine
        self._image = image
        first = _MAIN.format("main" if engine.passes else "main_on_streams")
        self._program: Final = (_FIRST_PROGRAM if image is None else _FIRST_PROGRAM_IN_IMAGE) + first + program
        self._pid: Final = os.getpid()
        self._lock = threading.Lock()
        self._place: Place | None = None
        self._host = -1
        self._closed = False

    def launch(self, spec: LaunchSpec) -> Child:
        """Bring up a container with a worker in it.

        :raises IsolationUnavailable: the engine could not start it, and says why.
        :raises OSError: the system refused; nothing is left behind.
        :raises RuntimeError: the launcher is closed, or another process's.
        """
        place = self._the_place()
        with Plumbing() as pipes:
            engaged = self._engage(place, spec, pipes)
            try:
                engaged.wait_up(_UP_SECONDS)
                child = ContainerChild(engaged, pipes)
            except NotUp as error:
                engaged.finish()
                raise IsolationUnavailable("container", f"{self._engine.name} could not start one: {error}") from None
            except BaseException:
                engaged.finish()
                raise
            pipes.hand_over()
            return child

    def close(self) -> None:
        """Remove what the launcher keeps; its containers have ended. Does nothing in a fork of this process."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            place, self._place = self._place, None
            if place is not None:
                place.close()
                os.close(self._host)

    def _the_place(self) -> Place:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"process {os.getpid()} was forked from {self._pid}, whose containers these are, and cannot bring up more of them: "
                "make a plugin manager of its own after the fork"
            )
        with self._lock:
            if self._closed:
                raise RuntimeError("the launcher is closed")
            if self._place is None:
                self._place = Place(containers_directory(os.environ, os.geteuid()), self._clean)
                self._host = os.pidfd_open(self._pid)
            return self._place

    def _clean(self, left: Path) -> None:
        """End the containers that a dead host left in its directory."""
        engine = left / "engine"
        for container in {entry.name.partition("_sandbox:")[0] for entry in engine.iterdir()} if engine.is_dir() else ():
            remove_container(self._engine, engine, container)

    def _engage(self, place: Place, spec: LaunchSpec, pipes: Plumbing) -> Engaged:
        """Have the engine start a container."""
        bundle = place.bundle()
        life, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = 0
        try:
            with theirs:
                passed = [self._host, pipes.worker_output, pipes.worker_receive, pipes.worker_send, *spec.descriptors]
                socket.send_fds(life, [TAKE], passed)
                self._write(bundle, spec)
                pid = start_engine(self._engine.run(place.engine, bundle, bundle.name), bundle / "log", {_LIFE: theirs.fileno()})
                return Engaged(pid=pid, pidfd=os.pidfd_open(pid), life=life, engine=self._engine, root=place.engine, bundle=bundle)
        except BaseException:
            life.close()
            if pid:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                remove_container(self._engine, place.engine, bundle.name)
            shutil.rmtree(bundle, ignore_errors=True)
            raise

    def _write(self, bundle: Path, spec: LaunchSpec) -> None:
        root = bundle / "root"
        root.mkdir()  # the engine adds the places to mount on
        box = _box(spec, self._program, str(root)) if self._image is None else _box_of_image(spec, self._program, root, self._image)
        (bundle / "config.json").write_text(json.dumps(self._config(box)), "utf-8")

    def _config(self, box: Box) -> dict[str, Any]:
        return config(box)


def _box(spec: LaunchSpec, program: str, root: str) -> Box:
    policy = spec.policy or draw_up(Confinement(), plugin=_OURS, import_path=spec.import_path, layers=(), temporary=None)
    return Box(
        root=root,
        arguments=(interpreter(), "-I", "-S", "-c", program, str(_LIFE), *spec.import_path),
        environment={**environment(os.environ.get), **spec.environment},
        binds=(*binds_of(policy.places), *_hidden(spec, policy)),
        devices=tuple(devices_of(policy.places)),
        rootless=(os.geteuid(), os.getegid()) if os.geteuid() else None,
        temporary=(os.fsdecode(policy.temporary), policy.temporary_size),
        limits=_limits(spec),
        umask=_umask(),
    )


def _box_of_image(spec: LaunchSpec, program: str, root: Path, image: Unpacked) -> Box:
    """Return what the container of a plugin with an image is to be, and make in ``root`` what of the image is not mounted."""
    assert spec.policy is not None  # of a plugin, always
    box = _box(spec, program, str(root))
    binds = [bind for bind in binds_of(spec.policy.places) if not Path(bind.source).is_relative_to(image.root)]
    laid = lay_out(image.root, binds, box.temporary[0])
    for directory in laid.directories:
        (root / directory[1:]).mkdir(0o755)
    for path, target in laid.links:
        (root / path[1:]).symlink_to(target)
    return attrs.evolve(
        box,
        arguments=(image.python, "-I", "-c", program, str(_LIFE), *import_path_inside(spec.import_path)),
        environment={**environment(os.environ.get), **image.environment, **spec.environment},
        binds=(*laid.binds, *binds),
    )


def _hidden(spec: LaunchSpec, policy: Policy) -> list[Bind]:
    """Return what the container's own file system for temporary files would hide: only where the whole file system was granted, else each of these is a place."""
    needed = (*spec.import_path, *((str(spec.plugin.path),) if spec.plugin is not None else ()))
    places = {os.fsdecode(place.target) for place in policy.places}
    inside = [path for path in needed if path not in places and Path(path).is_relative_to(os.fsdecode(policy.temporary))]
    return [Bind(os.path.realpath(path), path, file=not Path(path).is_dir()) for path in inside if "/" in places and Path(path).exists()]


def _limits(spec: LaunchSpec) -> list[tuple[str, int, int]]:
    """Return every resource limit of this process, as far as ``spec`` lowers it: engines have limits of their own, which would be handed on."""
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE")
    numbers = {name: getattr(resource, name) for name in names}
    limits = {name: spec.lowered(number, *resource.getrlimit(number)) for name, number in numbers.items()}
    return [(name, soft & _NO_LIMIT, hard & _NO_LIMIT) for name, (soft, hard) in limits.items()]


def _umask() -> int:
    """Return this process's mask for new files, which can be read nowhere else without changing it."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def start_engine(command: list[str], log: Path, passed: Mapping[int, int]) -> int:
    """Start the engine in a session of its own, with descriptors under the numbers that it is to have them by. Return its process id.

    What it says goes to ``log``, unless these are its streams; so does what the interpreter in the container says before it has its own output.
    """
    above: dict[int, int] = {}
    try:
        for number, descriptor in passed.items():
            above[number] = fcntl.fcntl(
                descriptor, fcntl.F_DUPFD_CLOEXEC, _LIFE + 1
            )  # to be given its number, it must have had another one
        return os.posix_spawn(
            command[0],
            command,
            _engine_environment(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                *((os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in above.items()),
            ],
            setsid=True,  # no Ctrl-C of the host's terminal
            setsigmask=(),
            setsigdef=[number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)],
        )
    finally:
        for descriptor in above.values():
            os.close(descriptor)


def _engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in ("PATH", "HOME", "XDG_RUNTIME_DIR") if name in environ}
