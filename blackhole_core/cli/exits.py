"""The exit codes of ``blackhole``, one meaning each, the same for every command."""

from __future__ import annotations

import enum

__all__ = ["Exit"]


class Exit(enum.IntEnum):
    """How a command ended."""

    OK = 0  #: it did what it was asked
    FAILED = 1  #: it tried and failed; the sentence on standard error says why
    USAGE = 2  #: the command line cannot be understood (click's own code)
    NO_HOST = 3  #: no host is running for it, or it cannot be reached
    PROBLEMS = 4  #: ``check`` and ``doctor``: it looked, and found something wrong
    INTERRUPTED = 130  #: Ctrl-C (128 + SIGINT, as shells have it)

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    Exit.OK: "it did what it was asked",
    Exit.FAILED: "it tried and failed; the sentence on standard error says why",
    Exit.USAGE: "the command line cannot be understood",
    Exit.NO_HOST: "no host is running, or it cannot be reached",
    Exit.PROBLEMS: "`check` and `doctor`: it looked, and found something wrong",
    Exit.INTERRUPTED: "Ctrl-C",
}
