"""A plugin that talks on every stream: while it is imported, while it starts, while it is called (H-01)."""

from __future__ import annotations

import os
import sys

import blackhole_core as bh

hookimpl = bh.HookimplMarker("notes")


def talk(when: str) -> None:
    print(f"print at {when}", flush=True)
    print(f"stderr at {when}", file=sys.stderr, flush=True)
    os.write(1, f"write at {when}\n".encode())


talk("import")


class Talker:
    @bh.hookimpl
    def plugin_start(self) -> None:
        talk("start")

    @hookimpl
    def transform(self, text: str) -> str:
        talk("call")
        return text
