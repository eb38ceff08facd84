"""How much room a directory takes, read without following a link and never for long at once."""

from __future__ import annotations

import collections
import contextlib
import errno
import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["MOST_FILES", "Uncountable", "disk_used", "walk"]

#: Bytes of a block as ``st_blocks`` counts.
_BLOCK: Final = 512
#: Bytes that a file counts for at least: what it takes in the file system itself, so that a million empty files are not nothing.
_LEAST: Final = 4096
#: Files after which a walk is given up. Of a plugin with a limit it ends long before, where the limit is passed.
MOST_FILES: Final = 1_000_000
#: Files looked at between two yields: about a millisecond.
_STEP: Final = 200
#: Bytes: the longest path that the kernel takes.
_PATH_MAX: Final = 4096


class Uncountable(Exception):
    """What a directory takes cannot be found out, for a reason that only who filled it can have made."""


def disk_used(directory: Path, most_files: int) -> int | None:
    """Return the bytes that a directory takes; None when it holds more than ``most_files``."""
    try:
        return collections.deque(walk(directory, math.inf, most_files=most_files), maxlen=1)[0]
    except Uncountable:
        return None


def walk(directory: Path, enough: float, open_files_of: Iterable[int] = (), *, most_files: int = MOST_FILES) -> Iterator[int]:
    """Add up the bytes that ``directory`` takes, ``enough`` or more meaning that it need not be known better.

    Yields what was found so far, again and again, so that who asks can do something else in between; the last is the sum. Files that have been removed
    and are still held open by one of the processes ``open_files_of`` count. A sparse file counts for what it takes, a hard link once.

    :raises Uncountable: too many files, or too deep.
    """
    seen: set[tuple[int, int]] = set()
    total = files = 0
    ahead = [os.path.realpath(directory)]
    device = _device(ahead[0])
    while ahead:
        for found, path in _entries(ahead.pop(), device):
            files += 1
            if (found.st_dev, found.st_ino) not in seen:
                total += max(_LEAST, found.st_blocks * _BLOCK)
            if found.st_nlink > 1:
                seen.add((found.st_dev, found.st_ino))
            if stat.S_ISDIR(found.st_mode):
                ahead.append(path)
            if total >= enough:
                yield total
                return
            if files > most_files:
                raise Uncountable(f"it holds more than {most_files} files")
            if files % _STEP == 0:
                yield total
    yield total + sum(_removed(pid, device) for pid in open_files_of)


def _entries(path: str, device: int | None) -> Iterator[tuple[os.stat_result, str]]:
    """Yield what is in the directory ``path``, if it is one, lies on ``device`` and no part of its path has become a link meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Uncountable(f"its directories are nested deeper than the {_PATH_MAX} bytes of a path") from None
        return  # it has just been removed, was made unreadable, or was never there
    try:
        if os.readlink(f"/proc/self/fd/{descriptor}") != path:  # noqa: PTH115 - compared as text
            return
        with os.scandir(descriptor) as listing:
            for entry in listing:
                with contextlib.suppress(OSError):  # it has just been removed
                    found = entry.stat(follow_symlinks=False)
                    if found.st_dev == device:  # what is mounted below is not the plugin's
                        yield found, os.path.join(path, entry.name)  # noqa: PTH118 - a million of them
    finally:
        os.close(descriptor)


def _removed(pid: int, device: int | None) -> int:
    """Return the bytes of files on ``device`` that a process holds open although they have no name any more."""
    total = 0
    with contextlib.suppress(OSError):  # it has ended, or may not be looked at
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found = os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116 - the file that it leads to
                if found.st_nlink == 0 and found.st_dev == device and stat.S_ISREG(found.st_mode):
                    total += found.st_blocks * _BLOCK
    return total


def _device(path: str) -> int | None:
    try:
        return os.stat(path).st_dev  # noqa: PTH116 - as above
    except OSError:
        return None
