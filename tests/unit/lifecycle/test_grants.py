"""The rules of granting and revoking, and the form of the file they are kept in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.errors import GrantsError
from blackhole_core.ids import PluginId
from blackhole_core.lifecycle.grantfile import MAX_FILE, decode, encode
from blackhole_core.lifecycle.grants import Grant, Grants, Withdrawal, granted_to, permissions_of, with_grants, without_grants
from blackhole_core.manifest.model import Manifest
from blackhole_core.registry.candidate import Candidate, Origin


def _candidate(version: str | None = "1.0.0", digest: str = "aa", **declared: Any) -> Candidate:
    manifest = Manifest("echo", version or "0", **declared)
    return Candidate(PluginId("echo", version), Origin.DIRECTORY, Path("/x"), "x", Path("/x"), ("x",), digest, manifest)


def _granted(*permissions: str, **kw: Any) -> Grants:
    return with_grants(Grants(), "echo", permissions, 1.0, **kw)[0]


def test_what_is_granted_is_granted_to_the_plugin_in_every_spelling_of_its_name() -> None:
    """And to no other."""
    grants, given_ = with_grants(Grants(), "My_Echo", ("env:A", "filesystem:read:/srv//a/"), 1.0)
    assert given_ == ("env:A", "filesystem:read:/srv/a")
    assert granted_to(grants, "my-echo", _candidate(), ()) == given_
    assert granted_to(grants, "my-echo2", _candidate(), ()) == ()


def test_granting_twice_is_granting_once() -> None:
    """The later time counts."""
    grants, _ = with_grants(_granted("env:A"), "echo", ("env:A",), 2.0)
    assert grants.grants == (Grant("echo", "env:A", 2.0),)


@pytest.mark.parametrize(
    ("scope", "candidate", "fits"),
    [
        ({"versions": ">=1,<2"}, _candidate("1.9"), True),
        ({"versions": ">=1,<2"}, _candidate("2.0"), False),
        ({"versions": ">=1,<2"}, _candidate("1.5rc1"), True),
        ({"versions": ">=1"}, _candidate(None), False),
        ({"digest": "aa"}, _candidate(digest="aa"), True),
        ({"digest": "aa"}, _candidate(digest="bb"), False),
        ({"digest": "aa", "versions": "==2"}, _candidate(digest="aa"), False),
    ],
)
def test_a_grant_may_be_for_some_versions_or_one_code_only(scope: dict[str, str], candidate: Candidate, fits: bool) -> None:
    """Any other version asks again."""
    assert granted_to(_granted("env:A", **scope), "echo", candidate, ()) == (("env:A",) if fits else ())


def test_revoking_takes_what_lies_in_it() -> None:
    """And leaves the rest."""
    grants = _granted("network:connect:a.org", "network:connect:b.org:80", "env:A")
    left, taken = without_grants(grants, "Echo", ("network",), 2.0, ())
    assert taken == ("network:connect:a.org", "network:connect:b.org:80")
    assert granted_to(left, "echo", _candidate(), ()) == ("env:A",)


def test_revoking_a_part_is_refused() -> None:
    """What would remain has no spelling; the operator says it."""
    with pytest.raises(GrantsError, match=r"network:connect:a\.org cannot be revoked .* only a part of network, .* revoke network, then"):
        without_grants(_granted("network"), "echo", ("network:connect:a.org",), 2.0, ())
    with pytest.raises(GrantsError, match="only a part of network"):
        without_grants(Grants(), "echo", ("network:connect:a.org",), 2.0, ("network",))


def test_revoking_what_was_not_granted_does_nothing() -> None:
    """It can be said twice."""
    grants = _granted("env:A")
    assert without_grants(grants, "echo", ("env:B",), 2.0, ()) == (grants, ())
    assert without_grants(grants, "other", ("env:A",), 2.0, ()) == (grants, ())


def test_what_the_configuration_grants_is_withdrawn_until_it_is_granted_again() -> None:
    """The operator's later word wins over the configuration."""
    configured = ("env:A", "filesystem:read:/srv")
    left, taken = without_grants(Grants(), "echo", ("filesystem",), 2.0, configured)
    assert (left.withdrawn, taken) == ((Withdrawal("echo", "filesystem:read:/srv", 2.0),), ("filesystem:read:/srv",))
    assert granted_to(left, "echo", _candidate(), configured) == ("env:A",)
    assert without_grants(left, "echo", ("filesystem",), 3.0, configured) == (left, ())
    narrower, _ = with_grants(left, "echo", ("filesystem:read:/srv/a",), 3.0)
    assert granted_to(narrower, "echo", _candidate(), configured) == ("env:A", "filesystem:read:/srv/a")
    again, _ = with_grants(left, "echo", ("filesystem:read:/srv",), 3.0)
    assert again.withdrawn == ()
    assert granted_to(again, "echo", _candidate(), configured) == configured


