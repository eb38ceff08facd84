"""A plugin's context whose end a test decides."""

from __future__ import annotations

from blackhole_core.executor.context import PluginContext

__all__ = ["AMPLE", "SHORT", "Running"]

#: Seconds given to an end in which nothing hangs; never waited for.
AMPLE = 10.0
#: Seconds given to an end in which something hangs on purpose: the test takes this long.
SHORT = 0.3


class Running(PluginContext):
    """A context whose instance the test ends."""

    def end(self, seconds: float = AMPLE) -> tuple[str, ...]:
        return self._leases.end(seconds)
