"""Directories of an import path on which a test installs, and a file system clock that it turns."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from blackhole_core.registry import indexdirectories, indexscan, indexstamp
from blackhole_core.registry.index import DiscoveryIndex
from blackhole_core.registry.indexstamp import SETTLED_NS, Stamp

Points = Mapping[str, Mapping[str, str]]


class Clock:
    """Nanoseconds since a machine was started; stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1_000_000_000_000

    def __call__(self) -> int:
        return self.now

    def settle(self) -> None:
        self.now += SETTLED_NS


def points_text(points: Points) -> str:
    return "".join(f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items()) for group, named in points.items())


def install(site: Path, name: str, version: str = "1.0", points: Points | None = None, *, style: str = "whole") -> Path:
    """Put metadata there, as one of the kinds of installers does: whole, "bare" (without RECORD), "egg" or "half" done."""
    info = site / f"{name}-{version}.{'egg-info' if style == 'egg' else 'dist-info'}"
    info.mkdir(parents=True)
    (info / ("PKG-INFO" if style == "egg" else "METADATA")).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if style == "half":
        return info
    if points is not None:
        (info / "entry_points.txt").write_text(points_text(points))
    if style == "whole":
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").write_text("")
    return info


def uninstall(info: Path) -> None:
    shutil.rmtree(info)


@contextlib.contextmanager
def import_path(path: Sequence[Path]) -> Iterator[None]:
    """Make ``path`` the import path."""
    usual = sys.path[:]
    sys.path[:] = map(str, path)
    try:
        yield
    finally:
        sys.path[:] = usual


def forget_listings() -> None:
    """Let ``importlib.metadata`` and its backport list directories anew: they take no care of two changes that share a time."""
    for module in filter(None, (sys.modules.get("importlib.metadata"), sys.modules.get("importlib_metadata"))):
        module.MetadataPathFinder().invalidate_caches()


def asked_of_python(group: str, path: Sequence[Path]) -> list[tuple[str, str, str, str]]:
    """Return name, value, group and metadata directory of each entry point, as ``importlib.metadata`` finds them now."""
    forget_listings()
    with import_path(path):
        points = importlib.metadata.entry_points(group=group)
    return [(point.name, point.value, point.group, str(point.dist._path)) for point in points if point.dist is not None]  # type: ignore[attr-defined]  # the module, or object, is the test's own


def asked_of_index(index: DiscoveryIndex, group: str, path: Sequence[Path]) -> list[tuple[str, str, str, str]]:
    return [
        (name, value, group, declarer.place)
        for declarer in index.declarers(group, [str(entry) for entry in path])
        for name, value in declarer.points
    ]


class CoarseTime:
    """A file system that knows only when something was last changed, in steps of two seconds, by a clock of its own.

    Inodes, sizes and times of change are taken away from the index, and every file that a step of a test changed gets the time that the clock shows.
    """

    STEP = 2_000_000_000

    def __init__(self, root: Path, clock: Clock, skew: int) -> None:
        self._root, self._clock, self._skew = root, clock, skew
        self._known: dict[Path, tuple[int, int]] = {}

    def stamp_of(self, found: os.stat_result) -> Stamp:
        return (0, 0, 0, found.st_mtime_ns, 0)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (indexdirectories, indexscan, indexstamp):
            monkeypatch.setattr(module, "stamp_of", self.stamp_of)

    def touch(self) -> None:
        """Give what was changed since the last call the time that it is."""
        now = (self._clock.now + self._skew) // self.STEP * self.STEP
        for path in (self._root, *self._root.rglob("*")):
            found = path.lstat()
            if self._known.get(path) != (found.st_ino, found.st_mtime_ns):
                os.utime(path, ns=(now, now))
                self._known[path] = (found.st_ino, now)
