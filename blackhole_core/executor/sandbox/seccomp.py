"""Hand a filter of system calls to the kernel, for all threads there will be."""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from blackhole_core.executor.sandbox.kernel import call

__all__ = ["install"]

#: ``seccomp(2)``: the operation, and the flag that has every thread of the process take it.
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
#: Bytes of one instruction.
_STEP: Final = 8


def install(program: bytes) -> None:
    """Have the kernel apply ``program`` from now on; it cannot be taken back. New privileges are ruled out already.

    :raises OSError: the kernel refused.
    """
    steps = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // _STEP, ctypes.addressof(steps))
    call("seccomp", _SET_MODE_FILTER, _FLAG_TSYNC, header)
