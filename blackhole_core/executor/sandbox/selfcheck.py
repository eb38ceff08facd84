"""Find out whether the walls hold, by trying what they deny. In the worker, after they were built and before any plugin code is in reach.

Nothing tried here does harm where it succeeds. A number that a kernel reports is no evidence: some report a Landlock they do not have.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

from blackhole_core.executor.sandbox.capabilities import held
from blackhole_core.executor.sandbox.kernel import call, prctl
from blackhole_core.executor.wire.policy import Layer, Policy, Wall

__all__ = ["find_open"]

_PR_GET_NO_NEW_PRIVS: Final = 39
# ``socket(2)``; the module ``socket`` would take 3 ms to import, as much as everything here.
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM, _RAW = 1, 2, 3
#: Families and kinds of sockets to try: the internet, files, the kernel's own, raw packets.
_SOCKETS: Final = (
    ("AF_INET", _AF_INET, _STREAM),
    ("AF_INET6", _AF_INET6, _DATAGRAM),
    ("AF_UNIX", _AF_UNIX, _STREAM),
    ("AF_NETLINK", _AF_NETLINK, _RAW),
)
#: What a call answers that is denied, or whose object cannot be seen.
_DENIED: Final = frozenset({errno.EPERM, errno.EACCES, errno.ENOENT, errno.EROFS, errno.ESRCH, errno.ENOTDIR})
_CLONE_NEWUSER: Final = 0x1000_0000
#: An address with nothing at it, and room for one byte.
_PEEK_DATA: Final = 2


def find_open(policy: Policy, layers: dict[str, str]) -> dict[str, str]:
    """Return each wall that does not hold, with what could be done. ``layers`` are those that were built: empty where they hold."""
    checks: dict[Wall, Callable[[], str]] = {
        Wall.FILES: lambda: _files(policy),
        Wall.NETWORK: lambda: _network(layers),
        Wall.PROGRAMS: lambda: "" if policy.programs else _programs(),
        Wall.PROCESSES: lambda: _processes(policy, layers),
        Wall.PRIVILEGES: _privileges,
    }
    return {wall: found for wall, check in checks.items() if (found := check())}


def _files(policy: Policy) -> str:
    for path, flags, what in ((policy.unreadable, os.O_RDONLY, "read"), (policy.unwritable, os.O_WRONLY, "write")):
        if path and not _is_denied(lambda path=path, flags=flags: os.close(os.open(path, flags | os.O_CLOEXEC))):  # type: ignore[misc]  # a default binds the loop's value
            return f"it can {what} {os.fsdecode(path)}"
    return ""


def _network(layers: dict[str, str]) -> str:
    if layers.get(Layer.NET) == "" and layers.get(Layer.MOUNT) == "":
        return ""  # sockets can be made, and there is nobody to reach: neither an interface nor a socket in a file system
    for name, family, kind in _SOCKETS:
        if not _is_denied(lambda family=family, kind=kind: os.close(call("socket", family, kind, 0))):  # type: ignore[misc]  # a default binds the loop's value
            return f"it can make sockets of family {name}"
    if not _is_denied(_make_datagram_pair):
        return "it can make datagram sockets, which send to any address"
    return ""


def _make_datagram_pair() -> None:
    pair = (ctypes.c_int * 2)()
    call("socketpair", _AF_UNIX, _DATAGRAM, 0, pair)
    for descriptor in pair:
        os.close(descriptor)


def _programs() -> str:
    try:
        os.execv(b"/blackhole-no-such-program", [b"none"])  # noqa: S606 - denied before it is looked for, or not there
    except OSError as error:
        return "" if error.errno in (errno.EACCES, errno.EPERM) else "it can execute programs"


def _processes(policy: Policy, layers: dict[str, str]) -> str:
    if not _is_denied(lambda: call("ptrace", _PEEK_DATA, policy.host, 0, 0), unless=errno.ESRCH):
        return "it can trace processes"
    if layers.get(Layer.PID) == "":
        return "" if os.getppid() == (1 if Layer.PID in policy.around else 0) else "it sees the process that started it"
    if not _is_denied(lambda: os.kill(policy.host, 0)):
        return "it can send signals to the host"
    host = f"/proc/{policy.host}/environ"
    return "" if _is_denied(lambda: os.close(os.open(host, os.O_RDONLY))) else f"it can read {host}"


def _privileges() -> str:
    if prctl(_PR_GET_NO_NEW_PRIVS) != 1:
        return "a program that it executes can have more rights than it"
    if held():
        return "it has capabilities"
    return "" if _is_denied(lambda: call("unshare", _CLONE_NEWUSER)) else "it can make a user namespace, and has every capability there"


def _is_denied(action: Callable[[], object], unless: int | None = None) -> bool:
    try:
        action()
    except OSError as error:
        return error.errno in _DENIED and error.errno != unless
    return False
