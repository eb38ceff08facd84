"""Where grants are kept: in memory, or in the file ``grants.json`` of the state directory, which belongs to the operator.

The file is whole at every moment, also after SIGKILL, a full disk or a power failure: a change is written beside it, flushed, and renamed over it. Changes of
several hosts and of the command line come one after another: each holds the lock on ``grants.lock`` from reading to renaming; the kernel frees it
when its holder dies. Who only reads takes no lock.

What is read is checked as if a stranger had written it: no links, nothing but a regular file that nobody else may write, a cap on its size, a closed
form. A file that is not as it should be grants nothing and is an error, never an empty list.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, TypeVar

import msgspec

from blackhole_core.errors import GrantsError
from blackhole_core.ids import NAME, canonical_name
from blackhole_core.lifecycle.grants import Grant, Grants, Withdrawal
from blackhole_core.manifest.permissions import canonical, permission_problem
from blackhole_core.state.disk import explain, make_directory, open_directory, write_all

__all__ = ["FileGrants", "GrantStore", "MemoryGrants", "decode", "encode"]

#: Bytes of the file: some 5,000 grants, more than anybody can have judged.
MAX_FILE: Final = 1024 * 1024
#: Seconds to wait for whoever is changing the file; a change takes milliseconds, on a slow disk a second.
LOCK_SECONDS: Final = 10.0
#: Seconds between two looks whether the lock is free; there is no way to wait for it with a deadline.
_LOOK: Final = 0.01
#: Steps of a change at which a test may stop, fail or kill it, in order.
POINTS: Final = ("locked", "written", "flushed", "renamed", "settled")

_FILE: Final = "grants.json"
_NEW: Final = "grants.json.new"
_LOCK: Final = "grants.lock"
_FORMAT: Final = 1

_T = TypeVar("_T")
Change = Callable[[Grants], tuple[Grants, _T]]


class GrantStore(Protocol):
    """Keeps grants. Both methods may be called from any thread."""

    def read(self) -> Grants:
        """Return what is granted now.

        :raises GrantsError: it cannot be told.
        """

    def change(self, change: Change[_T]) -> _T:
        """Replace what is granted by what ``change`` makes of it, and return what that says beside; nobody changes it meanwhile.

        :raises GrantsError: it could not be kept, and is as it was.
        """


class MemoryGrants:
    """Grants that live as long as their host."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held from reading to replacing
        self._grants = Grants()

    def read(self) -> Grants:
        return self._grants

    def change(self, change: Change[_T]) -> _T:
        with self._lock:
            self._grants, said = change(self._grants)
        return said


