"""Where the control socket of a host lies, and that nobody else can put one there.

``$XDG_RUNTIME_DIR/blackhole/<project>.sock``, or ``/tmp/blackhole-<uid>/<project>.sock`` where no runtime directory is set. The directory
belongs to the user with mode 0700; a link, another owner or a wider mode is refused, never repaired: whoever made it may be
waiting for just that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from blackhole_core.errors import BlackholeError
from blackhole_core.ids import NAME, canonical_name

__all__ = ["UnsafePlace", "check_directory", "default_directory", "make_directory", "socket_path", "sockets_in"]

#: Bytes of a Unix socket's path; the kernel's ``sun_path`` has 108 with the closing zero.
MAX_PATH: Final = 107

#: Permission bits of the directory.
MODE: Final = 0o700


class UnsafePlace(BlackholeError):
    """A directory or path that the control socket must not be put into."""


def default_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Return the directory of this user's control sockets; it need not exist."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):  # the specification: anything else is to be ignored
        return Path(runtime, "blackhole")
    return Path(f"/tmp/blackhole-{uid}")  # noqa: S108 - made and checked below as a shared directory must be


def socket_path(project: str, directory: Path) -> Path:
    """Return the socket of ``project`` in ``directory``.

    :raises UnsafePlace: the project's name cannot be a file name, or the path is too long for a socket.
    """
    if not NAME.fullmatch(project):
        raise UnsafePlace(
            f"project {project!r} cannot name a control socket: wanted ASCII letters, digits and . _ -; give the socket's path with --socket"
        )
    return checked_length(directory / f"{canonical_name(project)}.sock")


def checked_length(path: Path) -> Path:
    """Return ``path``.

    :raises UnsafePlace: it is longer than a socket's path may be.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise UnsafePlace(f"{path} is too long for a Unix socket: wanted at most {MAX_PATH} bytes; give a shorter one with --socket")
    return path


def make_directory(directory: Path, uid: int) -> None:
    """Make ``directory`` if need be, and check it.

    :raises UnsafePlace: what is there is not a directory of this user alone.
    """
    try:
        directory.mkdir(MODE)
    except FileExistsError:
        pass
    except OSError as error:
        raise UnsafePlace(f"the directory {directory} for the control socket cannot be made: {error.strerror}") from error
    check_directory(directory, uid)


def check_directory(directory: Path, uid: int) -> None:
    """Refuse a directory in which somebody else could have put the socket.

    :raises UnsafePlace: it is missing, a link, no directory, somebody else's, or open to others.
    """
    try:
        found = os.lstat(directory)
    except OSError as error:
        raise UnsafePlace(f"the directory {directory} of the control socket cannot be looked at: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no directory"
        raise UnsafePlace(f"{directory} is {kind}; wanted a directory of mode 0700, remove it or use --socket")
    if found.st_uid != uid:
        raise UnsafePlace(
            f"the directory {directory} belongs to user {found.st_uid}, wanted {uid}; use --socket with a directory of your own"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise UnsafePlace(
            f"the directory {directory} has mode {stat.S_IMODE(found.st_mode):04o}, wanted 0700; if you made it so, run: chmod 700 {directory}"
        )


def sockets_in(directory: Path) -> tuple[Path, ...]:
    """Return the control sockets in ``directory``, alive or not, sorted; none when there is no such directory."""
    try:
        return tuple(sorted(path for path in directory.iterdir() if path.suffix == ".sock" and path.is_socket()))
    except OSError:  # not there, or not ours to read: then there is no socket of ours in it
        return ()
