"""What tests of snapshots as files share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blackhole_core.state.snapshot import Draft

__all__ = ["FIRST", "NOBODY", "draft", "failing", "names", "sparse"]

NOBODY = 65534
FIRST = "0000000000000001"


def draft(data: Any = None, plugin: str = "counter") -> Draft:
    return Draft(plugin, "1.0.0", 1, 0, 0.0, "manual", data)


def names(root: Path, plugin: str = "counter") -> list[str]:
    return sorted(path.name for path in (root / plugin).iterdir())


def failing(point: str, code: int) -> Callable[[str], None]:
    """Return a watcher that fails as the system would when ``point`` is reached."""

    def reached(here: str) -> None:
        if here == point:
            raise OSError(code, os.strerror(code))

    return reached


def sparse(path: Path) -> None:
    """Make a file of 2**40 bytes that takes no room."""
    path.touch()
    os.truncate(path, 2**40)
