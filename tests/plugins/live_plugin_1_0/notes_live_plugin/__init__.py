"""A plugin whose hook takes a live object: fine in the host's process, impossible in another."""

from __future__ import annotations

from collections.abc import Callable

import pluggy

hookimpl = pluggy.HookimplMarker("notes")


class Live:
    @hookimpl
    def live(self, callback: Callable[[], None]) -> None:
        callback()
