"""A well-behaved plugin; its manifest needs ``counter`` below version 2."""

from __future__ import annotations

import pluggy

hookimpl = pluggy.HookimplMarker("notes")


class Plugin:
    @hookimpl
    def version(self) -> str:
        return "1.0.0"
