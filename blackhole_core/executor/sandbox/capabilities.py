"""Give up every capability, and the ways to new ones (``capabilities(7)``)."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import Final

from blackhole_core.executor.sandbox.kernel import call, prctl

__all__ = ["drop", "forbid_new_privileges", "held"]

# prctl(2)
_PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 28, 38, 47, 4
#: More capabilities than a kernel can have: two words of bits.
_MOST: Final = 64
#: Securebits: user id 0 means nothing, no capability comes or goes with a change of ids, none is kept, none becomes ambient; each of it for good.
_SECUREBITS: Final = 0b1110_1111
#: ``capget(2)``: version 3, this process.
_HEADER: Final = struct.pack("=Ii", 0x2008_0522, 0)


def drop() -> None:
    """Have no capability, none that a program could bring, and none to be inherited.

    :raises OSError: the kernel refused. A process that has none to begin with cannot change its bounding set, and need not.
    """
    for number in range(_MOST):
        try:
            prctl(_PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EPERM):  # the first that does not exist; not allowed, for want of capabilities
                break
            raise
    try:
        prctl(_PR_SET_SECUREBITS, _SECUREBITS)
    except PermissionError:
        pass  # the same
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    call("capset", _HEADER, bytes(24))


def held() -> bool:
    """Whether this process has, or could take up, any capability."""
    sets = ctypes.create_string_buffer(24)
    call("capget", _HEADER, sets)
    return any(sets.raw)


def forbid_new_privileges() -> None:
    """Have no program give privileges to who executes it.

    :raises OSError: the kernel refused.
    """
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
