"""What ``faulthandler`` writes when a worker crashes, found among the lines of its output.

It begins with ``Fatal Python error:`` and ends with the list of extension modules, or with the output. A plugin may print such lines, too: they are
kept as text, of bounded size, and the last report is the one that counts.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CrashReport"]

_BEGIN: Final = "Fatal Python error: "
_END: Final = "Extension modules: "
#: Lines of a report, and characters of each: ``faulthandler`` writes up to 100 threads of up to 100 frames, the one that crashed first.
_MOST_LINES: Final = 200
_WIDTH: Final = 400


class CrashReport:
    """The last report of one worker. Owned by who reads its output."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._inside = False

    def add(self, line: str) -> None:
        """Take in one line of output."""
        if line.startswith(_BEGIN):
            self._lines, self._inside = [], True
        elif line.startswith(_END):
            self._inside = False
        if self._inside and line and len(self._lines) < _MOST_LINES:
            self._lines.append(line[:_WIDTH])

    def lines(self) -> tuple[str, ...]:
        """Return the report, without its empty lines; empty when there was none."""
        return tuple(self._lines)
