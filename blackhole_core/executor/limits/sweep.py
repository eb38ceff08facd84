"""Remove what hosts that were killed left behind: their groups, and whoever still runs in them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from blackhole_core.executor.limits import cgroupfs
from blackhole_core.executor.limits.naming import Owner, alive
from blackhole_core.executor.limits.tree import Tree

__all__ = ["sweep"]

_logger: Final = logging.getLogger("blackhole.limits")

#: Seconds for each leftover to be emptied and removed.
_END_SECONDS: Final = 1.0


def sweep(trees: Iterable[Tree], me: Owner) -> list[Path]:
    """Remove the directories of hosts that do not run any more and return those that were; living hosts' and strangers' are not touched."""
    swept = []
    for tree in trees:
        try:
            names = [entry.name for entry in tree.directory.iterdir() if entry.name.startswith("blackhole-")]
        except OSError:
            continue
        for name in names:
            owner = Owner.parse(name)
            if owner is None or alive(owner, me):
                continue
            directory = tree.directory / name
            if cgroupfs.kill_all(directory, _END_SECONDS) and cgroupfs.remove(directory, _END_SECONDS):
                swept.append(directory)
            elif directory.exists():
                _logger.warning("%s is left over from a host that was killed, and cannot be removed", directory)
    return swept
