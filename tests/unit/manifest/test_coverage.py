"""The algebra of permissions: what one is worth where another is asked for, in whatever spelling."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.manifest.coverage import covers, effective, lacking, meet, opens
from blackhole_core.manifest.permissions import WORDS, Level, canonical, level_of, parse_permission, permission_problem

# --- permissions, few enough that they often have to do with each other -------------------------------------------------

_labels = st.sampled_from(["a", "b", "api", "xn--80ak6aa92e"])
_names = st.lists(_labels, min_size=1, max_size=3).map(".".join)
_ports = st.sampled_from(["", ":443", ":80", ":0443"])
_fours = st.sampled_from(["8.8.8.8", "8.8.0.0/16", "8.0.0.0/8", "10.1.2.3", "10.0.0.0/8", "172.0.0.0/8", "0.0.0.0/0", "127.0.0.1/32"])
_sixes = st.sampled_from(
    ["[::1]", "[::ffff:10.1.2.3]", "[::ffff:808:808]", "[2606:4700::]/32", "[2606:4700::1111]", "[fd00::]/8", "[::]/0"]
)
_addresses = st.tuples(st.one_of(_names, _names.map("*.{}".format), _fours, _sixes), _ports).map("".join)
_parts = st.lists(st.sampled_from(["srv", "data", "a", "A", ".", ""]), max_size=4).map(lambda parts: "".join(f"/{part}" for part in parts))
_places = st.one_of(
    _parts.map(lambda path: path or "/"), st.tuples(st.sampled_from(["${data}", "${cache}", "${plugin}"]), _parts).map("".join)
)
_patterns = st.tuples(
    st.text("ab*.-_", min_size=1, max_size=5).filter(lambda text: text[0] in "ab*"), st.sampled_from(["", "/x", "/*", "/x*"])
).map("".join)

permissions = st.one_of(
    st.sampled_from(WORDS),
    st.tuples(st.sampled_from(["network:connect:", "network:listen:"]), _addresses).map("".join),
    st.tuples(st.sampled_from(["filesystem:read:", "filesystem:write:"]), _places).map("".join),
    st.tuples(st.sampled_from(["plugin:call:", "plugin:event:"]), _patterns).map("".join),
    st.sampled_from(["process:exec:/usr/bin/git", "process:exec:/usr//bin/./git", "env:A", "env:a", "device:gpu"]),
    st.sampled_from(["host:log", "host:kv", "host:userdata", "host:admin"]),
)


@given(permissions)
def test_covering_is_reflexive(text: str) -> None:
    """What is granted as it was asked for is given."""
    assert covers(parse_permission(text), parse_permission(text))


@given(permissions, permissions, permissions)
def test_covering_is_transitive(one: str, two: str, three: str) -> None:
    """No chain of grants allows what its first one does not."""
    first, second, third = map(parse_permission, (one, two, three))
    if covers(first, second) and covers(second, third):
        assert covers(first, third)


@given(permissions)
def test_the_canonical_spelling_is_idempotent_and_means_the_same(text: str) -> None:
    """There is one canonical spelling, and it is a permission."""
    spelled = canonical(text)
    assert canonical(spelled) == spelled
    assert parse_permission(spelled) == parse_permission(text)


@given(permissions, permissions)
def test_what_two_share_is_in_both(one: str, two: str) -> None:
    """A meeting never gives more than either side."""
    first, second = parse_permission(one), parse_permission(two)
    for shared in meet(first, second):
        assert covers(first, shared)
        assert covers(second, shared)
        assert permission_problem(str(shared)) is None


@given(permissions, permissions)
def test_what_covers_is_met(one: str, two: str) -> None:
    """Where one covers the other, they share the narrower one."""
    first, second = parse_permission(one), parse_permission(two)
    if covers(first, second):
        assert meet(first, second) == (second,)


@given(st.lists(permissions, max_size=4), st.lists(permissions, max_size=4))
def test_nothing_is_given_that_was_not_asked_for_and_granted(requested: list[str], granted: list[str]) -> None:
    """A46: each permission in effect lies in one that was asked for, and in one that was granted or needs no grant."""
    asked, grants = [parse_permission(text) for text in requested], [parse_permission(text) for text in granted]
    given_ = [parse_permission(text) for text in effective(requested, granted)]
    for one in given_:
        assert level_of(one) is not Level.SIGNATURE
        assert any(covers(request, one) for request in asked)
        if not any(covers(grant, one) for grant in grants):
            # What needs no grant, or a coarse word of which a part needs none.
            assert level_of(one) is Level.NORMAL or str(one) == "filesystem"
    for text in set(map(canonical, requested)) - set(lacking(requested, granted)):
        assert any(covers(one, parse_permission(text)) for one in given_)


# --- the same thing, spelled otherwise ----------------------------------------------------------------------------------

_ONE_AND_THE_SAME = [
    ("filesystem:read:/srv/a", "filesystem:read://srv/./a/"),
    ("filesystem:read:/", "filesystem:read://./"),
    ("filesystem:write:${data}", "filesystem:write:${data}/."),
    ("network:connect:api.example.org:443", "network:connect:API.Example.ORG.:0443"),
    ("network:connect:*.example.org", "network:connect:*.EXAMPLE.org."),
    ("network:connect:10.0.0.1", "network:connect:[::ffff:10.0.0.1]"),
    ("network:connect:10.0.0.1", "network:connect:[::FFFF:a00:1]"),
    ("network:connect:10.0.0.1", "network:connect:10.0.0.1/32"),
    ("network:connect:10.0.0.0/8", "network:connect:[::ffff:10.0.0.0]/104"),
    ("network:connect:[::1]:80", "network:connect:[0:0:0::0001]:80"),
    ("process:exec:/usr/bin/git", "process:exec:/usr//./bin/git"),
    ("plugin:call:vendor-store", "plugin:call:Vendor_Store/*"),
    ("plugin:call:a*", "plugin:call:a**"),
]


@pytest.mark.parametrize(("one", "other"), _ONE_AND_THE_SAME)
def test_two_spellings_are_one_permission(one: str, other: str) -> None:
    """Neither spelling is more than the other."""
    assert canonical(other) == one
    assert parse_permission(one) == parse_permission(other)


@pytest.mark.parametrize(
    ("granted", "asked"),
    [
        ("filesystem:read:/srv", "filesystem:read:/srv2"),
        ("filesystem:read:/srv", "filesystem:read:/SRV"),
        ("filesystem:read:/srv", "filesystem:write:/srv"),
        ("filesystem:write:/srv", "filesystem:read:/srv"),
        ("filesystem:read:${data}", "filesystem:read:/data"),
        ("network:connect:example.org", "network:connect:api.example.org"),
        ("network:connect:example.org", "network:connect:example.org.evil.com"),
        ("network:connect:*.example.org", "network:connect:example.org"),
        ("network:connect:*.example.org", "network:connect:a.b.example.org"),
        ("network:connect:*.example.org", "network:connect:evilexample.org"),
        ("network:connect:example.org:443", "network:connect:example.org"),
        ("network:connect:example.org:443", "network:connect:example.org:80"),
        ("network:connect:apple.com", "network:connect:xn--80ak6aa92e.com"),
        ("network:connect:0.0.0.0/0", "network:connect:[::1]"),
        ("network:connect:[::]/0", "network:connect:127.0.0.1"),
        ("network:connect:example.org", "network:connect:10.0.0.1"),
        ("network", "network:connect:10.0.0.1"),
        ("network", "network:connect:127.0.0.1"),
        ("network", "network:connect:169.254.169.254:80"),
        ("network", "network:connect:[::ffff:127.0.0.1]"),
        ("network", "network:connect:[::1]"),
        ("network", "network:connect:[fe80::1]"),
        ("network", "network:connect:[fd00::]/8"),
        ("network", "network:connect:[64:ff9b::7f00:1]"),
        ("network", "network:connect:[2002:7f00:1::]"),
        ("network", "network:connect:172.0.0.0/8"),
        ("network", "network:connect:0.0.0.0/0"),
        ("network", "network:listen:8.8.8.8"),
        ("process:exec:/usr/bin/git", "process:exec:/usr/bin/git2"),
        ("process:exec:/usr/bin/git", "system"),
        ("env:PATH", "env:path"),
        ("plugin:call:vendor-*", "plugin:call:*"),
        ("plugin:call:a/x", "plugin:call:a"),
        ("plugin:call:a*", "plugin:call:*a"),
        ("other_plugins", "plugin:event:x"),
        ("host:kv", "host:userdata"),
    ],
)
def test_what_was_not_granted_is_not_given(granted: str, asked: str) -> None:
    """P-01: something near what was granted is not granted."""
    assert not covers(parse_permission(granted), parse_permission(asked))


@pytest.mark.parametrize(
    ("granted", "asked"),
    [
        ("filesystem:read:/srv", "filesystem:read:/srv/a/b.txt"),
        ("filesystem:read:/", "filesystem:read:${config}/x"),
        ("filesystem", "filesystem:read:/etc/passwd"),
        ("filesystem", "filesystem:write:${data}/x"),
        ("network", "network:connect:example.org:443"),
        ("network", "network:connect:*.example.org"),
        ("network", "network:connect:8.8.8.8:53"),
        ("network", "network:connect:[2606:4700::1111]"),
        ("network:connect:*.example.org", "network:connect:api.example.org:443"),
        ("network:connect:10.0.0.0/8", "network:connect:10.1.2.3:80"),
        ("system", "process:exec:/usr/bin/git"),
        ("system", "env:HOME"),
        ("other_plugins", "plugin:call:vendor.store/hook"),
        ("plugin:call:*", "other_plugins"),
        ("plugin:call:vendor.*", "plugin:call:vendor-store/hook"),
        ("user_data", "host:userdata"),
        ("host:userdata", "user_data"),
    ],
)
def test_a_wider_grant_covers_what_lies_in_it(granted: str, asked: str) -> None:
    """A directory covers its files, a suffix its names, a network its addresses, a word its area."""
    assert covers(parse_permission(granted), parse_permission(asked))
    assert effective((asked,), (granted,)) == (canonical(asked),)


@given(st.sampled_from(["filesystem:read:", "filesystem:write:", "process:exec:"]), st.text("/.ab", min_size=1, max_size=8))
def test_no_spelling_of_a_path_leaves_its_directory(area: str, rest: str) -> None:
    """A18: whatever dots and slashes come after it, a path that is covered lies there as the kernel reads it, too."""
    granted, text = parse_permission("filesystem:read:/srv/a"), f"{area}/srv/{rest}"
    if permission_problem(text) is None and covers(granted, parse_permission(text)):
        assert re.fullmatch(r"/srv/a(/.*)?", re.sub(r"/(\./|/)*", "/", text.partition("/")[1] + text.partition("/")[2]))


@given(st.ip_addresses(v=4))
def test_an_address_is_the_same_written_in_ipv6(address: ipaddress.IPv4Address) -> None:
    """An IPv4 address inside IPv6 is that IPv4 address, public or not."""
    mapped = parse_permission(f"network:connect:[::ffff:{address}]")
    assert mapped == parse_permission(f"network:connect:{address}")
    assert covers(parse_permission("network"), mapped) <= (address.is_global and not address.is_multicast)


@given(st.ip_addresses(v=6))
def test_the_word_network_opens_no_special_ipv6_address(address: ipaddress.IPv6Address) -> None:
    """What Python calls private, local, reserved or multicast is never public here."""
    if covers(parse_permission("network"), parse_permission(f"network:connect:[{address}]")):
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("network:connect:*", "the word network"),
        ("network:connect:*:443", "the word network"),
        ("network:connect:a*.example.org", "an address is"),
        ("network:connect:*.*.org", "an address is"),
        ("network:connect:exаmple.org", "an address is"),  # noqa: RUF001 - a Cyrillic letter, which is the point
        ("network:connect:example。org", "an address is"),
        ("network:connect:1٠.0.0.1", "an address is"),  # noqa: RUF001 - an Arabic digit
        ("network:connect:127.1", "an IP address or network is written like"),
        ("network:connect:2130706433", "an IP address or network is written like"),
        ("network:connect:0x7f.1", "an IP address or network is written like"),
        ("network:connect:a.0x7f", "an IP address or network is written like"),
        ("network:connect:010.0.0.1", "an IP address or network is written like"),
        ("network:connect:127.0.0.1.", "an IP address or network is written like"),
        ("network:connect:10.1.2.3/8", "nothing behind its prefix"),
        ("network:connect:10.0.0.0/33", "nothing behind its prefix"),
        ("network:connect:example.org/8", "an IP address or network is written like"),
        ("network:connect:[fe80::1%eth0]", "an address is"),
        ("network:connect:example..org", "no name of a host"),
        ("network:connect:-a.org", "no name of a host"),
        ("network:connect:" + "a" * 64 + ".org", "no name of a host"),
        ("process:exec:/usr/bin/", "a directory"),
        ("process:exec:/", "a directory"),
        ("filesystem:read:${data}x", "a path is absolute"),
        ("filesystem:read:", "a path is absolute"),
        ("env:", "the name of one variable"),
    ],
)
def test_a_text_that_is_read_in_two_ways_is_no_permission(text: str, reason: str) -> None:
    """A18, A47: look-alikes, half addresses and patterns in the middle of names are refused with the reason."""
    assert reason in (permission_problem(text) or "")


# --- what a plugin gets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requested", "granted", "given_", "missing"),
    [
        (("network",), (), (), ("network",)),
        (("network",), ("network:connect:api.example.org:443",), ("network:connect:api.example.org:443",), ("network",)),
        (("network",), ("network:connect:10.0.0.0/8",), (), ("network",)),
        (("network:connect:api.example.org",), ("network:connect:*.example.org:443",), ("network:connect:api.example.org:443",), None),
        (("filesystem:read:/srv",), ("filesystem:read:/srv/a", "filesystem:read:/srv/b"), None, ("filesystem:read:/srv",)),
        (("filesystem",), ("filesystem:read:/",), ("filesystem",), ()),
        (("filesystem:read:${plugin}/x", "filesystem:write:${data}", "host:log"), (), None, ()),
        (("host:admin",), ("host:admin",), (), ("host:admin",)),
        ((), ("network", "system"), (), ()),
        (("plugin:call:a*",), ("plugin:call:*b",), (), ("plugin:call:a*",)),
        (("env:B", "env:A"), ("env:A", "env:B", "env:C"), ("env:B", "env:A"), ()),
    ],
)
def test_asked_for_and_granted(
    requested: tuple[str, ...], granted: tuple[str, ...], given_: tuple[str, ...] | None, missing: tuple[str, ...] | None
) -> None:
    """A narrower grant gives the narrower permission; what is not wholly granted is missing."""
    if given_ is None:
        given_ = granted or requested
    assert effective(requested, granted) == given_
    assert lacking(requested, granted) == (requested if missing is None else missing)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("host:log", Level.NORMAL),
        ("filesystem:write:${data}/x", Level.NORMAL),
        ("filesystem:read:${plugin}", Level.NORMAL),
        ("filesystem:write:${plugin}", Level.DANGEROUS),
        ("filesystem:read:/srv", Level.ASK),
        ("filesystem:read:/", Level.DANGEROUS),
        ("filesystem:write:/srv", Level.DANGEROUS),
        ("network:connect:example.org", Level.ASK),
        ("network:connect:*.org", Level.DANGEROUS),
        ("network:listen:0.0.0.0/0", Level.DANGEROUS),
        ("network", Level.DANGEROUS),
        ("system", Level.DANGEROUS),
        ("device:gpu", Level.DANGEROUS),
        ("process:exec:/usr/bin/git", Level.DANGEROUS),
        ("env:HOME", Level.ASK),
        ("other_plugins", Level.ASK),
        ("user_data", Level.ASK),
        ("host:userdata", Level.ASK),
        ("host:admin", Level.SIGNATURE),
    ],
)
def test_how_much_a_permission_is(text: str, level: Level) -> None:
    """The table of levels in the reference."""
    assert level_of(parse_permission(text)) is level


# --- connecting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "granted", "host", "address", "expected"),
    [
        (("network",), (), "example.org", "93.184.216.34", True),
        (("network",), (), "rebound.example.org", "127.0.0.1", False),
        (("network:connect:example.org:443",), (), "example.org", "10.0.0.1", False),
        (("network:connect:example.org:443",), ("network:connect:10.0.0.0/8",), "example.org", "10.0.0.1", True),
        (("network:connect:example.org:443",), ("network:connect:10.0.0.0/8",), "10.0.0.1", None, False),
        (("network:connect:10.0.0.0/8",), (), "10.0.0.1", "10.0.0.1", True),
        (("network:connect:10.0.0.0/8",), (), "::ffff:10.0.0.1", None, True),
        (("network:connect:example.org:443",), (), "example.org", "::ffff:127.0.0.1", False),
        (("network",), (), "::1", None, False),
        (("network",), (), "evil.org", None, True),
        (("network:connect:example.org:80",), (), "example.org", "93.184.216.34", False),
    ],
)
def test_a_name_opens_public_addresses_only(
    given_: tuple[str, ...], granted: tuple[str, ...], host: str, address: str | None, expected: bool
) -> None:
    """A record in somebody's name server does not lead into the operator's network; the operator's own word does."""
    assert opens(given_, granted, host, 443, address) is expected


def test_what_is_no_host_is_refused() -> None:
    """The caller has to answer it, not this function."""
    with pytest.raises(ValueError, match="an address is"):
        opens(("network",), (), "evil.org:1", 443)
