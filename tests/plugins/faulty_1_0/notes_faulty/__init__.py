"""A plugin that misbehaves in the way it is asked to; see the tables in its modules.

Its import says so on stdout, which is the first thing that a host has to survive.
"""

from __future__ import annotations

from typing import Any

from notes_api import hookimpl

import blackhole_core as bh
from notes_faulty import ends, raises, reaches, returns, takes, writes

print("hello from import")

KINDS = {**raises.KINDS, **ends.KINDS, **writes.KINDS, **returns.KINDS, **takes.KINDS}


class Faulty:
    @hookimpl
    def fail(self, kind: str) -> Any:
        """Misbehave; ``"none"`` is the way to behave. An unknown kind is a mistake of the test: ``LookupError`` names the known ones."""
        name, _, argument = kind.partition(":")
        if name in reaches.KINDS:
            return reaches.KINDS[name](argument)
        if kind not in KINDS:
            raise LookupError(f"faulty knows no kind {kind!r}; known: {', '.join(sorted({*KINDS, *reaches.KINDS}))}")
        return KINDS[kind]()

    @hookimpl
    def transform(self, text: str) -> str:
        """Behave, so that a test sees whether the plugin still serves."""
        return text

    @hookimpl
    def version(self) -> str:
        return "1.0.0"

    @bh.hookimpl
    def plugin_stop(self) -> None:
        ends.stop()
