"""Ends what workers started when the host itself is killed.

The kernel kills a worker whose host dies, but nobody kills the worker's own children: the worker is dead before it could. So
each host with workers has one guard, a process of a dozen lines that knows the process groups of the living workers and waits
for the end of a pipe that only the host holds open.

A group leaves the guard's list before its leader is reaped, so no number on the list can have been given to a stranger.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

__all__ = ["Guard"]

_PROGRAM: Final = """
import os
groups, rest = set(), b""
while data := os.read(0, 65536):
    *lines, rest = (rest + data).split(b"\\n")
    for line in lines:
        (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, 9)
    except OSError:
        pass  # it ended by itself
"""

#: Seconds that an orderly end of the guard may take on a busy machine before it is killed.
_END_SECONDS: Final = 5.0


class Guard:
    """The guard of one launcher. :meth:`watch` is called by one thread, :meth:`forget` by any, :meth:`close` last."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process = self._start()

    def watch(self, group: int) -> None:
        """Have process group ``group`` killed when this process ends; a guard that somebody killed is replaced."""
        self._groups.add(group)
        if self._process.poll() is not None:
            self._end()
            self._process = self._start()
        else:
            self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The leader of ``group`` is about to be reaped."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the guard; every worker has ended."""
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
            bufsize=0,
        )
        self._process = process
        self._tell("".join(f"+{group}\n" for group in tuple(self._groups)))
        return process

    def _tell(self, text: str) -> None:
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), text.encode())  # a few bytes: whole, or not at all
        except (BrokenPipeError, ValueError):
            return  # somebody killed it, and the next worker gets a new one; or it was closed, and nobody is left to be guarded

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
