"""What is done with directories of control groups: write, read, enter, kill, remove. Nothing here makes a file: the kernel makes them."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["enter", "kill_all", "members", "read_field", "read_number", "remove", "write"]

#: Seconds between two looks whether a group is empty: a killed process is gone within a millisecond or two.
_LOOK_AGAIN: Final = 0.002
#: Errors of ``rmdir`` that pass: somebody is still in it, or a group below it.
_BUSY: Final = (errno.EBUSY, errno.ENOTEMPTY)


def write(file: Path, text: str) -> None:
    """Write ``text`` at once, as these files want it.

    :raises OSError: there is no such file, or the kernel refused.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def read_number(file: Path) -> int | None:
    """Return the number in a file; None when there is none: no such file, ``max``."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def read_field(file: Path, key: str) -> int | None:
    """Return the number after ``key`` in a file of such lines, None when it is not there."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, number = line.partition(" ")
        if name == key and number.isdecimal():
            return int(number)
    return None


def members(directory: Path) -> list[int]:
    """Return the processes in a group and the groups below it; 0 stands for one that has no number in our process namespace."""
    found: list[int] = []
    for group in _groups(directory):
        try:
            found += map(int, (group / "cgroup.procs").read_text(encoding="ascii").split())
        except OSError:
            continue  # it has just been removed
    return found


def enter(directory: Path, pid: int) -> None:
    """Move a process, with all its threads, into a group.

    :raises ProcessLookupError: it has ended.
    :raises OSError: the kernel refused.
    """
    write(directory / "cgroup.procs", str(pid))


def kill_all(directory: Path, seconds: float) -> bool:
    """End every process in a group and below it; False when some are there after ``seconds``, or the group is not ours to end."""
    try:
        write(directory / "cgroup.kill", "1")
    except FileNotFoundError:
        return _kill_one_by_one(directory, seconds)  # an old hierarchy, or a kernel before 5.14
    except OSError:
        return not members(directory)
    return _wait_until_empty(directory, time.monotonic() + seconds)


def remove(directory: Path, seconds: float) -> bool:
    """Remove a group and those below it; False when one is still in use after ``seconds``, or may not be removed."""
    deadline = time.monotonic() + seconds
    while True:
        refused = _remove_once(directory)
        if refused is None:
            return True
        if refused not in _BUSY or time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN)


def _remove_once(directory: Path) -> int | None:
    """Try it and return the number of the error that was met, None when it is gone."""
    for group in reversed(list(_groups(directory))):
        try:
            group.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            return error.errno or errno.EIO
    return None


def _kill_one_by_one(directory: Path, seconds: float) -> bool:
    """Kill what is listed until nothing is: a process may have forked since. Between listing and signal lie microseconds, a number is not reused in that time."""
    deadline = time.monotonic() + seconds
    while there := members(directory):
        for pid in there:
            if pid <= 0:
                return False  # of another process namespace; and 0 would be our own process group
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:
                return False
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN)
    return True


def _wait_until_empty(directory: Path, deadline: float) -> bool:
    while members(directory):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN)
    return True


def _groups(directory: Path) -> Iterator[Path]:
    """Yield a group and all below it, from above."""
    for path, _names, _files in os.walk(directory):
        yield Path(path)
