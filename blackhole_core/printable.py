"""Text that plugin code wrote, made fit for a log or a terminal: cut to a sane length, control characters made visible."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["escaped", "indented", "printable"]

#: Characters of a message or traceback that are kept: enough to debug, too little to flood a log.
_MAX_TEXT: Final = 64 * 1024

#: What is looked at twice; nearly all text passes at the speed of the regular expression engine.
_SUSPICIOUS: Final = re.compile(r"[^\x20-\x7e\n\t]")


def escaped(text: str) -> str:
    """Return ``text`` with control characters (except newline and tab), lone surrogates and the like as Python escapes."""
    return _SUSPICIOUS.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def printable(text: str, limit: int = _MAX_TEXT) -> str:
    """Return ``text`` escaped, and cut after ``limit`` characters with a word on how much is missing."""
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit} more characters)"
    return escaped(text)


def indented(text: str) -> str:
    """Return ``text`` with every line but the first indented, so that no line of it can pass for a record of its own."""
    return text.replace("\n", "\n  ")
