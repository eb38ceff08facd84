"""Hook specs of the project ``notes``: what the tests' host may ask of its plugins.

Host and plugins both import this module; it imports neither. It also holds the one event on which misbehaving plugins wait "for ever", so that
a test which hangs a thread in its own process can let the thread go when it is done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NoReturn

import pluggy

__all__ = ["LiveSpecs", "Note", "NotesError", "NotesSpecs", "hang", "hookimpl", "hookspec", "release"]

PROJECT: Final = "notes"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

#: Never set by a plugin. A test that hangs a plugin inside its own process sets it in its teardown, and clears it after.
release: Final = threading.Event()


class NotesError(Exception):
    """An error that host and plugins both know."""


@dataclass(frozen=True)
class Note:
    """A value with a type of its own, as real specs have them."""

    title: str
    tags: tuple[str, ...]
    when: datetime


class NotesSpecs:
    """Hooks whose arguments and results can cross a process."""

    @hookspec
    def transform(self, text: str) -> str:
        """Return ``text``, changed."""
        raise NotImplementedError

    @hookspec
    def add(self, amount: int) -> int:
        """Add ``amount`` to the plugin's count and return the new count."""
        raise NotImplementedError

    @hookspec
    def total(self) -> int:
        """Return the plugin's count."""
        raise NotImplementedError

    @hookspec(firstresult=True)
    def pick(self, text: str) -> str | None:
        """Return an answer, or None to leave it to the next plugin."""

    @hookspec
    def collect(self, items: list[int]) -> dict[str, int]:
        """Return figures about ``items``."""
        raise NotImplementedError

    @hookspec
    def fail(self, kind: str) -> str:
        """Misbehave in the way that ``kind`` names."""
        raise NotImplementedError

    @hookspec
    def blob(self, size: int) -> bytes:
        """Return ``size`` bytes."""
        raise NotImplementedError

    @hookspec
    def slow(self, seconds: float) -> str:
        """Answer after ``seconds``."""
        raise NotImplementedError

    @hookspec
    def ask(self, text: str) -> str:
        """Answer by asking the host's other plugins."""
        raise NotImplementedError

    @hookspec(historic=True)
    def started(self, name: str) -> None:
        """Take note that ``name`` has started, also of what started before this plugin was there."""

    @hookspec
    def version(self) -> str:
        """Return the version that the answering code believes to be."""
        raise NotImplementedError

    @hookspec
    def note(self, note: Note) -> Note:
        """Return ``note``, changed."""
        raise NotImplementedError

    @hookspec
    def raw(self, value):  # type: ignore[no-untyped-def]  # the hook without annotations is what is tested
        """Return ``value``; nothing says of what type it is."""


class LiveSpecs:
    """A hook that no level but none and thread can serve: its argument is a live object."""

    @hookspec
    def live(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once."""


def hang() -> NoReturn:
    """Wait until :data:`release` is set, which no plugin does; then raise, so that nothing goes on as if it had been answered."""
    release.wait()
    raise NotesError("let go by the test's teardown")
