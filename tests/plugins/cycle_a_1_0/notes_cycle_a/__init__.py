"""A well-behaved plugin; its manifest and that of ``cycle_b`` need each other."""

from __future__ import annotations

import pluggy

hookimpl = pluggy.HookimplMarker("notes")


class Plugin:
    @hookimpl
    def version(self) -> str:
        return "1.0.0"
