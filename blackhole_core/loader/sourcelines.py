"""Right lines in tracebacks of every generation, although several may come from one file.

All code is compiled under its source's own path, so breakpoints, coverage and editors find it whatever generation runs. But
``linecache`` knows one text per file name. So the file name of compiled code is a :class:`SourceFile`: a ``str`` equal to the path,
which, once another text of that path has been loaded, is *another key* in a dict.

Invariants: **the path itself shows the text that came forward last** (the newest loaded one; after an abort the old one again); **every other text is
shown to code compiled from it, for as long as any such code lives**, that of closures, suspended generators and stored tracebacks too. Lines are
dropped when the last code object that carries the ``SourceFile`` is gone, not before and not later.
"""

from __future__ import annotations

import importlib.util
import linecache
import threading
import weakref
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from blackhole_core.loader.generation import Generation
    from blackhole_core.loader.snapshot import Snapshot

__all__ = ["SourceFile", "show_lines"]

#: Held while a text comes forward. Re-entrant, and not taken by :func:`_forget`: the collector may run that one anywhere.
_lock: Final = threading.RLock()

#: By path, the text that the path shows.
_forward: Final[dict[str, _Mark]] = {}


class SourceFile(str):
    """A path that is also the name of one text.

    With a ``number`` it compares equal to the path and hashes otherwise. That breaks the rule that equal things hash equally, on
    purpose: it is what gives two texts of one path two entries in ``linecache.cache``. It is used as a key nowhere else.
    """

    __slots__ = ("__weakref__", "mark", "number", "text")

    text: bytes
    number: int  #: its hash while another text has the path, else 0
    mark: _Mark

    def __new__(cls, path: str, text: bytes) -> Self:
        self = super().__new__(cls, path)
        self.text, self.number = text, 0
        self.mark = _Mark(self, _forget)
        self.mark.path, self.mark.number = path, 0
        _marks.add(self.mark)
        return self

    def __hash__(self) -> int:
        return self.number or str.__hash__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


class _Mark(weakref.ref[SourceFile]):
    """Knows under which key the lines of one text stand, and removes them when the text's last code is gone."""

    __slots__ = ("number", "path")

    path: str
    number: int


class _Key(str):
    """The key of a text that has not the path: hashes as its :class:`SourceFile` does, and does not keep it alive."""

    __slots__ = ("number",)

    number: int

    def __new__(cls, path: str, number: int) -> Self:
        self = super().__new__(cls, path)
        self.number = number
        return self

    def __hash__(self) -> int:
        return self.number


#: Keeps the marks: a weak reference that is itself gone calls nobody.
_marks: Final[set[_Mark]] = set()


def show_lines(stack: Sequence[Generation], changed: Snapshot) -> None:
    """Let the paths of ``changed`` show what the newest generation in ``stack`` (oldest first) that has them was compiled from."""
    moved = False
    with _lock:
        for file in changed.files:
            for generation in reversed(stack):
                snapshot = generation.snapshot
                if snapshot is not None and file in snapshot.sources:
                    moved = _bring_forward(snapshot.sources[file], file) or moved
                    break
    if moved:
        _tell_modules(stack, changed)


def _bring_forward(source: SourceFile, file: str) -> bool:
    """Give ``source`` its path; say whether another text had it."""
    former = _forward.get(file)
    if former is source.mark:
        return False
    other = None if former is None else former()
    if other is not None:
        other.number = other.mark.number = object.__hash__(other)
        _remember(_Key(file, other.number), other)
    if source.number:
        linecache.cache.pop(_Key(file, source.number), None)
        source.number = source.mark.number = 0
    _forward[file] = source.mark
    _remember(file, source)
    return other is not None


def _forget(
    mark: _Mark,
    # Bound here: when the interpreter ends, texts outlive the names of this module.
    marks: set[_Mark] = _marks,
    forward: dict[str, _Mark] = _forward,
    lines: dict[Any, Any] = linecache.cache,
    key: type[_Key] = _Key,
) -> None:
    """Drop the lines of a text that no code carries any more. Called by the collector: single dict operations only."""
    marks.discard(mark)
    if mark.number:
        lines.pop(key(mark.path, mark.number), None)
    elif forward.get(mark.path) is mark:
        del forward[mark.path]
        lines.pop(mark.path, None)


def _remember(key: str, source: SourceFile) -> None:
    try:
        lines = importlib.util.decode_source(source.text).splitlines(keepends=True)
    except (SyntaxError, UnicodeDecodeError):
        linecache.cache.pop(key, None)  # importing it will say what is wrong; there are no lines to show
        return
    linecache.cache[key] = (len(source.text), None, lines, str(key))  # no time: linecache then never compares it with the disk


def _tell_modules(stack: Iterable[Generation], changed: Snapshot) -> None:
    """Keep ``__file__`` in step: ``inspect.getsource`` of a class goes through it."""
    for generation in stack:
        if generation.snapshot is None:
            continue
        for module in list(generation.registry.values()):
            file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
            if isinstance(file, str) and str(file) in changed.files and str(file) in generation.snapshot.sources:
                source = generation.snapshot.sources[str(file)]
                vars(module)["__file__"] = source if source.number else str(file)
