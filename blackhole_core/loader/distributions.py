"""``importlib.metadata`` for code of a universe: a distribution that holds its packages has the version this generation was loaded from.

``pip install -U`` replaces the metadata of an installed distribution together with its code. So both are read when a generation is loaded
(:func:`read_distributions`), and its code is answered from what was read. Questions about all distributions (``entry_points()``, ``distributions()``)
and about those the generation does not own are about the environment; the original functions answer them.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from blackhole_core.loader.shims import caller_universe

__all__ = ["Distributions", "install_metadata", "read_distributions"]

#: What is read of a distribution, by normalised name: file name → text.
Distributions = Mapping[str, Mapping[str, str]]

_ENDINGS: Final = (".dist-info", ".egg-info")

#: Files that tell which modules a distribution has, in the order in which they are asked.
_LISTINGS: Final = ("RECORD", "SOURCES.txt", "top_level.txt")

#: Metadata directories in one place up to which all are read; a plugin's own directory has one, an environment has hundreds.
_FEW: Final = 8

#: Bytes of one metadata file that are kept. The largest RECORD we know has 1 MB.
_MOST_BYTES: Final = 4 * 1024 * 1024


def read_distributions(path: Path, prefixes: Iterable[str]) -> Distributions:
    """Read the metadata of the distributions in the directory ``path`` that hold one of the packages ``prefixes``."""
    try:
        directories = [name for name in os.listdir(path) if name.endswith(_ENDINGS)]
    except OSError:
        return {}  # a zip file, or not there: loading says so
    wanted = list(prefixes)
    if len(directories) > _FEW:
        alike = {normal(prefix.replace(".", "-")) for prefix in wanted} | {normal(prefix.partition(".")[0]) for prefix in wanted}
        named = [name for name in directories if _name_of(name) in alike and _holds(path / name, wanted)]
        directories = named or directories
    return {_name_of(name): _texts(path / name) for name in directories if _holds(path / name, wanted)}


def normal(name: str) -> str:
    """Return a distribution's name as all its spellings share it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _name_of(directory: str) -> str:
    return normal(directory.rpartition(".")[0].partition("-")[0])


def _holds(directory: Path, prefixes: Iterable[str]) -> bool:
    starts = [start for prefix in prefixes for start in _starts(prefix)]
    for listing in _LISTINGS:
        try:
            lines = f"\n{(directory / listing).read_text('utf-8', 'replace')}"
        except OSError:
            continue
        return any(f"\n{start}" in lines for start in starts)
    return False


def _starts(prefix: str) -> tuple[str, ...]:
    place = prefix.replace(".", "/")
    top = prefix.partition(".")[0]
    return (f"{place}/", f"{place}.", f"src/{place}/", f"src/{place}.", f"{top}\n")


def _texts(directory: Path) -> dict[str, str]:
    texts = {}
    for file in directory.iterdir():
        if file.is_file() and file.stat().st_size <= _MOST_BYTES:
            texts[file.name] = file.read_text("utf-8", "replace")
    return texts


def install_metadata(metadata: ModuleType) -> None:
    """Make the functions of ``importlib.metadata`` (or its backport) that are asked about one distribution answer per generation."""
    held_class = _held_class(metadata)
    for name in ("distribution", "version", "metadata", "files", "requires"):
        setattr(metadata, name, _answering(getattr(metadata, name), held_class, None if name == "distribution" else name))


def _held_class(metadata: ModuleType) -> Callable[[Mapping[str, str], Path], Any]:
    base: Any = metadata.Distribution

    class HeldDistribution(base):  # type: ignore[misc]  # the base is another on each Python
        """A distribution as it was when a generation was loaded."""

        def __init__(self, texts: Mapping[str, str], root: Path) -> None:
            self._texts = texts
            self._root = root

        def read_text(self, filename: str) -> str | None:
            return self._texts.get(filename)

        def locate_file(self, path: str | os.PathLike[str]) -> Path:
            return self._root / path

    return HeldDistribution


def _answering(
    original: Callable[[str], Any], held: Callable[[Mapping[str, str], Path], Any], attribute: str | None
) -> Callable[[str], Any]:
    @functools.wraps(original)
    def shim(distribution_name: str) -> Any:
        universe = caller_universe(1)
        texts = (
            None if universe is None or not isinstance(distribution_name, str) else universe.distributions().get(normal(distribution_name))
        )
        if universe is None or universe.path is None or texts is None:
            return original(distribution_name)
        found = held(texts, universe.path)
        return found if attribute is None else getattr(found, attribute)

    return shim
