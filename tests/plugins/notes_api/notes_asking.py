"""What the small plugins in texts of tests have in common that call hooks themselves."""

from __future__ import annotations

from typing import Any

import blackhole_core as bh

__all__ = ["Asking"]


class Asking:
    """Keeps what it may call: ``self.hook``."""

    hook: Any

    @bh.hookimpl
    def plugin_start(self, context: Any) -> None:
        self.hook = context.hook
