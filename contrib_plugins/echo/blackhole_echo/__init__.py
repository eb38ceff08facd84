"""The smallest useful plugin: it answers with what it was given."""

from __future__ import annotations

from typing import Any

import blackhole_core as bh

__all__ = ["Echo"]


class Echo:
    """Implements one contract, ``plugin_handle``, and no other: everything else about it the host manages without its help."""

    @bh.hookimpl
    def plugin_handle(self, request: dict[str, Any]) -> bytes:
        """Return ``b"Echo: "`` followed by the request's ``data``. ``method`` may be ``"echo"`` or left out."""
        method = request["method"]
        if method not in (None, "echo"):
            raise ValueError(f"echo has one method, 'echo'; it was asked for {method!r}")
        data: bytes = request["data"]
        return b"Echo: " + data
