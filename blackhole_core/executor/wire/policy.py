"""What walls a worker is to build around itself, and what came of it: two values that cross. Pure.

A *layer* is a means of the kernel (Landlock, seccomp, a mount namespace). A *wall* is what is promised by them: that files, the network, programs, other
processes, and privileges are out of reach. A wall may be held by several layers; a missing layer is no matter as long as every wall holds.
"""

from __future__ import annotations

import enum

import msgspec

__all__ = ["NAMESPACES", "Layer", "Place", "Policy", "Wall", "WallReport"]


class Layer(enum.StrEnum):
    """A means of the kernel."""

    USER = "user namespace"
    PID = "pid namespace"
    MOUNT = "mount namespace"  #: with a root of its own that has nothing in it but the places of the policy
    NET = "network namespace"
    IPC = "ipc namespace"
    UTS = "uts namespace"
    PROC = "private /proc"
    CAPABILITIES = "no capabilities"
    NO_NEW_PRIVS = "no new privileges"
    LANDLOCK = "Landlock"
    SCOPE = "Landlock scope"  #: no signals and abstract sockets to whom is outside
    SECCOMP = "seccomp"


#: The layers that are namespaces.
NAMESPACES = (Layer.USER, Layer.PID, Layer.MOUNT, Layer.NET, Layer.IPC, Layer.UTS)


class Wall(enum.StrEnum):
    """Something that is promised to be out of a plugin's reach, but for what it was granted."""

    FILES = "files"
    NETWORK = "network"  #: sockets of every family, those in the file system among them
    PROGRAMS = "programs"  #: executing any
    PROCESSES = "processes"  #: memory, environment and signals of every process that is not its own
    PRIVILEGES = "privileges"  #: capabilities, set-user-id programs, namespaces


class Place(msgspec.Struct, array_like=True, frozen=True):
    """A file or directory that a worker may reach, with everything below. Paths are absolute; ``source`` has no symbolic link in it."""

    source: bytes
    target: bytes  #: where the worker finds it; what of the host's own spelling differs is a symbolic link there
    write: bool = False
    execute: bool = False
    device: bool = False


class Policy(msgspec.Struct, array_like=True, frozen=True):
    """The walls of one worker. ``host`` is the process id of the host in its own eyes."""

    places: tuple[Place, ...]
    layers: tuple[str, ...]  #: those to build, :class:`Layer`
    required: tuple[str, ...]  #: those without which no plugin code may run, :class:`Wall`
    host: int
    programs: bool = False  #: whether programs may be executed: those of the places with ``execute``, and what they load
    temporary: bytes = b"/tmp"
    temporary_size: int = 0  #: bytes of a file system of its own at ``temporary``, 0 when that is one of the places
    home: bytes = b"/"
    unreadable: bytes = b""  #: a file that the host can read and the worker must not, to find out whether that is so; empty: there is none
    unwritable: bytes = b""  #: likewise one that it must not write
    around: tuple[str, ...] = ()  #: layers that whoever brought the worker up has built around it: a container's
    limits: tuple[tuple[int, int, int], ...] = ()  #: (resource, soft, hard) as ``setrlimit(2)`` takes them


class WallReport(msgspec.Struct, array_like=True, frozen=True):
    """What a worker built and what it found out by trying. Written before any plugin code is in reach."""

    layers: dict[str, str] = {}  #: each that was to be built: empty when it holds, else why not
    open: dict[str, str] = {}  #: each wall that does not hold, and what could be done through it
