"""Tracebacks of failed loads: the plugin's own frames, without the loader's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

__all__ = ["prune_traceback"]

#: Frames of files in this directory say nothing to a plugin's author.
_OWN_FILES: Final = str(Path(__file__).parent)


def prune_traceback(error: BaseException) -> None:
    """Take this package's frames out of the traceback of ``error``; when there are no others, leave it as it is."""
    kept = [entry for entry in _entries(error.__traceback__) if not entry.tb_frame.f_code.co_filename.startswith(_OWN_FILES)]
    if not kept:
        return  # the fault lies between our frames and the entry: they are all there is to show
    for entry, following in itertools.pairwise([*kept, None]):
        entry.tb_next = following  # type: ignore[union-attr]  # there is one before the last
    error.__traceback__ = kept[0]


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next
