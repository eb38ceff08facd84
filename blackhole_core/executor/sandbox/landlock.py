"""Landlock: which files this process, and all it starts, may still open (``landlock(7)``).

It binds the calling thread and what comes from it, so there must be no other thread yet. What it does not cover at all, ``stat``, ``chmod``, ``utime`` and more, the other layers do.
"""

from __future__ import annotations

import enum
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final

from blackhole_core.executor.sandbox.kernel import call, open_exactly
from blackhole_core.executor.wire.policy import Place

__all__ = ["TRUNCATE_SINCE", "abi", "restrict"]


class _Right(enum.IntFlag):
    """``linux/landlock.h``; the comment is the ABI version it came with."""

    EXECUTE = 1 << 0  # 1
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # 2
    TRUNCATE = 1 << 14  # 3
    IOCTL_DEV = 1 << 15  # 5


#: What exists since which ABI; all of it is handled, so all of it is denied where no rule allows it.
_SINCE: Final = ((1, (1 << 13) - 1), (2, _Right.REFER), (3, _Right.TRUNCATE), (5, _Right.IOCTL_DEV))
TRUNCATE_SINCE: Final = 3
#: Since ABI 4: TCP bind and connect. Since ABI 6: abstract sockets and signals stay inside.
_NETWORK_SINCE, _NETWORK, _SCOPE_SINCE, _SCOPE = 4, 0b11, 6, 0b11
#: Rights that make sense for what is no directory; the kernel refuses others there.
_OF_FILES: Final = _Right.EXECUTE | _Right.WRITE_FILE | _Right.READ_FILE | _Right.TRUNCATE | _Right.IOCTL_DEV

_READ: Final = _Right.READ_FILE | _Right.READ_DIR
_WRITE: Final = (
    _Right.WRITE_FILE | _Right.TRUNCATE | _Right.REMOVE_DIR | _Right.REMOVE_FILE | _Right.MAKE_DIR | _Right.MAKE_REG | _Right.MAKE_FIFO
    | _Right.MAKE_SYM | _Right.MAKE_SOCK | _Right.REFER
)  # fmt: skip

#: ``landlock_create_ruleset(2)`` asked for the version; ``landlock_add_rule(2)``: a path with everything below.
_ASK_VERSION, _BENEATH = 1, 1


def abi() -> int:
    """Return the version of Landlock here, 0 where there is none."""
    try:
        return call("landlock_create_ruleset", None, 0, _ASK_VERSION)
    except OSError:
        return 0


def restrict(places: Iterable[Place], *, own_root: bool) -> bool:
    """Allow these places and nothing else, no TCP, no abstract socket and no signal to whom is outside. New privileges are ruled out already.

    ``own_root``: the places are where the worker finds them, and no link leads out; else each is where the host has it.

    :returns: whether signals and abstract sockets are covered.
    :raises OSError: the kernel has no Landlock, or refused.
    """
    version = abi()
    if version == 0:
        call("landlock_create_ruleset", None, 0, _ASK_VERSION)
    handled = sum(rights for since, rights in _SINCE if since <= version)
    network, scope = (_NETWORK if version >= _NETWORK_SINCE else 0), (_SCOPE if version >= _SCOPE_SINCE else 0)
    words = 1 if version < _NETWORK_SINCE else 2 if version < _SCOPE_SINCE else 3
    ruleset = call("landlock_create_ruleset", struct.pack(f"={words}Q", *(handled, network, scope)[:words]), 8 * words, 0)
    try:
        for place in places:
            _allow(ruleset, place, handled, own_root)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return bool(scope)


def _allow(ruleset: int, place: Place, handled: int, own_root: bool) -> None:
    try:
        opened = os.open(place.target, os.O_PATH | os.O_CLOEXEC) if own_root else open_exactly(place.source)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # what is not there for this process needs no rule
    try:
        rights = _rights(place) & handled
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _OF_FILES
        call("landlock_add_rule", ruleset, _BENEATH, struct.pack("=Qi", rights, opened), 0)
    finally:
        os.close(opened)


def _rights(place: Place) -> int:
    return (
        _READ
        | (_WRITE if place.write else 0)
        | (_Right.EXECUTE if place.execute else 0)
        | (_Right.WRITE_FILE | _Right.IOCTL_DEV if place.device else 0)
    )
