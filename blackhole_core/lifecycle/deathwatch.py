"""Who is told when the worker of one instance ends, from its first call to its last.

Until the instance serves, nobody would start another worker: a call that waited for one would hold up a load, or a swap behind its
closed gate, for its whole deadline. So the runner is given up at once, and its calls fail. From then on a death is the
supervisor's business; one that happens before the supervisor asks is kept for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from blackhole_core.errors import PluginBroken, describe_exit
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.remote import RemoteRunner

__all__ = ["DeathWatch"]


class DeathWatch:
    """The one listener of a runner's deaths. What is below is guarded by ``_lock``, which is never held while anybody is told."""

    def __init__(self, plugin: str, runner: RemoteRunner) -> None:
        self._plugin = plugin
        self._runner = runner
        self._lock = threading.Lock()
        self._serving = False
        self._death: Ended | None = None  # one that nobody was told of yet
        self._on_death: Callable[[Ended], object] | None = None
        runner.watch(self._died)

    def serve(self) -> None:
        """Leave deaths to the supervisor from now on.

        :raises PluginBroken: it is too late, the worker has ended.
        """
        with self._lock:
            if self._death is not None:
                raise PluginBroken(self._plugin, _how(self._death))
            self._serving = True

    def tell(self, on_death: Callable[[Ended], object]) -> None:
        """Tell ``on_death`` of every death since :meth:`serve`."""
        with self._lock:
            self._on_death = on_death
            death, self._death = self._death, None
        if death is not None:
            on_death(death)

    def _died(self, ended: Ended) -> None:
        with self._lock:
            on_death, serving = self._on_death, self._serving
            if on_death is None:
                self._death = ended
        if on_death is not None:
            on_death(ended)
        elif not serving:
            self._runner.give_up(_how(ended))


def _how(ended: Ended) -> str:
    how = ended.reason or f"its worker {describe_exit(ended.exit)} before it served"
    lines = "".join(f"\n  {line}" for line in ended.tail)
    return f"{how}; last lines it wrote:{lines}" if lines else how
