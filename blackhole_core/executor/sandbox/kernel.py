"""System calls that Python has no function for, by number: the few that build walls. A failed one is an :class:`OSError` that names it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Any, Final

from blackhole_core.executor.sandbox.syscalls import NUMBERS

__all__ = ["MACHINE", "call", "close_others", "open_exactly", "prctl"]

#: The machine whose numbers are used; empty on one whose numbers are not known.
MACHINE: Final = platform.machine() if platform.machine() in NUMBERS else ""

#: ``openat2(2)``: relative to the working directory; no symbolic link in any part of the path.
_AT_FDCWD, _NO_SYMLINKS = -100, 0x04

_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long
_prctl: Final = _libc.prctl


def call(name: str, *arguments: Any) -> int:
    """Make a system call. Integers are passed as longs, bytes as pointers to them, None as NULL.

    :raises OSError: it failed, or its number is not known on this machine (ENOSYS).
    """
    number = NUMBERS.get(MACHINE, {}).get(name)
    if number is None:
        raise OSError(errno.ENOSYS, f"{name}: not known on machine {platform.machine()}")
    words = (ctypes.c_long(word) if isinstance(word, int) else word for word in arguments)
    return _checked(_syscall(ctypes.c_long(number), *words), name)


def prctl(option: int, *arguments: int) -> int:
    """Call ``prctl(2)``.

    :raises OSError: it failed.
    """
    words = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(_prctl(ctypes.c_int(option), *map(ctypes.c_ulong, words)), f"prctl({option})")


def open_exactly(path: bytes) -> int:
    """Return a descriptor (``O_PATH``) of what is at ``path``, which has no symbolic link in it: one that was put there meanwhile is not followed.

    :raises OSError: there is nothing, or a link (ELOOP).
    """
    how = struct.pack("=3Q", os.O_PATH | os.O_CLOEXEC, 0, _NO_SYMLINKS)  # with O_NOFOLLOW a link at the end would be opened itself
    return call("openat2", _AT_FDCWD, path, how, len(how))


def close_others(keep: tuple[int, ...]) -> None:
    """Close every descriptor but these."""
    begin = 0
    for number in (*sorted(set(keep)), 2**31 - 1):
        if number > begin:
            _close_range(begin, number - 1)
        begin = number + 1


def _close_range(first: int, last: int) -> None:
    try:
        call("close_range", first, last, 0)
    except OSError:  # before Linux 5.9
        for name in os.listdir("/proc/self/fd"):
            if first <= int(name) <= last:
                try:
                    os.close(int(name))
                except OSError:
                    pass  # that of the listing itself


def _checked(result: int, name: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result
