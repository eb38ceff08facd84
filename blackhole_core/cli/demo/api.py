"""Hook specs of the project ``wordcount``, which the demo hosts and ``contrib_plugins/wordcount`` implements.

The host defines them, so that it needs no plugin's code to know what it may ask.
"""

from __future__ import annotations

from typing import Final

import pluggy

__all__ = ["PROJECT", "WordCountSpecs", "hookspec"]

#: Project name, and with it the entry-point group.
PROJECT: Final = "wordcount"

hookspec = pluggy.HookspecMarker(PROJECT)


class WordCountSpecs:
    """What a word counter may be asked."""

    @hookspec
    def count(self, path: str, source: str) -> dict[str, int]:
        """Return ``lines``, ``words`` and ``identifiers`` of ``source``, the text of ``path``, and add them to the sums.

        The rule is that of :mod:`blackhole_core.cli.demo.plainloop`. Calling it twice for one path counts it twice.
        """
        raise NotImplementedError

    @hookspec
    def totals(self) -> dict[str, int]:
        """Return the sums over all calls of ``count``: ``files``, ``lines``, ``words``, ``identifiers``."""
        raise NotImplementedError

    @hookspec
    def longest(self) -> str | None:
        """Return the path of the file with the most lines; None when that is not known. From version 2.0.0 on."""
