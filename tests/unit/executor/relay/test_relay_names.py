"""Names in a worker that cannot look anything up."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.executor.relay import names as module
from blackhole_core.executor.relay.names import Names


@given(st.lists(st.from_regex(r"[a-z]{1,8}\.example", fullmatch=True), max_size=20))
def test_each_name_has_an_address_of_its_own_that_nobody_has(asked: list[str]) -> None:
    """And leads back to it."""
    names = Names()
    for family in (socket.AF_INET, socket.AF_INET6):
        addresses = {name: names.getaddrinfo(name, 80, family)[0][4][0] for name in asked}
        assert len(set(addresses.values())) == len(set(asked))
        for name, address in addresses.items():
            assert not ipaddress.ip_address(address).is_global
            assert names.host(address) == name


def test_addresses_are_left_as_they_are() -> None:
    names = Names()
    [(family, kind, _, _, sockaddr)] = names.getaddrinfo("2001:DB8::0001", "https")
    assert (family, kind, sockaddr) == (socket.AF_INET6, socket.SOCK_STREAM, ("2001:db8::1", 443, 0, 0))
    assert names.getaddrinfo("192.0.2.1", 80)[0][4] == ("192.0.2.1", 80)
    assert names.host("192.0.2.1") == "192.0.2.1"
    assert names.getaddrinfo(None, 80)[0][4] == ("127.0.0.1", 80)


def test_letters_become_what_is_looked_up() -> None:
    names = Names()
    assert names.host(names.gethostbyname("bücher.example")) == "xn--bcher-kva.example"
    assert names.gethostbyaddr(names.gethostbyname("a.example"))[0] == "a.example"
    assert names.getnameinfo((names.gethostbyname("a.example"), 443), 0) == ("a.example", "https")


@pytest.mark.parametrize(
    "ask",
    [
        lambda names: names.getaddrinfo("a.example", 80, type=socket.SOCK_DGRAM),
        lambda names: names.getaddrinfo("a.example", 80, flags=socket.AI_NUMERICHOST),
        lambda names: names.getaddrinfo("192.0.2.1", 80, socket.AF_INET6),
        lambda names: names.getaddrinfo("a.example", "no such service"),
        lambda names: names.getaddrinfo("", 80),
        lambda names: names.getaddrinfo("a\0b", 80),
        lambda names: names.host("240.0.0.9"),
    ],
)
def test_what_cannot_be_answered_is_the_error_that_programs_know(ask: object) -> None:
    with pytest.raises(socket.gaierror):
        ask(Names())  # type: ignore[operator]  # a test may give anything


def test_a_name_that_was_forgotten_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address is never given to another name."""
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    names = Names()
    first = names.gethostbyname("a.example")
    for name in ("b.example", "c.example", "d.example"):
        assert names.gethostbyname(name) != first
    with pytest.raises(socket.gaierror, match="look the name up again"):
        names.host(first)
