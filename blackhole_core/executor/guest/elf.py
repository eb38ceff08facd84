"""What an ELF file says it needs: the shared libraries, where to look for them, and its loader. Pure: bytes in, a value out.

Source of every number: the System V ABI (gABI), chapters "Object Files" and "Dynamic Linking".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import attrs

__all__ = ["MAGIC", "Needs", "NotElf", "read_needs"]

MAGIC: Final = b"\x7fELF"

_CLASS_64, _LITTLE_ENDIAN = 2, 1
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3  # types of program headers
_END, _NEEDED, _STRINGS, _RPATH, _RUNPATH = 0, 1, 5, 15, 29  # tags of dynamic entries
_HEADER: Final = struct.Struct("<4sBB10xHHIQQQIHHHHHH")
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_ENTRY: Final = struct.Struct("<qQ")


class NotElf(ValueError):
    """The file is no ELF file for 64-bit little-endian machines, or a damaged one."""


@attrs.frozen
class Needs:
    """``libraries`` are names as written (``libm.so.6``), ``search`` directories that may begin with ``$ORIGIN``, ``loader`` a path or empty."""

    libraries: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    loader: str = ""


def read_needs(data: bytes | memoryview) -> Needs:
    """Return what the ELF file with this content needs; nothing for one that is linked statically.

    :raises NotElf: it is something else.
    """
    try:
        return _read(data)
    except (struct.error, IndexError, OverflowError, StopIteration, ValueError) as error:
        raise NotElf(str(error)) from None


def _read(data: bytes | memoryview) -> Needs:
    magic, kind, order, _type, _machine, _version, _entry, programs, *_rest = _HEADER.unpack_from(data)
    if (magic, kind, order) != (MAGIC, _CLASS_64, _LITTLE_ENDIAN):
        raise NotElf("no ELF file for 64-bit little-endian machines")
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [_PROGRAM.unpack_from(data, programs + number * size) for number in range(count)]
    loader = next((_text(data, offset) for type_, _flags, offset, *_ in headers if type_ == _INTERPRETER), "")
    dynamic = next(((offset, length) for type_, _flags, offset, _va, _pa, length, *_ in headers if type_ == _DYNAMIC), None)
    if dynamic is None:
        return Needs(loader=loader)
    entries = list(_entries(data, *dynamic))
    address = next(value for tag, value in entries if tag == _STRINGS)
    # The table's address is where it is mapped; the segment that holds it says where it lies in the file.
    strings = next(
        offset + address - virtual
        for type_, _flags, offset, virtual, _pa, length, *_ in headers
        if type_ == _LOAD and virtual <= address < virtual + length
    )
    search = [_text(data, strings + value) for tag, value in entries if tag in (_RPATH, _RUNPATH)]
    return Needs(
        libraries=tuple(_text(data, strings + value) for tag, value in entries if tag == _NEEDED),
        search=tuple(directory for several in search for directory in several.split(":") if directory),
        loader=loader,
    )


def _entries(data: bytes | memoryview, offset: int, length: int) -> Iterator[tuple[int, int]]:
    for place in range(offset, offset + length, _ENTRY.size):
        tag, value = _ENTRY.unpack_from(data, place)
        if tag == _END:
            return
        yield tag, value


def _text(data: bytes | memoryview, offset: int) -> str:
    end = offset
    while data[end]:
        end += 1
    return bytes(data[offset:end]).decode()
