"""Containers run by gVisor's ``runsc``: on a kernel of their own, written in Go, that makes few calls to the host's.

Into such a container goes nothing but its standard streams. So they are the worker's channel and its output, no memory is shared, and what needs more, devices and the way to the
network among it, is refused. There is no Landlock in there: programs cannot be told apart.
The engine's process stands for the container: with it the rest ends, and its exit status is that of process 1.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from blackhole_core.errors import IsolationUnavailable
from blackhole_core.executor.launch.child import Child, LaunchSpec, Start
from blackhole_core.executor.launch.oci.bundle import Box, config
from blackhole_core.executor.launch.oci.launcher import ContainerLauncher, start_engine
from blackhole_core.executor.launch.plumbing import Plumbing
from blackhole_core.executor.runner import RunnerSpec
from blackhole_core.ids import Isolation
from blackhole_core.manifest.permissions import Level, level_of, parse_permission

__all__ = ["GvisorChild", "GvisorLauncher"]

#: Areas of permissions that such a container can be given: files, variables, and what goes over the channel.
_GIVABLE: Final = frozenset({"filesystem", "env", "host", "plugin", "other_plugins"})
#: Options of mounts that are newer than it. A mount of its own is one for all that the host has mounted below, read only or not.
_OPTIONS: Final = {"rnosuid": "nosuid", "rnodev": "nodev", "rro": "ro"}
#: What an engine, as a shell, adds to the number of the signal that ended a program.
_SIGNALLED: Final = 128


class GvisorLauncher(ContainerLauncher):
    """Brings up workers in containers of ``runsc``."""

    def launch(self, spec: LaunchSpec) -> Child:
        """Bring up a container; what runs in it has not begun yet.

        :raises IsolationUnavailable: its plugin was granted what cannot be given there.
        :raises OSError: the system refused; nothing is left behind.
        :raises RuntimeError: the launcher is closed, or another process's.
        """
        if spec.plugin is not None:
            _refuse_ungivable(spec.plugin)
        place = self._the_place()
        with Plumbing() as pipes:
            bundle = place.bundle()
            try:
                self._write(bundle, spec)
                streams = {0: pipes.worker_receive, 1: pipes.worker_send, 2: pipes.worker_output}
                pid = start_engine(self._engine.run(place.engine, bundle, bundle.name), bundle / "log", streams)
                pidfd = _pidfd_of(pid)
            except BaseException:
                shutil.rmtree(bundle, ignore_errors=True)
                raise
            pipes.hand_over()
            return GvisorChild(pid, pidfd, pipes, lambda: _remove(place.engine, bundle))

    def _config(self, box: Box) -> dict[str, Any]:
        made = config(box)
        for mount in made["mounts"]:
            mount["options"] = [_OPTIONS.get(option, option) for option in mount["options"]]
        return made


class GvisorChild(Child):
    """A worker in such a container. Its process is the engine's, to which signals go."""

    def __init__(self, pid: int, pidfd: int, pipes: Plumbing, remove: Callable[[], object]) -> None:
        """``remove`` puts away what an engine that was killed could not."""
        super().__init__(pid, pidfd, pipes.receive, pipes.send, pipes.output, start=Start("container", "runsc"))
        self._remove = remove

    def reap(self) -> int | None:
        """Collect how the worker ended, as the engine says it."""
        code = super().reap()
        return code if code is None or code <= _SIGNALLED else _SIGNALLED - code

    def close(self) -> None:
        """Close the descriptors and remove all that belongs to the container."""
        super().close()
        self._remove()


def _remove(root: Path, bundle: Path) -> None:
    """Remove what an ended engine left: its notes, if it was killed. To have it remove them takes a second, and there is nothing else: the kernel ends its processes with it."""
    for note in root.glob(f"{bundle.name}_sandbox:*"):
        note.unlink(missing_ok=True)
    shutil.rmtree(bundle, ignore_errors=True)


def _pidfd_of(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _refuse_ungivable(plugin: RunnerSpec) -> None:
    granted = map(parse_permission, plugin.confinement.effective)
    refused = [str(one) for one in granted if one.area not in _GIVABLE and level_of(one) is not Level.NORMAL]
    if plugin.confinement.resources.pids is not None:
        refused.append("the limit resources.pids")
    if refused:
        raise IsolationUnavailable(
            Isolation.CONTAINER.value,
            f"plugin {plugin.id} has {', '.join(refused)}, for which there is no way into a container of runsc: set `container: {{runtime: runc}}`, or take that away",
        )
