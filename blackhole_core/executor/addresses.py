"""Where the bytes of an object lie. CPython only: another interpreter may move them."""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["address_of"]


class _Buffer(ctypes.Structure):
    """``Py_buffer``."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get: Final = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int)(
    ("PyObject_GetBuffer", ctypes.pythonapi)
)
_release: Final = ctypes.PYFUNCTYPE(None, ctypes.POINTER(_Buffer))(("PyBuffer_Release", ctypes.pythonapi))
#: ``PyBUF_SIMPLE``: one row of bytes, read.
_SIMPLE: Final = 0


def address_of(row: object) -> int:
    """Return where ``row``, a contiguous block of memory, begins; it is there for as long as it lives.

    :raises BufferError: it is not contiguous.
    """
    buffer = _Buffer()
    _get(row, ctypes.byref(buffer), _SIMPLE)
    address: int = buffer.buf or 0
    _release(ctypes.byref(buffer))
    return address
