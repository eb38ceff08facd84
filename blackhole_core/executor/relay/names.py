"""Names and addresses in a worker that cannot look anything up: the host does, when it connects.

A name gets an address that stands for it, so that programs which look up first and connect then do what they always do. Those addresses are of 240.0.0.0/4 and
100::/64, which nobody has (RFC 1112, RFC 6666); none is given twice. What connects to one names the host to the relay.
"""

from __future__ import annotations

import collections
import ipaddress
import itertools
import socket
import threading
from typing import Any, Final, TypeAlias

__all__ = ["Names", "Resolved"]

#: Names that are remembered: more than a program has in use at once. One that was looked up longer ago must be looked up again.
_REMEMBERED: Final = 65_536
_FOUR: Final = int(ipaddress.IPv4Address("240.0.0.0"))
_SIX: Final = int(ipaddress.IPv6Address("100::"))
#: Addresses there are of the first kind; the other has more.
_ADDRESSES: Final = 2**28 - 2
#: Ports of what programs write as words, should there be no /etc/services in reach.
_SERVICES: Final = {"http": 80, "https": 443, "ftp": 21, "ssh": 22, "smtp": 25, "domain": 53, "imaps": 993, "postgresql": 5432}

#: What ``socket.getaddrinfo`` answers with: family, type, protocol, canonical name, address.
Resolved: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


class Names:
    """The names of one worker, each with the number of the address that stands for it. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._number_of: collections.OrderedDict[str, int] = collections.OrderedDict()
        self._name_of: dict[int, str] = {}

    # --- addresses ---------------------------------------------------------------------------------------------------

    def address(self, name: str, family: int = socket.AF_INET) -> str:
        """Return the address that stands for ``name``."""
        with self._lock:
            number = self._number_of.get(name)
            if number is None:
                number = self._add(name)
            self._number_of.move_to_end(name)
        return str(ipaddress.IPv6Address(_SIX + number) if family == socket.AF_INET6 else ipaddress.IPv4Address(_FOUR + number))

    def _add(self, name: str) -> int:
        number = next(self._numbers)
        if number > _ADDRESSES:
            raise socket.gaierror(socket.EAI_MEMORY, "all addresses that stand for names are used up")
        self._number_of[name] = number
        self._name_of[number] = name
        if len(self._number_of) > _REMEMBERED:
            _, oldest = self._number_of.popitem(last=False)
            del self._name_of[oldest]
        return number

    def name(self, address: str) -> str | None:
        """Return the name that ``address`` stands for, None when it is an address of its own.

        :raises socket.gaierror: it stood for a name that is forgotten.
        """
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return None
        number = int(parsed) - (_FOUR if parsed.version == 4 else _SIX)
        if not 0 <= number < _ADDRESSES + 2:
            return None
        with self._lock:
            name = self._name_of.get(number)
        if name is None:
            raise socket.gaierror(socket.EAI_NONAME, f"{address} stands for no name that was looked up lately: look the name up again")
        return name

    def host(self, host: str | bytes | bytearray) -> str:
        """Return what the relay is to connect to for what a program names: the name itself, or an address.

        :raises socket.gaierror: it cannot be a name.
        """
        text = _spelled(host)
        return self.name(text) or text

    # --- what module socket offers -----------------------------------------------------------------------------------

    def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002  (its name in module socket)
        proto: int = 0,
        flags: int = 0,
    ) -> list[Resolved]:
        """Do ``socket.getaddrinfo``: always one answer, for streams."""
        if type not in (0, socket.SOCK_STREAM) or proto not in (0, socket.IPPROTO_TCP):
            raise socket.gaierror(socket.EAI_SOCKTYPE, "only TCP connections are passed on by the host, no other sockets")
        number = _port(port)
        text = _default_host(family, flags) if host is None else _spelled(host)
        literal = _literal(text)
        if literal is None:
            if flags & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, f"{text} is no address")
            literal = _literal(self.address(text.rstrip("."), family))
            assert literal is not None, "what stands for a name is an address"
        found, address = literal
        if family not in (0, found):
            raise socket.gaierror(socket.EAI_ADDRFAMILY, f"{text} is no address of that family")
        sockaddr = (address, number) if found is socket.AF_INET else (address, number, 0, 0)
        return [(found, socket.SOCK_STREAM, socket.IPPROTO_TCP, text if flags & socket.AI_CANONNAME else "", sockaddr)]

    def gethostbyname(self, hostname: str) -> str:
        return str(self.getaddrinfo(hostname or None, 0, socket.AF_INET, flags=0 if hostname else socket.AI_PASSIVE)[0][4][0])

    def gethostbyname_ex(self, hostname: str) -> tuple[str, list[str], list[str]]:
        return hostname, [], [self.gethostbyname(hostname)]

    def gethostbyaddr(self, ip_address: str) -> tuple[str, list[str], list[str]]:
        """Know the names that were looked up, and no others."""
        name = self.host(ip_address)
        if _literal(name) is not None:
            raise socket.herror(1, "a worker looks up no names of addresses")  # HOST_NOT_FOUND, netdb.h
        return name, [], [self.gethostbyname(name)]

    def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int) -> tuple[str, str]:
        host, port = str(sockaddr[0]), int(sockaddr[1])
        name = host if flags & socket.NI_NUMERICHOST else self.host(host)
        if flags & socket.NI_NAMEREQD and _literal(name) is not None:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} stands for no name")
        service = None if flags & socket.NI_NUMERICSERV else next((word for word, known in _SERVICES.items() if known == port), None)
        return name, service or str(port)


def _spelled(host: str | bytes | bytearray) -> str:
    """Return a name in ASCII, as module socket has it: other letters become what is looked up for them."""
    if isinstance(host, str) and not host.isascii():
        try:
            return host.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no name: {error}") from None
    text = host if isinstance(host, str) else bytes(host).decode("ascii", "backslashreplace")
    if not text or not text.isprintable():
        raise socket.gaierror(socket.EAI_NONAME, f"{text!r} is no name")
    return text


def _literal(text: str) -> tuple[socket.AddressFamily, str] | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return family, socket.inet_ntop(family, socket.inet_pton(family, text))
        except OSError:
            continue
    return None


def _default_host(family: int, flags: int) -> str:
    if family == socket.AF_INET6:
        return "::" if flags & socket.AI_PASSIVE else "::1"
    return "0.0.0.0" if flags & socket.AI_PASSIVE else "127.0.0.1"  # noqa: S104  (what the C library answers)


def _port(port: str | bytes | int | None) -> int:
    if port is None:
        return 0
    text = port.decode("ascii", "replace") if isinstance(port, bytes) else str(port)
    if text.isdecimal():
        return int(text)
    if text in _SERVICES:
        return _SERVICES[text]
    try:
        return socket.getservbyname(text, "tcp")
    except OSError:
        raise socket.gaierror(socket.EAI_SERVICE, f"there is no service named {text!r}") from None
