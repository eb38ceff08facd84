"""One of two plugins named ``twin``; the other is in ``notes_twin_a``."""

from __future__ import annotations

import pluggy

hookimpl = pluggy.HookimplMarker("notes")


class Twin:
    @hookimpl
    def version(self) -> str:
        return "twin b"
