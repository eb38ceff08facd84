"""Faults that raise."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from notes_api import NotesError


class PrivateError(Exception):
    """A type that exists only in the plugin, with a constructor that no other program can call from its ``args``."""

    def __init__(self, *, code: int) -> None:
        self.code = code
        super().__init__(f"private error {code}")


def value_error() -> NoReturn:
    raise ValueError("bad value, on purpose")


def key_error() -> str:
    nothing: dict[str, str] = {}
    return nothing["missing"]


def private_error() -> NoReturn:
    raise PrivateError(code=42)


def notes_error() -> NoReturn:
    raise NotesError("an error that both sides know")


def base_exception() -> NoReturn:
    raise KeyboardInterrupt


def cancelled() -> NoReturn:
    raise asyncio.CancelledError


def cause() -> str:
    try:
        return key_error()
    except KeyError as error:
        raise ValueError("raised from a KeyError") from error


def group() -> NoReturn:
    raise ExceptionGroup("two at once", [ValueError("first"), KeyError("second")])


def recursion() -> int:
    return recursion() + 1


def ansi() -> NoReturn:
    """Raise a message that would repaint a terminal and forge a log line (A12)."""
    raise ValueError("\x1b[2J\x1b[31mred\x1b[0m\r\nERROR forged: second line\x07")


def huge_message() -> NoReturn:
    raise ValueError("x" * 10_000_000)


def unprintable() -> NoReturn:
    """Raise an error whose ``str`` raises."""

    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text for you")

    raise UnprintableError


KINDS = {
    function.__name__: function
    for function in (
        value_error,
        key_error,
        private_error,
        notes_error,
        base_exception,
        cancelled,
        cause,
        group,
        recursion,
        ansi,
        huge_message,
        unprintable,
    )
}
