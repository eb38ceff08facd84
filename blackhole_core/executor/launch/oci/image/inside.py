"""Where a path leads inside a root directory that is not this process's: symbolic links in there are followed as a process in there would.

Nobody else may change the directory meanwhile.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["find_program", "is_there", "resolve"]

#: Links on the way, as the kernel counts them.
_MOST_LINKS: Final = 40
#: Where programs are when an image does not say.
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def resolve(root: Path, path: str) -> Path:
    """Return where ``path``, absolute in ``root``, really is on this machine: below ``root`` and without a link. What is not there is taken as it is spelled.

    :raises OSError: its links lead round in a circle.
    """
    parts = _parts(path)
    here: list[str] = []
    links = 0
    while parts:
        part = parts.pop()
        if part == "..":
            del here[-1:]
            continue
        found = root.joinpath(*here, part)
        if found.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise OSError(f"{path} leads through more than {_MOST_LINKS} links")
            target = os.readlink(found)  # noqa: PTH115 - as it is written
            if target.startswith("/"):
                here.clear()
            parts += _parts(target)
        else:
            here.append(part)
    return root.joinpath(*here)


def _parts(path: str) -> list[str]:
    """Return the parts of a path, the last first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def is_there(root: Path, path: str, *, file: bool) -> bool:
    """Whether ``path`` in ``root`` is a file, or a directory, without a link on the way: something can be mounted there as it is."""
    status = root
    for part in PurePosixPath(path).parts[1:]:
        status /= part
        if status.is_symlink():
            return False
    return status.is_file() if file else status.is_dir()


def find_program(root: Path, names: tuple[str, ...], path: str | None) -> str | None:
    """Return the first of ``names`` on ``path`` that can be executed in ``root``, as a path in there."""
    for name in names:
        for directory in (path or _PATH).split(":"):
            found = f"{directory.rstrip('/')}/{name}"
            if directory.startswith("/") and _is_program(resolve(root, found)):
                return found
    return None


def _is_program(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)
