"""Count lines, words and identifiers of Python source, and keep the sums.

State version 1: ``{"files": n, "lines": n, "words": n, "identifiers": n}``.
"""

from __future__ import annotations

import io
import keyword
import re
import threading
import tokenize
from typing import Final

import blackhole_core as bh

__all__ = ["WordCount"]

hookimpl = bh.HookimplMarker("wordcount")

#: What may be a name, for text that is not Python.
NAME_LIKE: Final = re.compile(r"\w+")


class WordCount:
    """Counts one source text per call. At level none many threads call at once, so the sums have a lock."""

    def __init__(self) -> None:
        self._sums = {"files": 0, "lines": 0, "words": 0, "identifiers": 0}
        self._lock = threading.Lock()  # guards the sums, never held while counting

    @hookimpl
    def count(self, source: str) -> dict[str, int]:
        """Return lines, words and identifiers of ``source``, and add them to the sums."""
        counts = {"lines": count_lines(source), "words": len(source.split()), "identifiers": count_identifiers(source)}
        with self._lock:
            self._sums["files"] += 1
            for key, number in counts.items():
                self._sums[key] += number
        return counts

    @hookimpl
    def totals(self) -> dict[str, int]:
        """Return the sums over all files counted so far, and how many files that were."""
        with self._lock:
            return dict(self._sums)

    @bh.hookimpl
    def plugin_export_state(self) -> dict[str, int]:
        with self._lock:
            return dict(self._sums)

    @bh.hookimpl
    def plugin_import_state(self, state: dict[str, int]) -> None:
        with self._lock:
            self._sums = dict(state)


def count_lines(source: str) -> int:
    """Count line ends, and a last line without one."""
    return source.count("\n") + (not source.endswith("\n") and source != "")


def count_identifiers(source: str) -> int:
    """Count Python's names that are not keywords; in text that is not Python, whatever looks like one."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError, UnicodeError):  # UnicodeError: Python 3.13's tokenizer, on a stray carriage return
        names = NAME_LIKE.findall(source)
    else:
        names = [token.string for token in tokens if token.type == tokenize.NAME]
    return len([name for name in names if name.isidentifier() and not keyword.iskeyword(name)])
