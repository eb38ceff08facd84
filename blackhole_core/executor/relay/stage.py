"""Networking as a plugin in a worker sees it: ``socket`` and what is built on it, over the relay of the host.

In a worker behind walls the kernel refuses every socket but local pairs, so ``socket.socket`` is replaced, before any plugin code is in reach, by one that is
the end of such a pair. ``http.client``, ``urllib``, ``ssl``, ``asyncio`` and libraries over them work with it as they are. What calls the operating system itself (libcurl, gRPC,
libpq, uvloop) gets the kernel's answer: permission denied.

Nothing here guards anything. A plugin that undoes it is left with what the kernel allows, and the host judges each request.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import socket
import weakref
from collections.abc import Callable
from typing import Any, Final, NoReturn

import attrs

from blackhole_core.executor.relay.link import Link, Plain
from blackhole_core.executor.relay.names import Names

__all__ = ["RelaySocket", "install"]

_logger: Final = logging.getLogger("blackhole.network")
_INET: Final = (socket.AF_INET, socket.AF_INET6)
#: Levels of options that are of TCP and IP, which a local stream does not have. The host sets TCP_NODELAY.
_IGNORED_LEVELS: Final = (socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_TCP)
_KIND: Final = ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
#: What a program binds to that does not care.
_ANY: Final = ("", "0.0.0.0", "::")  # noqa: S104  (compared with)


@attrs.frozen(eq=False)
class _Way:
    """The way of this worker to the relay. ``links`` finds the connection of a descriptor by the inode of its pair's end, which no copy changes."""

    control: socket.socket
    names: Names
    links: weakref.WeakValueDictionary[int, Link] = attrs.field(factory=weakref.WeakValueDictionary)


_ways: Final[list[_Way]] = []  # none before install(), then one


class RelaySocket(socket.socket):
    """``socket.socket`` in a worker. Streams of the internet go over the relay; every other kind is the kernel's matter, which refuses all but local pairs."""

    __slots__ = ("_link",)
    _link: Link | None

    def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:  # noqa: A002  (its name there)
        if fileno is not None:
            super().__init__(family, type, proto, fileno)
            self._link = _ways[0].links.get(os.fstat(fileno).st_ino)
        elif family in (-1, *_INET):
            self._make(socket.AF_INET if family == -1 else family, socket.SOCK_STREAM if type == -1 else type, max(proto, 0))
        else:
            self._link = None
            super().__init__(family, type, proto)

    def _make(self, family: int, kind: int, proto: int) -> None:
        self._link = None
        if kind & _KIND != socket.SOCK_STREAM or proto not in (0, socket.IPPROTO_TCP):
            _deny("only TCP connections are passed on by the host, no other sockets")
        link = Link(_ways[0].control)
        descriptor = link.pair()
        super().__init__(family, kind, proto, descriptor)
        _ways[0].links[os.fstat(descriptor).st_ino] = link
        self._link = link
        if kind & socket.SOCK_NONBLOCK:
            self.setblocking(False)

    # --- connecting --------------------------------------------------------------------------------------------------

    def connect(self, address: Any, /) -> None:
        link = self._link
        if link is None:
            super().connect(address)
            return
        if not isinstance(address, tuple) or len(address) < 2:
            raise TypeError(f"connect(): an address is a tuple (host, port), got {address!r}")
        names = _ways[0].names
        [(_, _, _, _, peer)] = names.getaddrinfo(address[0], address[1], self.family)
        link.connect(self, names.host(peer[0]), peer)

    def connect_ex(self, address: Any, /) -> int:
        try:
            self.connect(address)
        except TimeoutError:
            return errno.EAGAIN
        except socket.gaierror:
            raise
        except OSError as error:
            if error.errno is None:
                raise
            return error.errno
        return 0

    def bind(self, address: Any, /) -> None:
        if self._link is None:
            super().bind(address)
        elif not isinstance(address, tuple) or address[0] not in _ANY or address[1] != 0:
            _deny(f"a plugin behind walls cannot take the address {address!r}: the relay makes connections, and takes none")

    def listen(self, backlog: int = 0, /) -> None:
        if self._link is not None:
            _deny("a plugin behind walls cannot listen: the relay makes connections, and takes none")
        super().listen(backlog)

    # --- what it says of itself --------------------------------------------------------------------------------------

    def getpeername(self) -> Any:
        link = self._link
        if link is None:
            return super().getpeername()
        if not link.connected:
            try:
                link.settle(self)
            except OSError:  # no connection yet, or never
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)) from None
        return link.peer

    def getsockname(self) -> Any:
        if self._link is None:
            return super().getsockname()
        return ("0.0.0.0", 0) if self.family == socket.AF_INET else ("::", 0, 0, 0)  # noqa: S104  (not known here)

    def getsockopt(self, level: int, option: int, *rest: int) -> Any:
        link = self._link
        if link is None:
            return super().getsockopt(level, option, *rest)
        if level in _IGNORED_LEVELS:
            if rest:
                raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
            return link.options.get((level, option), 0)
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR) and not link.connected:
            number, sentence = link.error_number(self)
            if sentence:
                _logger.warning("%s", sentence)  # the program gets a number, and says what it will
            return number
        return super().getsockopt(level, option, *rest)

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        if self._link is None or level not in _IGNORED_LEVELS:
            super().setsockopt(level, option, *value)
        elif isinstance(value[0], int):
            self._link.options[level, option] = value[0]


def _deny(sentence: str) -> NoReturn:
    raise PermissionError(errno.EACCES, sentence)


def _after_answer(name: str) -> Callable[..., Any]:
    """Return the method ``name`` for a socket whose connection may still be in the making: the host's answer comes before the first byte."""
    plain = getattr(Plain, name)

    @functools.wraps(plain)
    def method(self: RelaySocket, /, *args: Any, **kwargs: Any) -> Any:
        link = self._link
        if link is not None and not link.connected:
            link.settle(self)
        return plain(self, *args, **kwargs)

    return method


for _name in (
    *("recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into"),
    *("send", "sendall", "sendmsg", "sendfile", "shutdown"),
):
    setattr(RelaySocket, _name, _after_answer(_name))


def install(descriptor: int) -> None:
    """Replace what module ``socket`` offers by what goes over the relay socket ``descriptor``. Once, before plugin code, and before module ``ssl`` is imported."""
    names = Names()
    _ways.append(_Way(Plain(fileno=descriptor), names))
    for name, value in {
        "socket": RelaySocket,
        "getaddrinfo": names.getaddrinfo,
        "gethostbyname": names.gethostbyname,
        "gethostbyname_ex": names.gethostbyname_ex,
        "gethostbyaddr": names.gethostbyaddr,
        "getnameinfo": names.getnameinfo,
    }.items():
        setattr(socket, name, value)