@pytest.mark.parametrize(
    ("name", "permission", "versions", "words"),
    [
        ("echo", "netwrok", "", "did you mean 'network'"),
        ("echo", "host:log", "", "of level normal"),
        ("echo", "host:admin", "", "checks no signatures"),
        ("echo", "\x1b[31m", "", r"'\x1b[31m' is no permission"),
        ("../x", "env:A", "", "cannot be the name of a plugin"),
        ("echo", "env:A", "one", "no range of versions"),
    ],
)
def test_what_cannot_be_granted_is_a_sentence(name: str, permission: str, versions: str, words: str) -> None:
    """Nothing is granted, not the possible ones beside it either."""
    with pytest.raises(GrantsError) as caught:
        with_grants(Grants(), name, ("env:OK", permission), 1.0, versions=versions)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_a_plugin_asks_for_and_has() -> None:
    """Required, optional, missing; and whether it runs with something else."""
    candidate = _candidate(permissions=("network", "host:log"), optional_permissions=("env:B",))
    found = permissions_of(candidate, ("network:connect:a.org",), at_start=("host:log",))
    assert (found.required, found.optional, found.missing) == (("network", "host:log"), ("env:B",), ("network", "env:B"))
    assert found.effective == ("network:connect:a.org", "host:log")
    assert found.outdated
    assert not permissions_of(candidate, (), at_start=("host:log",)).outdated


# --- the file ------------------------------------------------------------------------------------------------------------

_EVERYTHING = Grants(
    (Grant("echo", "network", 1.5), Grant("echo", "env:A", 2.0, versions=">=1", digest="ff")), (Withdrawal("upper", "system", 3.0),)
)


def test_the_file_gives_back_what_was_written() -> None:
    """In the same bytes for the same grants."""
    assert decode(encode(_EVERYTHING)) == _EVERYTHING
    assert encode(decode(encode(_EVERYTHING))) == encode(_EVERYTHING)


def _changed(**members: Any) -> bytes:
    plain = json.loads(encode(_EVERYTHING))
    plain["grants"][0].update(members)
    return json.dumps(plain).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Expecting value"),
        (b"{}", "missing required field"),
        (b"\xff", "utf-8"),
        (b'{"format": 1, "grants": [], "grants": [], "withdrawn": []}', "twice"),
        (b'{"format": 2, "grants": [], "withdrawn": []}', "format 2"),
        (b'{"format": 1, "grants": [], "withdrawn": [], "more": 1}', "unknown field"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (MAX_FILE + 1), "more than"),
        (_changed(permission="netwrok"), "did you mean"),
        (_changed(plugin="../x"), "not the name of a plugin"),
        (_changed(versions="one"), "no range of versions"),
        (_changed(when="now"), "Expected `float`"),
        (_changed(when=float("nan")), "NaN is no number"),
        (encode(_EVERYTHING).replace(b"1.5", b"1e999"), "<= 1"),
        (_changed(colour="red"), "unknown field"),
        (encode(_EVERYTHING)[:-20], "Unterminated string"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused(data: bytes, words: str) -> None:
    """A47: damaged, foreign, hostile; never taken as "nothing was granted"."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are looked at below
        decode(data)
    assert words in str(caught.value)


@given(st.binary(max_size=200), st.integers(0, len(encode(_EVERYTHING))))
def test_no_bytes_make_the_reader_fail_otherwise(noise: bytes, place: int) -> None:
    """A ValueError or grants that can be written again."""
    data = encode(_EVERYTHING)
    try:
        found = decode(data[:place] + noise + data[place + len(noise) :])
    except ValueError:
        return
    assert decode(encode(found)) == found
