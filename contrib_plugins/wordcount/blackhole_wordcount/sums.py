"""What the plugin knows, as a value, and how it becomes state and state becomes it.

State version 2: ``{"files": n, "lines": n, "words": n, "identifiers": n, "longest": {"path": str, "lines": n} or None}``.
State version 1 is the same without ``longest``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from blackhole_wordcount.counting import Counts

__all__ = ["Longest", "State", "Sums", "migrate"]

State: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Longest:
    """The file with the most lines."""

    path: str
    lines: int


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over all files counted. ``longest`` is None when it is not known: nothing was counted, or only by version 1."""

    files: int = 0
    lines: int = 0
    words: int = 0
    identifiers: int = 0
    longest: Longest | None = None

    def plus(self, path: str, counts: Counts) -> Sums:
        """Return the sums with one more file. Of two longest files the one counted first stays."""
        longest = self.longest
        if longest is None or counts.lines > longest.lines:
            longest = Longest(path, counts.lines)
        return Sums(self.files + 1, self.lines + counts.lines, self.words + counts.words, self.identifiers + counts.identifiers, longest)

    def totals(self) -> dict[str, int]:
        return {"files": self.files, "lines": self.lines, "words": self.words, "identifiers": self.identifiers}

    def to_state(self) -> State:
        longest = None if self.longest is None else {"path": self.longest.path, "lines": self.longest.lines}
        return {**self.totals(), "longest": longest}

    @classmethod
    def from_state(cls, state: State) -> Sums:
        sums = cls(**{**state, "longest": None})
        return sums if state["longest"] is None else replace(sums, longest=Longest(**state["longest"]))


def migrate(state: State, from_version: int, to_version: int) -> State:
    """Take ``state`` one step between versions 1 and 2; going back forgets which file was the longest."""
    match (from_version, to_version):
        case (1, 2):
            return {**state, "longest": None}
        case (2, 1):
            return {key: value for key, value in state.items() if key != "longest"}
    raise ValueError(f"wordcount migrates its state between versions 1 and 2, not from {from_version} to {to_version}")
