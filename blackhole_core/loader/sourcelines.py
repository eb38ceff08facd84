"""Right lines in tracebacks of every generation, although several may come from one file.

All code is compiled under its source's own path, so breakpoints, coverage and editors find it whatever generation runs. But
``linecache`` knows one text per file name. So the file name of compiled code is a :class:`SourceFile`: a ``str`` equal to the path,
which, once another text of that path has been loaded, is *another key* in a dict. Invariant: **the path itself shows the newest text that is
loaded from it; an older text is shown to those who ask with the older text's own** ``SourceFile``, which is what its code objects hold, those of
closures, generators and running frames too.
"""

from __future__ import annotations

import importlib.util
import linecache
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from blackhole_core.loader.generation import Generation
    from blackhole_core.loader.snapshot import Snapshot

__all__ = ["SourceFile", "forget_lines", "keep_for_the_error", "show_lines"]

#: Held while ``linecache`` and the ``replaced`` marks are brought in line; never while plugin code runs.
_lock: Final = threading.Lock()

#: By path, the file name of the text that failed to load last: its lines are wanted when the error is shown, and dropped at the next load.
_failed: Final[dict[str, SourceFile]] = {}


class SourceFile(str):
    """A path that is also the name of one text.

    While ``replaced`` it compares equal to the path and hashes otherwise. That breaks the rule that equal things hash equally, on
    purpose: it is what gives two texts of one path two entries in ``linecache.cache``. Nothing else of ours uses it as a key.
    """

    __slots__ = ("replaced",)

    replaced: bool

    def __new__(cls, path: str) -> Self:
        self = super().__new__(cls, path)
        self.replaced = False
        return self

    def __hash__(self) -> int:
        return object.__hash__(self) if self.replaced else str.__hash__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


def show_lines(stack: Sequence[Generation], changed: Snapshot) -> None:
    """Let tracebacks of all generations in ``stack`` (oldest first) read the files of ``changed`` as each has them, whatever is on disk."""
    with _lock:
        for file in changed.files:
            failed = _failed.pop(file, None)
            if failed is not None:
                linecache.cache.pop(failed, None)
        _settle(stack, changed)


def forget_lines(gone: Snapshot, stack: Sequence[Generation]) -> None:
    """Drop what was kept for ``gone`` alone. Afterwards its paths show what generations in ``stack`` run, else what is on disk."""
    with _lock:
        for source in _alone(gone, stack):
            linecache.cache.pop(source, None)
        _settle(stack, gone)


def keep_for_the_error(failed: Snapshot, stack: Sequence[Generation]) -> None:
    """As :func:`forget_lines`, for a version that could not be loaded: whoever shows the error still sees its lines."""
    with _lock:
        for source in _alone(failed, stack):
            _set_aside(source, failed.files[str(source)])
            older = _failed.get(source)
            if older is not None:
                linecache.cache.pop(older, None)
            _failed[str(source)] = source
        _settle(stack, failed)


def _settle(stack: Sequence[Generation], changed: Snapshot) -> None:
    moved: set[int] = set()
    for file in changed.files:
        holders = [held for held in (_held(generation, file) for generation in reversed(stack)) if held is not None]
        for place, (source, text) in enumerate(holders):
            if source is holders[0][0]:
                if place == 0 and _bring_forward(source, file, text):
                    moved.add(id(source))
            elif not source.replaced:
                _set_aside(source, text)
                moved.add(id(source))
    if moved:
        _tell_modules(stack, moved)


def _held(generation: Generation, file: str) -> tuple[SourceFile, bytes] | None:
    snapshot = generation.snapshot
    return None if snapshot is None or file not in snapshot.files else (snapshot.sources[file], snapshot.files[file])


def _alone(gone: Snapshot, stack: Iterable[Generation]) -> Iterator[SourceFile]:
    others = [known.snapshot for known in stack if known.snapshot is not None and known.snapshot is not gone]
    for file, source in gone.sources.items():
        if not any(other.sources.get(file) is source for other in others):
            yield source


def _bring_forward(source: SourceFile, file: str, text: bytes) -> bool:
    """Show ``source`` under the path itself; say whether it was set aside before."""
    was_replaced = source.replaced
    if was_replaced:
        linecache.cache.pop(source, None)
        source.replaced = False
    known = linecache.cache.get(file)
    if known is None or known[-1] is not source:
        _remember(file, source, text)
    return was_replaced


def _set_aside(source: SourceFile, text: bytes) -> None:
    if not source.replaced:
        source.replaced = True
        _remember(source, source, text)


def _remember(key: str, source: SourceFile, text: bytes) -> None:
    try:
        lines = importlib.util.decode_source(text).splitlines(keepends=True)
    except (SyntaxError, UnicodeDecodeError):
        return  # importing it will say what is wrong; there are no lines to show
    linecache.cache[key] = (len(text), None, lines, source)  # no time: linecache then never compares it with the disk


def _tell_modules(stack: Iterable[Generation], moved: set[int]) -> None:
    """Keep ``__file__`` in step: ``inspect.getsource`` of a class goes through it."""
    for generation in stack:
        if generation.snapshot is None:
            continue
        for module in list(generation.registry.values()):
            file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
            if not isinstance(file, str):
                continue
            source = generation.snapshot.sources.get(str(file))  # str(): an older text's name is no key here
            if source is not None and id(source) in moved:
                vars(module)["__file__"] = source if source.replaced else str(source)
