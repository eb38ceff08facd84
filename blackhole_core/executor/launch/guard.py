"""Ends what workers started when the host itself is killed.

The kernel kills a worker whose host dies, but nobody kills the worker's own children: the worker is dead before it could. So
each host with workers has one guard, a process of few lines that knows the process groups of the living workers and waits
for the end of a pipe that only the host holds open. Then it ends them, and where workers are in control groups it ends what is in those and removes them.

A group leaves the guard's list before its leader is reaped, so no number on the list can have been given to a stranger.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

__all__ = ["Guard"]

_PROGRAM: Final = """
import os, time
groups, places, orderly, rest = set(), set(), False, b""
while data := os.read(0, 65536):
    *lines, rest = (rest + data).split(b"\\n")
    for line in lines:
        if line[:1] == b"=":
            places.add(line[1:])
        elif line == b".":
            orderly = True
        else:
            (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, 9)
    except OSError:
        pass  # it ended by itself
def end(group):
    try:
        os.write(os.open(group + b"/cgroup.kill", os.O_WRONLY), b"1")
    except FileNotFoundError:
        with open(group + b"/cgroup.procs") as file:
            for pid in map(int, file.read().split()):
                if pid > 0:
                    os.kill(pid, 9)
until = time.monotonic() + %s
while places and not orderly and time.monotonic() < until:
    for place in list(places):
        try:
            for name in os.listdir(place):
                group = place + b"/" + name
                if name != b"host" and os.path.isdir(group):
                    end(group)
                    os.rmdir(group)
            os.rmdir(place)
        except FileNotFoundError:
            places.discard(place)
        except OSError:
            pass  # still in use: a killed process takes a moment
    time.sleep(0.005)
"""

#: Seconds in which the guard clears control groups away after the host's death; what it cannot, the next host does.
_CLEAR_SECONDS: Final = 2.0
#: Seconds that an orderly end of the guard may take on a busy machine before it is killed.
_END_SECONDS: Final = 5.0


class Guard:
    """The guard of one launcher. :meth:`watch` is called by one thread, :meth:`forget` by any, :meth:`close` last."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._places: set[str] = set()
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

    def clear(self, directory: str) -> None:
        """Have the control groups in ``directory`` ended and removed, and it too, when this process is killed. Any thread."""
        if directory not in self._places:
            self._places.add(directory)
            self._tell(f"={directory}\n")

    def close(self) -> None:
        """End the guard; every worker has ended. Control groups of other workers of this process are left alone."""
        self._tell(".\n")
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM % _CLEAR_SECONDS],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
            bufsize=0,
        )
        self._process = process
        self._tell("".join([*(f"={directory}\n" for directory in tuple(self._places)), *(f"+{group}\n" for group in tuple(self._groups))]))
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
