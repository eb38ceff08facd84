"""Which connections a plugin may make: by name, and by the address that the name has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.errors import LoadFailed
from blackhole_core.executor.confinement import Confinement, Sandbox
from blackhole_core.executor.relay.rules import NOTHING, Rules, Target, refuse_listening, rules_of
from blackhole_core.ids import Isolation


def rules(*given: str, granted: tuple[str, ...] = ()) -> Rules:
    return Rules(tuple(f"network:connect:{one}" if one != "network" else one for one in given), granted)


_PUBLIC, _PRIVATE = "93.184.216.34", "10.0.0.7"


@pytest.mark.parametrize(
    ("given", "host", "port", "address", "allowed"),
    [
        ("api.example.org:443", "api.example.org", 443, _PUBLIC, True),
        ("api.example.org:443", "API.Example.ORG.", 443, _PUBLIC, True),
        ("api.example.org:443", "api.example.org", 80, _PUBLIC, False),
        ("api.example.org:443", "example.org", 443, _PUBLIC, False),
        ("api.example.org:443", "api.example.org.evil.net", 443, _PUBLIC, False),
        ("api.example.org:443", _PUBLIC, 443, None, False),  # the address of a listed host
        ("*.example.org", "api.example.org", 1, _PUBLIC, True),
        ("*.example.org", "a.b.example.org", 1, _PUBLIC, False),
        ("*.example.org", "example.org", 1, _PUBLIC, False),
        ("10.0.0.0/8:22", "10.255.0.1", 22, None, True),
        ("10.0.0.0/8:22", "11.0.0.1", 22, None, False),
        ("10.0.0.7", "::ffff:10.0.0.7", 1, None, True),  # one address, two spellings
        ("network", "example.org", 80, _PUBLIC, True),
        ("network", _PUBLIC, 80, None, True),
        ("network", "127.0.0.1", 80, None, False),
        ("network", "::ffff:127.0.0.1", 80, None, False),
        ("network", "169.254.169.254", 80, None, False),
        ("network", "64:ff9b::a00:7", 80, None, False),  # 10.0.0.7 behind NAT64
        *(
            ("example.org", "example.org", 80, address, False)
            for address in ("127.0.0.1", _PRIVATE, "169.254.169.254", "224.0.0.1", "0.0.0.0")
        ),
        *(
            ("network", "example.org", 80, address, False)
            for address in ("::1", "::ffff:10.0.0.7", "fe80::1", "fe80::1%2", "fd00::1", "ff02::1")
        ),
    ],
)
def test_a_connection_is_judged_by_name_and_by_address(given: str, host: str, port: int, address: str | None, allowed: bool) -> None:
    """A24."""
    target = Target.parse(host, port)
    judged = rules(given)
    assert (judged.allows(target) and (address is None or judged.allows(target, address))) is allowed


def test_an_address_that_was_granted_beside_a_name_may_be_where_it_leads() -> None:
    """The operator opens a name of the own network."""
    target = Target.parse("db.corp.example", 5432)
    assert not rules("db.corp.example:5432").allows(target, _PRIVATE)
    assert rules("db.corp.example:5432", granted=("network:connect:10.0.0.0/24",)).allows(target, _PRIVATE)
    assert not rules("db.corp.example:5432", granted=("network:connect:10.0.0.0/24",)).allows(Target.parse(_PRIVATE, 5432))


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "*.example.org",
            "10.0.0.0/8",
            "exa mple.org",
            "example.org:80",
            "bücher.example",
            "\u0435\u0445ample.org",
            "a%2eb",
            "fe80::1%eth0",
            "[::1]",
        ),
        *("127.1", "0x7f.0.0.1", "2130706433", "a..b", "-a.example", "a\0b", "x" * 300, "user@example.org", "http://example.org"),
    ],
)
def test_what_is_not_one_host_in_plain_spelling_is_refused(host: str) -> None:
    """A24: look-alikes, escapes, zones, ranges and what only a resolver takes for an address."""
    with pytest.raises(ValueError, match="."):
        Target.parse(host, 80)


@given(st.text(max_size=60), st.integers(1, 65535))
def test_a_target_has_one_spelling(host: str, port: int) -> None:
    """What was understood is understood the same when it is written out, so what is judged is what is connected to."""
    try:
        target = Target.parse(host, port)
    except ValueError:
        return
    assert Target.parse(target.host, port) == target
    assert target.host.isascii()
    assert rules(str(target)).allows(target)
    assert not NOTHING.allows(target)


@given(st.ip_addresses())
def test_a_name_never_opens_what_is_not_public(address: object) -> None:
    """Whatever the name server says: what Python's own tables call private is not opened by a name."""
    import ipaddress

    parsed = ipaddress.ip_address(str(address))
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    if mapped.is_private or mapped.is_loopback or mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified:
        assert not rules("example.org").allows(Target.parse("example.org", 80), str(address))


@pytest.mark.parametrize(
    ("level", "sandbox", "permission", "has"),
    [
        (Isolation.PROCESS, Sandbox.NATIVE, "network:connect:a.example", True),
        (Isolation.PROCESS, Sandbox.OFF, "network:connect:a.example", False),
        (Isolation.CONTAINER, Sandbox.OFF, "network", True),
        (Isolation.PROCESS, Sandbox.NATIVE, "network:listen:127.0.0.1:80", False),
        (Isolation.PROCESS, Sandbox.NATIVE, "filesystem:read:/srv", False),
    ],
)
def test_who_has_walls_and_a_permission_has_rules(level: Isolation, sandbox: Sandbox, permission: str, has: bool) -> None:
    """And nobody else has a relay."""
    confinement = Confinement(sandbox, requested=(permission,), granted=(permission,))
    assert (rules_of(confinement, level) is not None) is has


def test_what_was_granted_and_not_asked_for_opens_nothing_by_itself() -> None:
    """Only the operator's addresses count beside the plugin's names."""
    confinement = Confinement(Sandbox.NATIVE, requested=("network:connect:a.example",), granted=("network",))
    found = rules_of(confinement, Isolation.PROCESS)
    assert found is not None
    assert found.allows(Target.parse("a.example", 80), _PUBLIC)
    assert not found.allows(Target.parse("b.example", 80))


def test_who_may_listen_is_not_started_behind_walls() -> None:
    """Nothing would come of it, so it is said; without walls the plugin listens by itself."""
    listen = ("network:listen:127.0.0.1:8080",)
    with pytest.raises(LoadFailed, match="it was granted network:listen:127.0.0.1:8080, and this version takes no connections"):
        refuse_listening("web@1.0.0", Confinement(Sandbox.NATIVE, requested=listen, granted=listen), Isolation.PROCESS)
    with pytest.raises(LoadFailed):
        refuse_listening("web@1.0.0", Confinement(requested=listen, granted=listen), Isolation.CONTAINER)
    refuse_listening("web@1.0.0", Confinement(requested=listen, granted=listen), Isolation.PROCESS)
    refuse_listening("web@1.0.0", Confinement(Sandbox.NATIVE, requested=listen), Isolation.PROCESS)
