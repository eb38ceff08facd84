"""The part of an image that every guest needs: the interpreter of this host with its standard library and the shared libraries of both.

Byte code goes in beside the sources, marked as unchecked (PEP 552): its validity depends on no time, so the image is the same whenever it is made,
and the guest does not look at the sources. An emulated machine compiles at a twentieth of the speed of this one.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from blackhole_core.executor.guest.libraries import LibraryFinder
from blackhole_core.executor.guest.tree import Tree

__all__ = ["add_interpreter", "add_libraries", "interpreter_program", "known_code", "unchecked_code"]

#: Directories of the standard library that no plugin in a guest imports: tests, programs with windows, what installs pip, what builds extensions.
_LEFT_OUT: Final = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "idle_test", "turtledemo", "tkinter", "ensurepip"}
)
#: Beginnings of such files and directories: the configuration for embedding, the extension modules of the above.
_LEFT_OUT_BEGINNINGS: Final = ("config-", "_tkinter.", "_test", "_ctypes_test.", "_xxtestfuzz.", "_xxsubinterpreters.", "turtle.py")
#: Libraries that programs load by name at run time, so that no file names them: name services, and what compiled extensions mostly need beside libc.
_BY_NAME: Final = ("libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1", "libstdc++.so.6")
#: Bytes of the head of a .pyc file: magic, flags, and two words for time and size, or a hash.
_HEAD: Final = 16
_UNCHECKED: Final = 0b01  # of the flags: "hash-based", and not "check the source"


def interpreter_program() -> Path:
    """Return the interpreter itself, past every virtual environment."""
    base = getattr(sys, "_base_executable", sys.executable)
    return Path(base).resolve()


def add_interpreter(tree: Tree, libraries: LibraryFinder, progress: Callable[[str], object] = lambda said: None) -> list[str]:
    """Add the interpreter, its standard library and what both are linked with. Return names of libraries that are not on this machine.

    :raises OSError: something cannot be read.
    """
    program = interpreter_program()
    tree.add(program)
    tree.add(getattr(sys, "_base_executable", sys.executable))
    binaries = [program]
    for directory in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sysconfig.get_config_var("DESTSHARED")}:
        if directory is None or not Path(directory).is_dir():
            continue
        progress(f"collecting {directory}")
        for path in _files(directory):
            tree.add(path)
            if path.endswith(".py"):
                _add_code(tree, path)
            elif ".so" in path:
                binaries.append(Path(path))
    return add_libraries(tree, libraries, binaries)


def add_libraries(tree: Tree, libraries: LibraryFinder, binaries: list[Path]) -> list[str]:
    """Add what ``binaries`` are linked with; return the names of those that are not on this machine."""
    loaded_by_name = [path for name in _BY_NAME if (path := libraries.find(name)) is not None]
    found, missing = libraries.closure([*binaries, *loaded_by_name])
    for path in (*loaded_by_name, *found):
        tree.add(path)
    return missing


def _files(directory: str) -> Iterator[str]:
    for where, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if name not in _LEFT_OUT and not name.startswith(_LEFT_OUT_BEGINNINGS))
        for name in sorted(names):
            if not name.startswith(_LEFT_OUT_BEGINNINGS):
                yield f"{where}/{name}"


def _add_code(tree: Tree, path: str) -> None:
    code = unchecked_code(path)
    if code is not None:
        tree.add(Path(path).parent)
        tree.make(importlib.util.cache_from_source(os.path.realpath(path)), code)


def unchecked_code(path: str) -> bytes | None:
    """Return the content of an unchecked .pyc file for the source at ``path``: from its own .pyc if that is valid, else compiled; None if it is no Python."""
    known = known_code(path)
    if known is not None:
        return known
    source = Path(path).read_bytes()
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None  # templates and examples for other versions
    return _unchecked(source, marshal.dumps(code))


def known_code(path: str) -> bytes | None:
    """Do :func:`unchecked_code` where Python itself would not compile; None where it would."""
    try:
        with open(importlib.util.cache_from_source(path, optimization=""), "rb") as file:  # noqa: PTH123 - many thousands of them
            data = file.read()
        status = os.stat(path)  # noqa: PTH116 - thousands of them
    except OSError:
        return None
    now = (int(status.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + (status.st_size & 0xFFFFFFFF).to_bytes(4, "little")
    if len(data) <= _HEAD or data[:4] != importlib.util.MAGIC_NUMBER or data[4:8] != bytes(4) or data[8:_HEAD] != now:
        return None
    return _unchecked(Path(path).read_bytes(), data[_HEAD:])


def _unchecked(source: bytes, code: bytes) -> bytes:
    return importlib.util.MAGIC_NUMBER + _UNCHECKED.to_bytes(4, "little") + importlib.util.source_hash(source) + code