class FileGrants:
    """Grants in ``directory``, which is made when there is something to keep. ``reached`` is told each of :data:`POINTS`; it is there for tests."""

    def __init__(
        self, directory: Path, *, lock_seconds: float = LOCK_SECONDS, reached: Callable[[str], object] = lambda point: None
    ) -> None:
        self._directory = directory.absolute()
        self._lock_seconds = lock_seconds
        self._reached = reached

    @property
    def path(self) -> Path:
        return self._directory / _FILE

    def __repr__(self) -> str:
        return f"<FileGrants {self.path}>"

    def read(self) -> Grants:
        with self._sentence("read"):
            try:
                with open_directory(self._directory, follow=True) as directory:
                    return self._read(directory)
            except FileNotFoundError:
                return Grants()

    def change(self, change: Change[_T]) -> _T:
        with self._sentence("changed"):
            make_directory(self._directory)
            with open_directory(self._directory, follow=True) as directory, self._locked(directory):
                self._reached("locked")
                before = self._read(directory)
                after, said = change(before)
                if after != before:
                    self._write(directory, encode(after))
                return said

    # --- under the lock ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, directory: int) -> Iterator[None]:
        descriptor = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            deadline = time.monotonic() + self._lock_seconds
            while not _taken(descriptor):
                if time.monotonic() > deadline:
                    raise GrantsError(
                        f"the grants in {self.path} could not be changed: {self._directory / _LOCK} was held by another program "
                        f"for {self._lock_seconds:g} s; try again, or see who holds it with: lslocks"
                    )
                time.sleep(_LOOK)
            yield
        finally:
            os.close(descriptor)

    def _read(self, directory: int) -> Grants:
        try:
            # O_NONBLOCK: opening a pipe must not wait for somebody to write to it.
            descriptor = os.open(_FILE, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            return Grants()
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self._unusable("it is no regular file; remove it")
            if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o022:
                raise self._unusable(f"others may write it (user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 600")
            data = os.read(descriptor, MAX_FILE + 1)  # a regular file is read in one go
        finally:
            os.close(descriptor)
        try:
            return decode(data)
        except ValueError as problem:
            raise self._unusable(str(problem)) from None

    def _write(self, directory: int, data: bytes) -> None:
        if len(data) > MAX_FILE:
            raise GrantsError(
                f"the grants in {self.path} would have {len(data)} bytes, at most {MAX_FILE} are allowed; revoke what is not needed"
            )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_NEW, dir_fd=directory)  # left by somebody who died: the lock is ours
        descriptor = os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            try:
                write_all(descriptor, data)
                self._reached("written")
                os.fsync(descriptor)
                self._reached("flushed")
            finally:
                os.close(descriptor)
            os.rename(_NEW, _FILE, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_NEW, dir_fd=directory)
            raise
        self._reached("renamed")
        os.fsync(directory)
        self._reached("settled")

    # --- in words ----------------------------------------------------------------------------------------------------

    def _unusable(self, reason: str) -> GrantsError:
        return GrantsError(f"the grants in {self.path} cannot be used: {reason}; until it is mended nothing in it counts")

    @contextlib.contextmanager
    def _sentence(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._unusable(f"{error.filename} is a symbolic link; remove it") from error
            raise GrantsError(f"the grants in {self.path} could not be {done}: {explain(error)}") from error


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- the form of the file -----------------------------------------------------------------------------------------------


#: Seconds of the wall clock until the year 5138: what is beyond it was no clock.
_When = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
#: A digest as candidates have it: an algorithm's name and hexadecimal digits, with room for one to come.
_Digest = Annotated[str, msgspec.Meta(max_length=200)]


class _Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    plugin: str
    permission: str
    when: _When
    versions: str = ""
    digest: _Digest | None = None


class _Withdrawal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    plugin: str
    permission: str
    when: _When


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    grants: list[_Grant]
    withdrawn: list[_Withdrawal]


def encode(grants: Grants) -> bytes:
    """Return the text of the file, the same for the same grants."""
    plain = {
        "format": _FORMAT,
        "grants": [msgspec.structs.asdict(_Grant(one.plugin, one.permission, one.when, one.versions, one.digest)) for one in grants.grants],
        "withdrawn": [msgspec.structs.asdict(_Withdrawal(one.plugin, one.permission, one.when)) for one in grants.withdrawn],
    }
    return json.dumps(plain, indent=2).encode() + b"\n"


def decode(data: bytes) -> Grants:
    """Return what the file says.

    :raises ValueError: it is not such a file; the message says why.
    """
    if len(data) > MAX_FILE:
        raise ValueError(f"it has more than {MAX_FILE} bytes")
    try:
        plain = json.loads(data.decode("utf-8"), object_pairs_hook=_each_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    try:
        file = msgspec.convert(plain, _File)
    except msgspec.ValidationError as problem:
        raise ValueError(f"it is not in the form of such a file: {problem}") from None
    if file.format != _FORMAT:
        raise ValueError(f"it is of format {file.format}, this version reads format {_FORMAT}")
    return Grants(
        tuple(Grant(_name(one.plugin), _permission(one.permission), one.when, _range(one.versions), one.digest) for one in file.grants),
        tuple(Withdrawal(_name(one.plugin), _permission(one.permission), one.when) for one in file.withdrawn),
    )


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key stands in it twice")
    return members


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"{text[:100]!a} is not the name of a plugin")
    return canonical_name(text)


def _permission(text: str) -> str:
    problem = permission_problem(text)
    if problem is not None:
        raise ValueError(f"{text[:100]!a} is no permission{problem}")
    return canonical(text)


def _range(text: str) -> str:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        raise ValueError(f"{text[:100]!a} is no range of versions") from None
    return text
