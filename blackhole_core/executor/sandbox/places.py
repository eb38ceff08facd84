"""Which files a worker may reach: those that any Python program needs, those of its own, and those it was granted. In the host.

A granted path is resolved here, once, and what it leads to now is what the worker gets: nobody follows a link later. Where a plugin itself may have put links, below a directory that
it can write, a path that leads out of there is refused.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from blackhole_core.executor.sandbox.imageroot import ImageRoot
from blackhole_core.executor.wire.policy import Place
from blackhole_core.manifest import permissions

__all__ = ["AUTHORITIES", "Granted", "UnsafePath", "interpreter_places", "is_in", "places_of", "simplify", "spelled"]

#: Where shared libraries lie, and what the dynamic loader, the C library and OpenSSL read when a program starts.
_SYSTEM: Final = (
    *("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib"),
    *("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/usr/share/locale", "/etc/ssl/openssl.cnf"),
)
#: Prefixes that hold more than an interpreter: of these only the libraries above, and what is on the import path.
_SHARED_PREFIXES: Final = frozenset({"/", "/usr", "/usr/local"})
#: The dynamic loaders: the kernel executes one with every program that is not linked statically.
_LOADERS: Final = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1", "/lib/ld-musl-aarch64.so.1")
#: What the coarse word ``system`` lets execute.
_PROGRAMS: Final = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/libexec", "/usr/lib")
#: Areas of the vocabulary that let execute programs.
_EXECUTING: Final = frozenset({"process", "system"})
#: Where distributions keep the certificates of public authorities, for who may use the network: TLS is the plugin's own.
AUTHORITIES: Final = (
    *("/etc/ssl/certs", "/etc/ssl/cert.pem", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"),
    *("/etc/pki/tls/certs", "/etc/pki/tls/cert.pem", "/etc/pki/ca-trust/extracted"),
)
#: What a worker has of its own in its root directory, which the host's own would hide if it were a place.
_OWN: Final = frozenset({"dev", "proc"})
#: The devices behind ``device:*``, as patterns of names below /dev.
_DEVICES: Final[Mapping[str, tuple[str, ...]]] = {
    "gpu": ("dri", "kfd", "nvidia*"),
    "kvm": ("kvm",),
    "audio": ("snd",),
}


class UnsafePath(Exception):
    """A granted path leads somewhere else than it says; the message is a sentence."""


@attrs.frozen
class Granted:
    """What a plugin may reach beside what every program needs. ``own`` maps ``${data}`` and its like to directories; ``image`` is where its programs are, None: here."""

    permissions: Sequence[permissions.Permission]
    own: Mapping[str, Path]
    image: ImageRoot | None = None

    @property
    def programs(self) -> bool:
        """Whether it may execute any."""
        return any(granted.area in _EXECUTING for granted in self.permissions)


def interpreter_places(import_path: Iterable[str]) -> Iterator[Place]:
    """Return what an interpreter with this import path needs to run."""
    for path in (*_SYSTEM, *_prefixes(), sys.executable, *import_path):
        yield from spelled(path)


def _prefixes() -> Iterator[str]:
    home = os.path.realpath(os.path.expanduser("~"))  # noqa: PTH111 - pathlib raises where there is none
    for prefix in dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)):
        real = os.path.realpath(prefix)
        if real in _SHARED_PREFIXES or Path(home).is_relative_to(real):
            yield from (os.path.join(prefix, name) for name in ("lib", "lib64"))  # noqa: PTH118 - spelled as it is
        else:
            yield prefix


def places_of(granted: Granted) -> Iterator[Place]:
    """Return what the plugin was granted.

    :raises UnsafePath: a path leads out of a directory that the plugin can write, or would hide the image.
    """
    writable = [path for path, write in _paths(granted) if write]
    for path, write in _paths(granted):
        _refuse_escape(path, writable)
        yield from _with_parts(path, write, granted.image)
    for program in (*_programs(granted), *(_LOADERS if granted.programs else ())):
        _refuse_escape(program, writable)
        yield from spelled(program, execute=True) if granted.image is None else granted.image.program(program)
    if granted.image is None and any(permission.area == "network" for permission in granted.permissions):
        for path in AUTHORITIES:
            yield from spelled(path)
    for permission in granted.permissions:
        if permission.area == "device":
            for pattern in _DEVICES[permission.action]:
                for device in Path("/dev").glob(pattern):
                    yield from spelled(str(device), device=True)


def _paths(granted: Granted) -> Iterator[tuple[str, bool]]:
    """Return every granted file and directory, and whether it may be written."""
    for root, directory in granted.own.items():
        yield str(directory), root in ("${data}", "${cache}")
    for permission in granted.permissions:
        value = permission.value
        if isinstance(value, permissions.Place):
            path = _locate(value, granted.own)
            if path is not None:
                yield path, permission.action == "write"
        elif permission.area == "filesystem":
            yield "/", False


def _programs(granted: Granted) -> Iterator[str]:
    """Return every granted program, and directory of programs."""
    for permission in granted.permissions:
        value = permission.value
        if permission.area in _EXECUTING and not isinstance(value, permissions.Place):
            named = value.name if isinstance(value, permissions.Exact) else None
            yield from (named,) if named is not None else _PROGRAMS


def _with_parts(path: str, write: bool, image: ImageRoot | None) -> Iterator[Place]:
    """Return ``path``; for the root directory what is in it and no worker has of its own.

    :raises UnsafePath: it is the root directory, and an image is there.
    """
    whole = os.path.abspath(path) == "/"  # noqa: PTH100 - Path.absolute keeps ".."
    if whole and image is not None:
        raise UnsafePath("all files of this machine would hide those of its image; grant what it needs of them, or run it without an image")
    for part in [str(top) for top in Path("/").iterdir() if top.name not in _OWN] if whole else [path]:
        yield from spelled(part, write=write)


def _locate(place: permissions.Place, own: Mapping[str, Path]) -> str | None:
    if not place.root:
        return str(place)
    root = own.get(place.root)
    return None if root is None else str(root.joinpath(*place.parts))


def _refuse_escape(path: str, writable: Sequence[str]) -> None:
    real = Path(os.path.realpath(path))
    for directory in writable:
        inside = os.path.realpath(directory)
        if Path(path).is_relative_to(directory) and not real.is_relative_to(inside):
            raise UnsafePath(
                f"{path} leads to {real}, out of {directory}, which the plugin can write; remove the link, or grant {real} itself"
            )


def spelled(path: str, *, write: bool = False, execute: bool = False, device: bool = False) -> Iterator[Place]:
    """Return ``path`` as it is spelled and as it really is; nothing where there is nothing."""
    given, real = os.path.abspath(path), os.path.realpath(path)  # noqa: PTH100 - Path.absolute keeps ".."
    if "\0" in path or not os.path.exists(real):  # noqa: PTH110 - of a path that pathlib need not parse
        return
    for target in dict.fromkeys((given, real)):
        yield Place(os.fsencode(real), os.fsencode(target), write, execute, device)


def simplify(places: Iterable[Place]) -> tuple[Place, ...]:
    """Return the places without those that lie in another one with the same rights, and each place once, with all rights that it has in one of its entries."""
    merged: dict[tuple[bytes, bytes], Place] = {}
    for place in places:
        key = (place.source, place.target)
        merged[key] = _join(merged[key], place) if key in merged else place
    kept: dict[bytes, Place] = {}
    for place in sorted(merged.values(), key=lambda place: place.target.count(b"/") if place.target != b"/" else 0):
        if not any(_covers(outer, place) for outer in kept.values()):
            kept[place.target] = place
    return tuple(kept.values())


def is_in(path: bytes, directory: bytes) -> bool:
    """Whether ``path`` is ``directory`` or lies in it, by its spelling."""
    return _relative(path, directory) is not None


def _join(one: Place, other: Place) -> Place:
    return Place(one.source, one.target, one.write or other.write, one.execute or other.execute, one.device or other.device)


def _covers(outer: Place, inner: Place) -> bool:
    if (inner.write, inner.execute, inner.device) != (outer.write, outer.execute, outer.device):
        return False
    below = _relative(inner.target, outer.target)
    return below is not None and below == _relative(inner.source, outer.source)


@functools.lru_cache(maxsize=1024)  # the same few, at every start
def _relative(path: bytes, directory: bytes) -> bytes | None:
    prefix = directory.rstrip(b"/") + b"/"
    if path == directory:
        return b""
    return path[len(prefix) :] if path.startswith(prefix) else None
