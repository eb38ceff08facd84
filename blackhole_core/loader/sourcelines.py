"""Right lines in tracebacks of every generation, although several may come from one file.

``linecache`` knows one text per file name. So: **the path itself shows the newest text that was loaded from it**, and a generation
whose text for a file has been replaced goes on under the file name ``path@tag``, for which its own text is kept. Its functions
get copies of their code objects that say so. Only files whose text differs are touched, so breakpoints keep working in all others.
"""

from __future__ import annotations

import importlib.util
import linecache
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blackhole_core.loader.generation import Generation

__all__ = ["forget_lines", "show_lines", "step_aside"]


def show_lines(generation: Generation) -> None:
    """Let tracebacks read the files of ``generation`` from its snapshot, whatever is on disk by then."""
    if generation.snapshot is not None:
        for file, text in generation.snapshot.files.items():
            _remember(file, text)


def step_aside(older: Generation, newer: Generation) -> None:
    """Give ``older`` file names of its own for files of which ``newer`` has another text."""
    if older.snapshot is None or newer.snapshot is None:
        return
    for file, text in older.snapshot.files.items():
        if file in older.snapshot.titles or newer.snapshot.files.get(file, text) == text:
            continue
        title = older.snapshot.retitle(file, f"{file}@{older.names.tag}")
        _remember(title, text)
        for module in list(older.registry.values()):
            if isinstance(module, ModuleType) and getattr(module, "__file__", None) == file:
                _retitle(module, file, title)


def forget_lines(gone: Generation, remaining: Iterable[Generation]) -> None:
    """Drop what was kept for ``gone`` alone. Afterwards its paths show what ``remaining`` generations run, else what is on disk."""
    if gone.snapshot is None:
        return
    for title in gone.snapshot.titles.values():
        linecache.cache.pop(title, None)
    others = [known.snapshot for known in remaining if known.snapshot is not None]
    for file in gone.snapshot.files.keys() - gone.snapshot.titles.keys():
        if not any(file in other.files and file not in other.titles for other in others):
            linecache.cache.pop(file, None)


def _remember(name: str, text: bytes) -> None:
    try:
        lines = importlib.util.decode_source(text).splitlines(keepends=True)
    except (SyntaxError, UnicodeDecodeError):
        return  # importing it will say what is wrong; there are no lines to show
    linecache.cache[name] = (len(text), None, lines, name)


def _retitle(module: ModuleType, file: str, title: str) -> None:
    for function in _functions(vars(module), set()):
        if function.__code__.co_filename == file:
            function.__code__ = _renamed(function.__code__, title)


def _functions(namespace: Any, seen: set[int]) -> Iterator[FunctionType]:
    """Yield the functions in a module's or class's namespace, also in nested classes, methods of all kinds and ``wraps`` chains."""
    for thing in list(namespace.values()):
        for found in _unwrapped(thing):
            if id(found) in seen:
                continue
            seen.add(id(found))
            if type(found) is FunctionType:
                yield found
            elif issubclass(type(found), type):
                yield from _functions(type.__getattribute__(found, "__dict__"), seen)


def _unwrapped(thing: object) -> Iterator[object]:
    """Yield ``thing`` and the functions it wraps. Only known kinds are asked: others may run the plugin's code to answer."""
    if type(thing) in (staticmethod, classmethod):
        yield from _unwrapped(thing.__func__)  # type: ignore[attr-defined]
    elif type(thing) is property:
        yield from (function for function in (thing.fget, thing.fset, thing.fdel) if function is not None)
    elif type(thing) is FunctionType and "__wrapped__" in vars(thing):
        yield thing
        yield from _unwrapped(vars(thing)["__wrapped__"])
    else:
        yield thing


def _renamed(code: CodeType, title: str) -> CodeType:
    consts = tuple(_renamed(const, title) if isinstance(const, CodeType) else const for const in code.co_consts)
    return code.replace(co_filename=title, co_consts=consts)
