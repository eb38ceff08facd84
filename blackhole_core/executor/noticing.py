"""What an audit event (PEP 578) says a plugin does, as permissions, and whether it has them. Pure but for the working directory.

Much raises no event (``os.stat``, reading a variable, files that a C library opens, what another process does), and code in this interpreter can go around
all of it. This is for finding mistakes and declaring what is missing, not for keeping anybody from anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from blackhole_core.manifest.addresses import Address, parse_address
from blackhole_core.manifest.coverage import covers, parts
from blackhole_core.manifest.permissions import Exact, Level, Permission, Place, level_of

__all__ = ["EVENTS", "wanted_by", "without_permission"]

#: Devices that every program opens and that hold nothing.
_HARMLESS: Final = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Permissions = tuple[Permission, ...]


def wanted_by(event: str, args: Sequence[Any]) -> Permissions:
    """Return what the operation behind an event takes; nothing for one that is not looked at."""
    read = EVENTS.get(event)
    return read(*args) if read is not None else ()


def without_permission(wanted: Iterable[Permission], effective: Iterable[Permission], own: Iterable[str]) -> Permissions:
    """Return those of ``wanted`` that ``effective`` does not allow. Below the directories in ``own`` everything may be read."""
    have, places = tuple(effective), [_place(path) for path in own]
    return tuple(one for one in wanted if not _allowed(one, have, places))


def _allowed(wanted: Permission, have: Permissions, own: Sequence[Place]) -> bool:
    if level_of(wanted) is Level.NORMAL or any(covers(one, wanted) for one in have):
        return True
    if wanted.area == "filesystem":
        return wanted.action == "read" and any(isinstance(wanted.value, Place) and place.covers(wanted.value) for place in own)
    # A name that is allowed is resolved by the plugin itself, which then connects to an address that nobody named.
    if wanted.area != "network" or not isinstance(wanted.value, Address) or wanted.value.network is None:
        return False
    if not covers(Permission("network"), wanted):
        return False
    names = (part.value for one in have for part in parts(one) if part.area == "network")
    return any(isinstance(name, Address) and name.network is None and name.port in (None, wanted.value.port) for name in names)


# --- events -------------------------------------------------------------------------------------------------------------


def _place(path: str) -> Place:
    """Return the place that ``path`` names from here, dots and slashes taken out of it; links in it are not followed."""
    return Place("", tuple(part for part in os.path.abspath(path).split("/") if part))  # noqa: PTH100 - resolve() would follow links


def _at(path: Any, action: str) -> Permissions:
    if path is None:
        path = "."
    if isinstance(path, int):
        return ()  # a descriptor that is open already
    text = os.fsdecode(path)
    return () if text in _HARMLESS else (Permission("filesystem", action, _place(text)),)


def _open(path: Any, mode: str | None, flags: int, *_: Any) -> Permissions:
    writes = flags & _WRITING if mode is None else any(letter in mode for letter in "wax+")
    return _at(path, "write" if writes else "read")


def _read(path: Any = None, *_: Any) -> Permissions:
    return _at(path, "read")


def _write(path: Any = None, *_: Any) -> Permissions:
    return _at(path, "write")


def _write_both(source: Any, target: Any, *_: Any) -> Permissions:
    return _at(source, "write") + _at(target, "write")


def _link(_: Any, target: Any, *__: Any) -> Permissions:
    return _at(target, "write")


def _connect(_: Any, address: Any) -> Permissions:
    if isinstance(address, str | bytes):  # a Unix socket; a leading zero byte marks a name that is no file
        text = os.fsdecode(address)
        return _at(text, "write") if text and text[0] != "\0" else ()
    return _network("connect", address[0], address[1]) if isinstance(address, tuple) and len(address) >= 2 else ()


def _bind(_: Any, address: Any) -> Permissions:
    return _network("listen", address[0], address[1]) if isinstance(address, tuple) and len(address) >= 2 else ()


def _look_up(host: Any, port: Any, *_: Any) -> Permissions:
    return () if host is None else _network("connect", host, port)


def _network(action: str, host: Any, port: Any) -> Permissions:
    text = os.fsdecode(host).partition("%")[0] or "0.0.0.0"  # noqa: S104 - what an empty host means
    try:
        address = parse_address(f"[{text}]" if ":" in text else text)
    except ValueError:
        return ()  # nothing that could be reached
    number = port if isinstance(port, int) and port > 0 else None
    return (Permission("network", action, Address(address.name, network=address.network, port=number)),)


def _execute(program: Any, *_: Any) -> Permissions:
    return (Permission("process", "exec", Exact(os.fsdecode(program))),) if isinstance(program, str | bytes | os.PathLike) else ()


def _system(*_: Any) -> Permissions:
    return (Permission("process", "exec", Exact("/bin/sh")),)


def _spawn(_: Any, program: Any, *__: Any) -> Permissions:
    return _execute(program)


EVENTS: Final[Mapping[str, Callable[..., Permissions]]] = {
    "open": _open,
    **dict.fromkeys(("os.listdir", "os.scandir"), _read),
    **dict.fromkeys(("os.chmod", "os.chown", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime"), _write),
    "os.rename": _write_both,
    **dict.fromkeys(("os.link", "os.symlink"), _link),
    **dict.fromkeys(("socket.connect", "socket.sendto"), _connect),
    "socket.bind": _bind,
    **dict.fromkeys(("socket.getaddrinfo", "socket.gethostbyname"), lambda host, port=None, *rest: _look_up(host, port, *rest)),
    **dict.fromkeys(("subprocess.Popen", "os.exec", "os.posix_spawn"), _execute),
    "os.spawn": _spawn,
    "os.system": _system,
}
