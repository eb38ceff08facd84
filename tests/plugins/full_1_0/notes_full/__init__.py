"""A plugin that answers every hook that crosses a process, as specified."""

from __future__ import annotations

from typing import Any

from notes_api import Note, hookimpl, release


class Full:
    def __init__(self) -> None:
        self._started: list[str] = []

    @hookimpl
    def transform(self, text: str) -> str:
        return text[::-1]

    @hookimpl
    def pick(self, text: str) -> str | None:
        """Answer for what has started only, so that None is seen as well."""
        return f"{text} has started" if text in self._started else None

    @hookimpl
    def collect(self, items: list[int]) -> dict[str, int]:
        return {"sum": sum(items), "len": len(items)}

    @hookimpl
    def blob(self, size: int) -> bytes:
        return bytes(range(256)) * (size // 256) + bytes(range(size % 256))

    @hookimpl
    def slow(self, seconds: float) -> str:
        release.wait(seconds)
        return "1.0.0"

    @hookimpl
    def started(self, name: str) -> None:
        self._started.append(name)

    @hookimpl
    def version(self) -> str:
        return "1.0.0"

    @hookimpl
    def note(self, note: Note) -> Note:
        return Note(title=note.title.title(), tags=(*note.tags, "seen"), when=note.when)

    @hookimpl
    def raw(self, value: Any) -> Any:
        return value
