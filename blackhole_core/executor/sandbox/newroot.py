"""A root of its own for a process in a new mount namespace: a small file system in memory with nothing in it but the allowed places.

What is not there cannot be opened, changed, connected to or asked about, whatever a path spells. Copies of the places' mounts are taken first, as descriptors; then the root is
changed; then they are put where they belong, so that symbolic links inside them lead to where the worker will see them lead. Every copy is made read-only (or not), without
set-user-id and device files, with everything mounted below, in one call (``mount_setattr(2)``, Linux 5.12).
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Sequence
from typing import Final, Self

from blackhole_core.executor.sandbox.kernel import call, open_exactly
from blackhole_core.executor.wire.policy import Place, Policy

__all__ = ["NoProc", "NoRoot", "build"]

# mount(2), mount_setattr(2), open_tree(2), move_mount(2), fsmount(2), umount2(2)
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x4000, 0x4_0000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _CLOEXEC = 1, os.O_CLOEXEC
_MOVE_FROM_EMPTY_PATH: Final = 4
_FSCONFIG_SET_STRING, _FSCONFIG_CREATE = 1, 6
_DETACH: Final = 2
#: Bytes of the root itself, which holds directories and links, and of ``/dev/shm``, where locks between a plugin's own processes lie.
_ROOT_SIZE, _SHARED_SIZE = 4 * 2**20, 64 * 2**20

#: Devices that every program expects, and what else it looks for in /dev.
_DEVICES: Final = (b"null", b"zero", b"full", b"random", b"urandom")
_DEVICE_LINKS: Final = ((b"fd", b"/proc/self/fd"), (b"stdin", b"fd/0"), (b"stdout", b"fd/1"), (b"stderr", b"fd/2"))


class NoRoot(Exception):
    """No root of its own can be had; says why. Nothing has changed."""


class NoProc(Exception):
    """No /proc of the pid namespace can be had; says why. Nothing has changed."""


def build(policy: Policy, *, own_pids: bool) -> tuple[Place, ...]:
    """Give this process the root that ``policy`` describes. Return everything that is in it, as places; working directory is the root.

    ``own_pids``: it is in a pid namespace of its own, which it then sees as /proc; there is none otherwise.

    :raises NoProc, NoRoot: see there.
    :raises OSError: it failed halfway; the process is of no use any more.
    """
    with contextlib.ExitStack() as opened:
        copies, proc = _gather(policy, own_pids, opened)
        _leave_old_root(next(place.source for place, copy in copies if copy.is_directory and place.source != b"/"))
        furnished = _furnish(policy, copies, proc)
        _set_attributes(_AT_FDCWD, b"/", _ATTR_RDONLY, 0)
        return furnished


def _gather(policy: Policy, own_pids: bool, opened: contextlib.ExitStack) -> tuple[list[tuple[Place, _Copy]], _Proc | None]:
    """Take what is to be in the new root."""
    devices = (Place(b"/dev/" + name, b"/dev/" + name, device=True) for name in _DEVICES)
    copies: list[tuple[Place, _Copy]] = []
    try:
        call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
        for place in (*policy.places, *devices):
            with contextlib.suppress(FileNotFoundError):  # it is gone, and so is what it was good for
                copies.append((place, opened.enter_context(_Copy(place))))
    except OSError as error:
        raise NoRoot(str(error)) from None
    try:
        return copies, opened.enter_context(_Proc()) if own_pids else None
    except OSError as error:
        raise NoProc(str(error)) from None


def _leave_old_root(cover: bytes) -> None:
    """Change to an empty root, which is made over the directory ``cover``. That is not the old root itself: no path leads to what is mounted over it."""
    try:
        _mount_memory(cover, _ROOT_SIZE, 0o755)
        try:
            os.chdir(cover)
            call("pivot_root", b".", b".")
        except OSError:
            call("umount2", cover, _DETACH)
            raise
    except OSError as error:
        raise NoRoot(str(error)) from None
    call("umount2", b".", _DETACH)  # the old one, which is on top now
    os.chdir(b"/")


def _furnish(policy: Policy, copies: Sequence[tuple[Place, _Copy]], proc: _Proc | None) -> tuple[Place, ...]:
    own: list[Place] = []
    for path, size, mode in (
        (b"/dev", _ROOT_SIZE, 0o755),
        (b"/dev/shm", _SHARED_SIZE, 0o1777),
        (policy.temporary, policy.temporary_size, 0o1777),
    ):
        if size:
            _make_directory(path)
            _mount_memory(path, size, mode)
            own.append(Place(path, path, write=path != b"/dev"))
    for place, copy in sorted(copies, key=lambda pair: pair[0].target.count(b"/")):  # what lies in another one comes after it
        copy.put(place.target)
    if proc is not None:
        _make_directory(b"/proc")
        proc.put(b"/proc")
        own.append(Place(b"/proc", b"/proc"))
        for name, target in _DEVICE_LINKS:
            os.symlink(target, b"/dev/" + name)  # noqa: PTH211 - likewise
    _set_attributes(_AT_FDCWD, b"/dev", _ATTR_RDONLY, 0)
    return (*own, *(place for place, _ in copies))


class _Detached:
    """A mount that is nowhere yet."""

    descriptor: int
    is_directory = True

    def put(self, target: bytes) -> None:
        """Mount it at ``target``, which is made if need be."""
        if self.is_directory:
            _make_directory(target)
        else:
            _make_file(target)
        call("move_mount", self.descriptor, b"", _AT_FDCWD, target, _MOVE_FROM_EMPTY_PATH)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


class _Copy(_Detached):
    """The mounts at and below a place, once more, with only the rights that the place has."""

    def __init__(self, place: Place) -> None:
        found = open_exactly(place.source)
        try:
            self.descriptor = call("open_tree", found, b"", _OPEN_TREE_CLONE | _CLOEXEC | _AT_RECURSIVE | _AT_EMPTY_PATH)
        finally:
            os.close(found)
        try:
            self.is_directory = stat.S_ISDIR(os.fstat(self.descriptor).st_mode)
            read_only = 0 if place.write or place.device else _ATTR_RDONLY
            _set_attributes(
                self.descriptor, b"", read_only | _ATTR_NOSUID | (0 if place.device else _ATTR_NODEV), _AT_EMPTY_PATH | _AT_RECURSIVE
            )
        except BaseException:
            os.close(self.descriptor)
            raise


class _Proc(_Detached):
    """A /proc of the pid namespace that has nothing in it but processes. It is made before the old one is gone: without one in sight the kernel refuses."""

    def __init__(self) -> None:
        context = call("fsopen", b"proc", 1)
        try:
            call("fsconfig", context, _FSCONFIG_SET_STRING, b"subset", b"pid", 0)
            call("fsconfig", context, _FSCONFIG_CREATE, None, None, 0)
            # Read-only: files below /proc/sys belong to user 0 of the machine, and ask who writes for nothing else.
            self.descriptor = call("fsmount", context, 1, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV | _ATTR_NOEXEC)
        finally:
            os.close(context)


def _mount_memory(path: bytes, size: int, mode: int) -> None:
    call("mount", b"tmpfs", path, b"tmpfs", _MS_NOSUID | _MS_NODEV, b"size=%d,mode=%o" % (size, mode))


def _set_attributes(descriptor: int, path: bytes, attributes: int, flags: int) -> None:
    what = struct.pack("=4Q", attributes, 0, 0, 0)
    call("mount_setattr", descriptor, path, flags, what, len(what))


def _make_directory(path: bytes) -> None:
    os.makedirs(path, 0o755, exist_ok=True)  # noqa: PTH103 - paths are bytes


def _make_file(path: bytes) -> None:
    _make_directory(os.path.dirname(path))  # noqa: PTH120 - likewise
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444))
