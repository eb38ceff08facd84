"""A plugin of our own, loaded by a zygote before it forks the first worker, see :mod:`blackhole_core.executor.rehearsal`."""

from __future__ import annotations

import pluggy

hookimpl = pluggy.HookimplMarker("blackhole-rehearsal")


class Sample:
    """Has one hook with annotations, as plugins have."""

    @hookimpl
    def rehearse(self, text: str) -> str:
        """Return ``text``."""
        return text
