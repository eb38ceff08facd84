"""The demo's input: the source of the running Python's standard library, read once, the same on every run."""

from __future__ import annotations

import itertools
import os
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.errors import BlackholeError

__all__ = ["Corpus", "Skipped", "Source", "find_sources", "read_corpus", "stdlib"]

#: Directories inside the standard library's that hold something else: what pip (or Debian) installed, and compiled code.
NOT_STDLIB: Final = frozenset({"site-packages", "dist-packages", "__pycache__"})


@attrs.frozen
class Source:
    """One text. ``path`` is relative to the corpus's root, with forward slashes."""

    path: str
    text: str = attrs.field(repr=False)


@attrs.frozen
class Skipped:
    """A file that could not be read as Python source, and why."""

    path: str
    reason: str


@attrs.frozen
class Corpus:
    """Every source under ``root`` in the order of its path, and what was left out."""

    root: Path
    sources: tuple[Source, ...] = attrs.field(repr=False)
    skipped: tuple[Skipped, ...] = ()

    @property
    def characters(self) -> int:
        return sum(len(source.text) for source in self.sources)


def stdlib() -> Path:
    """Return the directory of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read_corpus(root: Path | None = None, *, limit: int | None = None) -> Corpus:
    """Read the ``.py`` files under ``root`` (the standard library's by default), the first ``limit`` readable ones if it is given.

    The whole library is about 1,800 files and 32 MB. A file that cannot be decoded or opened is skipped and listed: the library's own tests bring a few
    that are broken on purpose. Raises :class:`~blackhole_core.errors.BlackholeError` when there is nothing to read.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is a number of files, at least 1; got {limit}")
    root = stdlib() if root is None else root
    skipped: list[Skipped] = []
    sources = tuple(itertools.islice(_read_all(root, skipped), limit))
    if not sources:
        raise BlackholeError(
            f"there is no Python source under {root}; this Python's library seems to be packed, the demo needs one with .py files"
        )
    return Corpus(root, sources, tuple(skipped))


def find_sources(root: Path) -> Iterator[str]:
    """Yield the path of every ``.py`` file under ``root``, relative to it, in the order of its parts; links to directories are not followed."""
    for directory, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_STDLIB]
        folders.sort()
        here = Path(directory).relative_to(root)
        yield from ((here / name).as_posix() for name in sorted(files) if name.endswith(".py"))


def _read_all(root: Path, skipped: list[Skipped]) -> Iterator[Source]:
    for path in find_sources(root):
        try:
            # As the compiler reads it: coding cookie, byte order mark, all line ends made "\n".
            with tokenize.open(root / path) as file:
                text = file.read()
        except (SyntaxError, UnicodeDecodeError, OSError) as error:  # a wrong cookie is a SyntaxError
            skipped.append(Skipped(path, f"{type(error).__name__}: {error}"))
        else:
            yield Source(path, text)
