"""A container that runs, as the host holds it: the engine's process beside it, process 1 in it, and the worker.

The engine (``runc run``) waits beside its container and removes what belongs to that when it has ended. It must not be killed to end the container, which would
go on; what is killed is process 1.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.launch.child import Start
from blackhole_core.executor.launch.inside import Inside, InsideChild, NotUp
from blackhole_core.executor.launch.oci.engines import COMMAND_SECONDS, Engine, last_complaint
from blackhole_core.executor.launch.plumbing import Plumbing
from blackhole_core.printable import printable

__all__ = ["ContainerChild", "Engaged", "NotUp", "remove_container"]

#: Bytes of the engine's own words that are looked at.
_MOST_WORDS: Final = 16_384


@attrs.define(eq=False, kw_only=True)
class Engaged(Inside):
    """An engine at work on one container."""

    engine: Engine
    root: Path
    bundle: Path

    def complaint(self) -> str:
        """Return what the engine said last."""
        with (self.bundle / "log").open("rb") as file:
            words = last_complaint(file.read(_MOST_WORDS).decode("utf-8", "replace"))
        return printable(words, 2000) or f"{self.engine.name} ended without a word"

    def finish(self) -> None:
        """End what still runs and remove everything that belongs to the container."""
        super().finish()
        remove_container(self.engine, self.root, self.bundle.name)
        shutil.rmtree(self.bundle, ignore_errors=True)


def remove_container(engine: Engine, root: Path, container: str) -> None:
    """Have ``engine`` end and remove a container whose own engine process was killed; nothing where that has done it itself."""
    if any(root.glob(f"{container}*")):  # a directory of that name, or files that begin so
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                engine.delete(root, container), stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False
            )


class ContainerChild(InsideChild):
    """A worker in a container; its ``pid`` is the one it has on the host."""

    def __init__(self, engaged: Engaged, pipes: Plumbing) -> None:
        super().__init__(engaged, (pipes.receive, pipes.send, pipes.output), Start("container", engaged.engine.name))
