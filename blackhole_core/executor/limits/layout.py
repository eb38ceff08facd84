"""Which control group this process is in, in each hierarchy, and where that is in the file system. Pure: texts of ``/proc`` come in.

A mount may show only a part of a hierarchy (its *root*, in a container): the path of a group is relative to the hierarchy, not to the mount.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import attrs

__all__ = ["Layout", "read_layout"]

_ESCAPE = re.compile(r"\\([0-7]{3})")  # blanks, tabs, newlines and backslashes in mountinfo: proc(5)


@attrs.frozen
class Layout:
    """The directories of our own group: of the unified hierarchy (cgroup2), and of each controller of an old one; what is not mounted is not here."""

    unified: Path | None = None
    controllers: Mapping[str, Path] = attrs.field(factory=dict)


@attrs.frozen
class _Mount:
    kind: str
    root: str
    point: str
    options: frozenset[str]


def read_layout(cgroup: str, mountinfo: str) -> Layout:
    """Return the layout from the texts of ``/proc/self/cgroup`` and ``/proc/self/mountinfo``."""
    mounts = list(_mounts(mountinfo))
    unified: Path | None = None
    controllers: dict[str, Path] = {}
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        names, _, group = rest.partition(":")
        if number == "0" and not names:
            unified = _directory(group, [mount for mount in mounts if mount.kind == "cgroup2"])
            continue
        for name in names.split(","):
            directory = _directory(group, [mount for mount in mounts if mount.kind == "cgroup" and name in mount.options])
            if directory is not None:
                controllers[name] = directory
    return Layout(unified, controllers)


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if separator and len(fields) >= 6 and len(kinds) >= 3 and kinds[0] in ("cgroup", "cgroup2"):
            yield _Mount(kinds[0], _unescaped(fields[3]), _unescaped(fields[4]), frozenset(kinds[2].split(",")))


def _directory(group: str, mounts: list[_Mount]) -> Path | None:
    """Return where ``group`` is below one of the mounts of its hierarchy, None when none shows it."""
    for mount in mounts:
        if group.startswith("/.."):
            continue  # outside the cgroup namespace: the mount cannot show it
        try:
            return Path(mount.point, PurePosixPath(group).relative_to(mount.root))
        except ValueError:
            continue  # the mount shows another part of the hierarchy
    return None


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), text)
