"""A well-behaved plugin under an impossible manifest."""

from __future__ import annotations

import pluggy

hookimpl = pluggy.HookimplMarker("notes")


class Plugin:
    @hookimpl
    def version(self) -> str:
        return "1.0.0"
