"""The isolation levels by name: what each needs to run here, and how a runner for it is made."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from blackhole_core.errors import IsolationUnavailable
from blackhole_core.executor.confinement import Sandbox
from blackhole_core.executor.limits.enforcing import refuse_unenforced
from blackhole_core.executor.relay.rules import refuse_listening, rules_of
from blackhole_core.executor.runner import Host, Runner, RunnerSpec
from blackhole_core.ids import Isolation, PluginId

if TYPE_CHECKING:
    from blackhole_core.executor.launch.child import Launcher
    from blackhole_core.executor.launch.oci.image.store import Unpacked
    from blackhole_core.executor.launch.oci.launcher import ContainerLauncher
    from blackhole_core.executor.launch.process import ProcessLauncher
    from blackhole_core.executor.launch.vm import VmLauncher
    from blackhole_core.executor.limits.limiter import Limiter
    from blackhole_core.executor.limits.tree import Abilities
    from blackhole_core.executor.relay.host import Relay
    from blackhole_core.executor.sandbox.imageroot import ImageRoot

__all__ = ["Level", "Levels", "import_path", "levels_here"]


@attrs.frozen
class Level:
    """Whether one level can run here. ``reason`` is empty when it can, else what is missing and what to do."""

    isolation: Isolation
    reason: str = ""

    @property
    def available(self) -> bool:
        return not self.reason


def levels_here() -> tuple[Level, ...]:
    """Return every level, weakest first, with the reason why one cannot run on this machine."""
    return tuple(Level(isolation, _CHECKS[isolation]()) for isolation in Isolation)


def _nothing_missing() -> str:
    return ""


def _process_missing() -> str:
    if sys.platform != "linux":
        return f"worker processes are supervised by Linux means (pidfd, eventfd), this is {sys.platform}"
    if not hasattr(os, "pidfd_open") or not hasattr(os, "eventfd"):
        return "this Python was built without pidfd or eventfd; use a build for Linux 5.3 or later"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"the kernel refuses pidfd_open ({error.strerror}); Linux 5.3 or later is needed"
    return ""


def _container_missing() -> str:
    from blackhole_core.executor.launch.oci.choosing import container_missing

    return _process_missing() or container_missing()


def _vm_missing() -> str:
    from blackhole_core.executor.launch.vmcheck import vm_missing

    return _process_missing() or vm_missing()


_CHECKS: Final[dict[Isolation, Callable[[], str]]] = {
    Isolation.NONE: _nothing_missing,
    Isolation.THREAD: _nothing_missing,
    Isolation.PROCESS: _process_missing,
    Isolation.CONTAINER: _container_missing,
    Isolation.VM: _vm_missing,
}


class Levels:
    """Makes runners, and owns what runners of one host share: the launchers of workers, what limits them, the relay
    to the network, and the log pump.

    Each is made with the first worker that needs it. The manager closes this after the last runner has stopped. ``zygote`` says whether workers may be
    forked; without it each of them is executed. ``lane`` says whether calls may go through shared memory; without it they go by pipes. ``limiter`` is what limits workers,
    and closed with this; by default one that uses what works here.
    """

    def __init__(self, host: Host, *, zygote: bool = True, lane: bool = True, limiter: Limiter | None = None) -> None:
        from blackhole_core.executor.output import LogPump, plugin_of

        self._host = host
        self._pump = LogPump(lambda logger, lines: host.emit("plugin.output_lost", plugin_of(logger), lines=lines))
        self._lock = threading.Lock()  # guards making what is made once
        self._zygote = zygote
        self._lane = lane
        self._process_launcher: ProcessLauncher | None = None
        self._worker_limiter = limiter
        self._container_launchers: dict[tuple[str, str | None], ContainerLauncher] = {}  # by engine and image
        self._network_relay: Relay | None = None
        self._vm_launcher: VmLauncher | None = None

    def make(self, isolation: Isolation, spec: RunnerSpec) -> Runner:
        """Return a runner, not yet started.

        :raises IsolationUnavailable: the level cannot run here.
        :raises LoadFailed: a limit of the plugin cannot be enforced, and its configuration does not allow that; or it may do what cannot be done there.
        """
        reason = _CHECKS[isolation]()
        if reason:
            raise IsolationUnavailable(isolation.value, reason)
        refuse_unenforced(str(spec.id), isolation, spec.confinement, self._abilities)
        refuse_listening(str(spec.id), spec.confinement, isolation)
        return self._makers()[isolation](spec)

    def _makers(self) -> dict[Isolation, Callable[[RunnerSpec], Runner]]:
        return {
            Isolation.NONE: self._inline,
            Isolation.THREAD: self._thread,
            Isolation.PROCESS: self._process,
            Isolation.CONTAINER: self._container,
            Isolation.VM: self._vm,
        }

    def _inline(self, spec: RunnerSpec) -> Runner:
        from blackhole_core.executor.inline import InlineRunner

        return InlineRunner(spec, self._host)

    def _thread(self, spec: RunnerSpec) -> Runner:
        from blackhole_core.executor.thread import ThreadRunner

        return ThreadRunner(spec, self._host)

    def _process(self, spec: RunnerSpec) -> Runner:
        return self._remote(spec, Isolation.PROCESS, self._launcher())

    def _container(self, spec: RunnerSpec) -> Runner:
        from blackhole_core.executor.launch.oci.choosing import choose_engine, launcher_for
        from blackhole_core.executor.sandbox.imageroot import ImageRoot

        engine = choose_engine(spec.container.runtime)
        image = None if spec.container.image is None else self._image(spec.id, spec.container.image)
        with self._lock:
            key = (engine.name, None if image is None else image.id)
            if key not in self._container_launchers:
                self._container_launchers[key] = launcher_for(engine, image)
            launcher = self._container_launchers[key]
        root = None if image is None else ImageRoot(image.root, image.about)
        return self._remote(spec, Isolation.CONTAINER, launcher, shared_memory=engine.passes, image=root)

    def _image(self, plugin: PluginId, reference: str) -> Unpacked:
        """Return the image that a plugin runs in, laid out.

        :raises IsolationUnavailable: it cannot be had.
        """
        from blackhole_core.executor.launch.oci.image.errors import BadImage
        from blackhole_core.executor.launch.oci.image.store import ImageStore, images_directory

        store = ImageStore(
            images_directory(os.environ, os.geteuid()), lambda said: self._host.emit("image.unpacking", plugin.name, said=said)
        )
        try:
            return store.get(reference, os.environ.get("PATH"))
        except (BadImage, OSError) as error:
            raise IsolationUnavailable(
                Isolation.CONTAINER.value, f"plugin {plugin} wants the image {reference!r}, which cannot be used: {error}"
            ) from None

    def _remote(
        self,
        spec: RunnerSpec,
        level: Isolation,
        launcher: Launcher,
        *,
        shared_memory: bool = True,
        image: ImageRoot | None = None,
        spare: bool = False,
    ) -> Runner:
        from blackhole_core.executor.remote import RemoteRunner
        from blackhole_core.executor.sandbox.walls import Walls
        from blackhole_core.executor.workerfactory import WorkerFactory

        factory = WorkerFactory(
            self._host,
            level,
            launcher,
            self._pump,
            import_path(),
            self._limiter(),
            relay=self._relay(spec, level),
            lane=self._lane and shared_memory,
            arena=shared_memory,
            walls=Walls(level, image) if _has_walls(spec, level) else None,
        )
        return RemoteRunner(spec, factory, spare=spare)

    def _vm(self, spec: RunnerSpec) -> Runner:
        from blackhole_core.executor.launch.vm import VmLauncher, images_for, refuse_spare

        refuse_spare(spec)
        with self._lock:
            if self._vm_launcher is None:
                self._vm_launcher = VmLauncher(images_for(self._host.emit))
            launcher = self._vm_launcher
        return self._remote(spec, Isolation.VM, launcher, shared_memory=False, spare=bool(spec.vm.spare))

    def _launcher(self) -> ProcessLauncher:
        from blackhole_core.executor.launch.process import ProcessLauncher

        with self._lock:
            if self._process_launcher is None:
                self._process_launcher = ProcessLauncher(zygote=self._zygote, group=lambda pid: self._limiter().ahead(pid))
            return self._process_launcher

    def _abilities(self) -> Abilities:
        return self._limiter().abilities

    def _limiter(self) -> Limiter:
        from blackhole_core.executor.limits.limiter import Limiter

        with self._lock:
            if self._worker_limiter is None:
                self._worker_limiter = Limiter()
            return self._worker_limiter

    def _relay(self, spec: RunnerSpec, level: Isolation) -> Relay | None:
        """Return the relay for a plugin that may use the network through it."""
        if rules_of(spec.confinement, level) is None:
            return None
        from blackhole_core.executor.relay.host import Relay

        with self._lock:
            if self._network_relay is None:
                self._network_relay = Relay(self._host.emit)
            return self._network_relay

    def warm(self) -> None:
        """Begin to make ready what the first worker would wait for, and return; nothing where level process cannot run."""
        if not _CHECKS[Isolation.PROCESS]():
            self._launcher().warm(import_path())

    def close(self) -> None:
        """End the launchers, the thread that watches limits, the relay and the log pump."""
        if self._worker_limiter is not None:
            self._worker_limiter.close()
        if self._process_launcher is not None:
            self._process_launcher.close()
        for launcher in self._container_launchers.values():
            launcher.close()
        if self._vm_launcher is not None:
            self._vm_launcher.close()
        if self._network_relay is not None:
            self._network_relay.close()
        self._pump.close()


def _has_walls(spec: RunnerSpec, level: Isolation) -> bool:
    """Whether a worker builds walls around itself: always in a container, where they complete those that are there; a virtual machine is one."""
    return level is Isolation.CONTAINER or (level is Isolation.PROCESS and spec.confinement.sandbox is not Sandbox.OFF)


def import_path() -> tuple[str, ...]:
    """Return the host's import path, absolute: a worker can import what its host can."""
    return tuple(dict.fromkeys(str(Path(entry).absolute()) for entry in sys.path))
