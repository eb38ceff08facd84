"""The walls of workers, as the host orders them: which layers are worth asking for here, and what belongs to one worker and ends with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.errors import IsolationUnavailable, LoadFailed
from blackhole_core.executor.confinement import Sandbox, Unenforced
from blackhole_core.executor.runner import RunnerSpec
from blackhole_core.executor.sandbox.bubblewrap import INSIDE, bubblewrap_here, takes_bubblewrap
from blackhole_core.executor.sandbox.imageroot import ImageRoot
from blackhole_core.executor.sandbox.judge import explain
from blackhole_core.executor.sandbox.places import UnsafePath
from blackhole_core.executor.sandbox.plan import draw_up
from blackhole_core.executor.sandbox.probe import what_holds
from blackhole_core.executor.wire.policy import Layer, Policy, WallReport
from blackhole_core.ids import Isolation
from blackhole_core.scratch import remove

__all__ = ["Enclosure", "Walls"]


@attrs.frozen
class Enclosure:
    """What one worker is to build, and the directory that was made for its temporary files; no policy: no walls."""

    policy: Policy | None = None
    temporary: Path | None = None

    def close(self) -> None:
        """Remove what was made for the worker, which has ended."""
        if self.temporary is not None:
            remove(self.temporary)

    @property
    def shows_pid(self) -> bool:
        """Whether the worker knows its process id as the host sees it."""
        return self.policy is not None and Layer.PID not in self.policy.around

    @property
    def environment(self) -> dict[str, str]:
        """Variables that tell the worker of it."""
        return {} if self.temporary is None else {"TMPDIR": str(self.temporary)}


#: What a container has before the worker in it does anything.
_CONTAINER: Final = (Layer.PID, Layer.MOUNT, Layer.NET, Layer.IPC, Layer.UTS, Layer.PROC)


class Walls:
    """Orders the walls of workers of ``level``: process, or container, which has some already."""

    def __init__(self, level: Isolation, image: ImageRoot | None = None) -> None:
        """``image`` is what the root directory of a container is made of; None: of this machine."""
        self._level: Final = level
        self._image: Final = image

    def around(self, spec: RunnerSpec, import_path: Sequence[str], new_directory: Callable[[str], Path]) -> Enclosure:
        """Return the walls of a new worker; ``new_directory`` makes one whose name begins as it is told.

        :raises IsolationUnavailable: they cannot hold here, and the operator does not allow that.
        :raises LoadFailed: what it was granted cannot be given.
        """
        if self._level is Isolation.CONTAINER:
            return Enclosure(self._draw_up(spec, import_path, (Layer.LANDLOCK, Layer.SECCOMP), None, _CONTAINER))
        found = what_holds(import_path) if spec.confinement.sandbox is not Sandbox.BUBBLEWRAP else WallReport()
        if takes_bubblewrap(
            spec.confinement.sandbox,
            root_of_its_own=found.layers.get(Layer.MOUNT) == "",
            works=lambda: not bubblewrap_here(import_path).problem,
        ):
            return self._in_bubblewrap(spec, import_path, new_directory)
        if found.open and spec.confinement.unenforced is Unenforced.REFUSE:
            raise IsolationUnavailable(Isolation.PROCESS.value, explain(found, Isolation.PROCESS))
        layers = [Layer(name) for name, reason in found.layers.items() if not reason]
        temporary = None if Layer.MOUNT in layers else new_directory(spec.id.name)
        return self._enclosure(spec, import_path, layers, temporary)

    def _in_bubblewrap(self, spec: RunnerSpec, import_path: Sequence[str], new_directory: Callable[[str], Path]) -> Enclosure:
        found = bubblewrap_here(import_path)
        if found.problem and not (found.report.open and spec.confinement.unenforced is Unenforced.ALLOW):
            raise IsolationUnavailable(
                Isolation.PROCESS.value,
                f"plugin {spec.id} is to run with `sandbox: bubblewrap`, and {found.problem}; or set `sandbox: auto`",
            )
        return self._enclosure(spec, import_path, INSIDE, None if found.bounded else new_directory(spec.id.name), found.around)

    def _enclosure(
        self, spec: RunnerSpec, import_path: Sequence[str], layers: Sequence[Layer], temporary: Path | None, around: Sequence[Layer] = ()
    ) -> Enclosure:
        try:
            return Enclosure(self._draw_up(spec, import_path, layers, temporary, around), temporary)
        except BaseException:
            Enclosure(temporary=temporary).close()
            raise

    def _draw_up(
        self, spec: RunnerSpec, import_path: Sequence[str], layers: Sequence[Layer], temporary: Path | None, around: Sequence[Layer] = ()
    ) -> Policy:
        try:
            return draw_up(
                spec.confinement,
                plugin=spec.path,
                import_path=import_path,
                layers=layers,
                temporary=temporary,
                around=around,
                image=self._image,
            )
        except UnsafePath as error:
            raise LoadFailed(str(spec.id), f"what it was granted cannot be given: {error}") from None
