"""A plain pluggy plugin: a class, no manifest, no state, nothing of ours imported."""

from __future__ import annotations

import pluggy

hookimpl = pluggy.HookimplMarker("notes")


class Upper:
    @hookimpl
    def transform(self, text: str) -> str:
        return text.upper()

    @hookimpl
    def version(self) -> str:
        return "1.0.0"
