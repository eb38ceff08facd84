"""Addresses of a network that a permission names: a host, its subdomains, or a range of IP addresses; with a port or any. Pure.

Two spellings of one address are one value: case and a trailing dot of names, leading zeros of ports, IPv4 written as IPv6. What a resolver would
read as an address although it does not look like one (``127.1``, ``0x7f.1``, ``2130706433``) is refused. Names are ASCII: a name with
other letters stands there as what is looked up (``xn--…``), so that nothing looks like something else.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, TypeAlias

import attrs

__all__ = ["Address", "Network", "Public", "parse_address"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_ADDRESS: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>(?:\*\.)?[A-Za-z0-9_.-]+))(?:/(?P<bits>[0-9]{1,3}))?(?::(?P<port>[0-9]{1,5}))?", re.ASCII
)
#: One label of a name: 63 bytes at most (RFC 1035); the underscore stands in names of services.
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: A last label that makes every resolver take the whole for an IPv4 address (URL standard, "ends in a number").
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
#: Bytes of a name on the wire, RFC 1035, less the root's and the first length byte.
_MAX_NAME: Final = 253

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
#: The part of IPv6 that is routed in public; all else is special.
_GLOBAL_SIX: Final = ipaddress.IPv6Network("2000::/3")
#: What never is a public address: the special-purpose registries of IANA, less what is anycast in public. Spelled out, because the
#: answer of ``is_global`` differs between patch releases of Python.
_SPECIAL: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # Teredo and 6to4 lead to any IPv4 address
    )
)


@attrs.frozen
class Public:
    """Every host with a public address, at any port: what the word ``network`` opens."""

    def covers(self, other: Address | Public) -> bool:
        return isinstance(other, Public) or other.network is None or is_public(other.network)

    def meet(self, other: Address | Public) -> Address | Public | None:
        return other if self.covers(other) else None


@attrs.frozen
class Address:
    """A name (with ``wildcard``: everything one label below it) or an IP network, at one port or (None) any."""

    name: str = ""
    wildcard: bool = False
    network: Network | None = None
    port: int | None = None

    def __str__(self) -> str:
        return self._host() if self.port is None else f"{self._host()}:{self.port}"

    def _host(self) -> str:
        if self.network is None:
            return f"*.{self.name}" if self.wildcard else self.name
        single = self.network.prefixlen == self.network.max_prefixlen
        first = str(self.network.network_address)
        first = first if self.network.version == 4 else f"[{first}]"
        return first if single else f"{first}/{self.network.prefixlen}"

    @property
    def is_broad(self) -> bool:
        """Whether it is so much that it may as well be all: below a top-level domain, or more than a large provider has."""
        if self.network is None:
            return self.wildcard and "." not in self.name
        return self.network.prefixlen < (8 if self.network.version == 4 else 16)

    def covers(self, other: Address | Public) -> bool:
        """Whether whoever may use this address may use the other one."""
        return isinstance(other, Address) and self.port in (None, other.port) and self._host_covers(other)

    def _host_covers(self, other: Address) -> bool:
        if self.network is not None:
            return _contains(self.network, other.network)
        if other.network is not None:
            return False  # who resolves a name decides which addresses it has, so neither stands for the other
        if not self.wildcard or other.wildcard:
            return (self.name, self.wildcard) == (other.name, other.wildcard)
        return other.name.partition(".")[2] == self.name

    def meet(self, other: Address | Public) -> Address | Public | None:
        """Return what is in both, None when nothing is."""
        if isinstance(other, Public):
            return other.meet(self)
        host = other if self._host_covers(other) else self if other._host_covers(self) else None
        if host is None or (None not in (self.port, other.port) and self.port != other.port):
            return None
        return attrs.evolve(host, port=other.port if self.port is None else self.port)


def is_public(network: Network) -> bool:
    """Whether every address of ``network`` is public: none private, of this machine, of the link, reserved or a way around that."""
    if isinstance(network, ipaddress.IPv6Network) and not _contains(_GLOBAL_SIX, network):
        return False
    return not any(special.version == network.version and special.overlaps(network) for special in _SPECIAL)


def _contains(outer: Network, inner: Network | None) -> bool:
    if isinstance(outer, ipaddress.IPv4Network):
        return isinstance(inner, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, ipaddress.IPv6Network) and inner.subnet_of(outer)


def parse_address(text: str) -> Address:
    """Return the address that ``text`` spells.

    :raises ValueError: it is none; the message ends a sentence that begins with the text.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None:
        if text.partition(":")[0] == "*":
            raise ValueError("; all addresses together are the word network")
        raise ValueError("; an address is host, host:port, *.suffix, an IP address or network")
    port = None if found["port"] is None else int(found["port"])
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"; port {port} is not one of 1 to 65535")
    network = _network(found["six"] or found["host"], found["bits"], six=found["six"] is not None)
    if network is not None:
        return Address(network=network, port=port)
    host = found["host"].lower().removesuffix(".")
    name = host.removeprefix("*.")
    if len(name) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"; {found['host']} is no name of a host: labels of 1 to 63 letters, digits, - and _, with dots between them")
    return Address(name, wildcard=host != name, port=port)


def _network(host: str, bits: str | None, *, six: bool) -> Network | None:
    """Return the IP network that ``host`` is, None when it is a name."""
    if not six and bits is None and not _NUMBER.fullmatch(host.lower().removesuffix(".").rpartition(".")[2]):
        return None
    try:
        kind = ipaddress.IPv6Network if six else ipaddress.IPv4Network
        network = kind(host if bits is None else f"{host}/{int(bits)}")
    except ValueError:
        form = "[2001:db8::1] or [2001:db8::]/32" if six else "192.0.2.1 or 192.0.2.0/24"
        raise ValueError(f"; such an IP address or network is written like {form}, with nothing behind its prefix") from None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        return ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network
