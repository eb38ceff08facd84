"""The file format: what is written comes back, what is not whole is refused."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.errors import SnapshotDamaged, StateError
from blackhole_core.state.snapshot import FORMAT, HEADER_CAP, MAGIC, Draft, Snapshot, decode, encode

PATH = Path("somewhere/0000000000000001.state")
SMALL = Draft("counter", "1.2.0", 1, 3, 1.5, "swap", {"count": 7}).as_snapshot("0000000000000001")
PREFIX = struct.Struct(">8sHIQ")

plain_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def read(data: bytes, plugin: str = "counter", **options: Any) -> Snapshot:
    return decode(data, path=PATH, plugin=plugin, **options)


def sealed(header: object, payload: bytes, *, magic: bytes = MAGIC, version: int = FORMAT) -> bytes:
    """Return a file with right lengths and digest around any header and payload: what a careful forger would write."""
    head = header if isinstance(header, bytes) else msgspec.msgpack.encode(header)
    body = PREFIX.pack(magic, version, len(head), len(payload)) + head + payload
    return body + hashlib.sha256(body).digest()


def header(**changes: object) -> dict[str, object]:
    facts = attrs.asdict(SMALL, filter=lambda field, _: field.name != "data")
    return {**facts, **changes}


@given(plain_data)
def test_plain_data_comes_back_equal_and_of_the_same_types(data: Any) -> None:
    """What is encoded is decoded as it was, True not as 1, 1.0 not as 1."""
    snapshot = attrs.evolve(SMALL, data=data)
    back = read(encode(snapshot))
    assert repr(back.data) == repr(data)
    assert back == snapshot


def test_the_file_begins_as_the_docs_say() -> None:
    """Magic, format, header length, payload length, header, payload, sha256."""
    data = encode(SMALL)
    magic, version, header_size, payload_size = PREFIX.unpack_from(data)
    body = PREFIX.size + header_size + payload_size
    assert (magic, version) == (b"\x89BHS\r\n\x1a\n", 1)
    assert msgspec.msgpack.decode(data[PREFIX.size : PREFIX.size + header_size]) == header()
    assert data[body:] == hashlib.sha256(data[:body]).digest()


def test_every_flipped_bit_is_refused() -> None:
    """A66: any single bit changed anywhere in the file makes it damaged."""
    whole = encode(SMALL)
    for place in range(len(whole) * 8):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        with pytest.raises(SnapshotDamaged):
            read(bytes(data))


def test_every_truncation_is_refused() -> None:
    """A66: a file cut anywhere is damaged, also cut to nothing."""
    whole = encode(SMALL)
    for length in range(len(whole)):
        with pytest.raises(SnapshotDamaged):
            read(whole[:length])


@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda tail: MAGIC + tail))
def test_any_bytes_are_a_snapshot_or_damaged(data: bytes) -> None:
    """No bytes raise anything but SnapshotDamaged."""
    with pytest.raises(SnapshotDamaged):
        read(data)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_sealed_garbage_is_damaged(head: bytes, payload: bytes) -> None:
    """A file with a right digest around garbage raises nothing but SnapshotDamaged."""
    with pytest.raises(SnapshotDamaged):
        read(sealed(head, payload))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin as a Blackhole snapshot"),
        (b"PK\x03\x04 some zip", "does not begin as a Blackhole snapshot"),
        (MAGIC[:5], "ends after 5 bytes"),
        (sealed(header(), b"\xc0", version=FORMAT + 1), "newer format 2, this Blackhole reads format 1"),
        (sealed(header(), b"\xc0", version=0), "unknown format 0"),
        (encode(SMALL) + b"\n", "has bytes after its end"),
        (encode(SMALL)[:-1], "ends too early"),
        (PREFIX.pack(MAGIC, FORMAT, HEADER_CAP + 1, 0), "claims a header of 65537 bytes"),
        (PREFIX.pack(MAGIC, FORMAT, 1, 2**60), "claims a state of 1152921504606846976 bytes, at most"),
        (sealed(header(generation="3"), b"\xc0"), "header is not one of ours: .*generation"),
        (sealed(header(more=1), b"\xc0"), "header is not one of ours: .*more"),
        (sealed({"id": "1"}, b"\xc0"), "header is not one of ours: .*missing"),
        (sealed(header(), b"\xc0\xc0"), "state cannot be read: .*trailing"),
        (sealed(header(), b"\x91" * 100_000 + b"\xc0"), "state cannot be read"),
        (sealed(header(), b"\x91" * 250 + b"\xc0"), "state cannot be read: state is nested more than"),
        (sealed(header(), msgspec.msgpack.encode({1: 2})), "state cannot be read: state has the key 1"),
        (sealed(header(), b"\xd6\xff\x00\x00\x00\x00"), "state cannot be read: state is a datetime"),
        (sealed(header(), b"\xa1\xff"), "state cannot be read"),
    ],
)
def test_the_reason_is_named(data: bytes, reason: str) -> None:
    """What is wrong with a file is said, with the file's name and as an attribute."""
    with pytest.raises(SnapshotDamaged, match=reason) as caught:
        read(data)
    assert str(PATH) in str(caught.value)
    assert caught.value.path == PATH


def test_another_plugins_snapshot_is_refused() -> None:
    """A66: a whole snapshot of another plugin is refused, naming both."""
    with pytest.raises(SnapshotDamaged, match="belongs to plugin 'counter', wanted 'echo'"):
        read(encode(SMALL), plugin="echo")


def test_names_are_compared_in_their_canonical_spelling() -> None:
    """Foo_Bar's snapshot is foo-bar's."""
    assert read(encode(attrs.evolve(SMALL, plugin="Foo_Bar")), plugin="foo.bar").plugin == "Foo_Bar"


def test_a_state_over_the_limit_is_neither_written_nor_read() -> None:
    """A65: the limit holds in both directions."""
    big = attrs.evolve(SMALL, data=["x" * 100])
    with pytest.raises(StateError, match="state of plugin counter is larger than 100 bytes"):
        encode(big, limit=100)
    # The lower bound is 102, the encoding has 103 bytes.
    with pytest.raises(StateError, match="has 103 bytes, wanted at most 102"):
        encode(big, limit=102)
    with pytest.raises(SnapshotDamaged, match="claims a state of 103 bytes, at most 102"):
        read(encode(big), limit=102)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"state_version": "1"}, "header that cannot be kept: .*state_version"),
        ({"generation": 2**70}, "header that cannot be kept"),
        ({"reason": "\ud800"}, "header that cannot be kept"),
        ({"reason": "x" * 70_000}, "header of 70.* bytes, wanted at most 65536: shorten its reason"),
    ],
)
def test_a_header_the_reader_would_refuse_is_not_written(changes: dict[str, Any], sentence: str) -> None:
    """What encode writes, decode reads."""
    with pytest.raises(StateError, match=sentence):
        encode(attrs.evolve(SMALL, **changes))


def test_data_that_is_not_plain_is_refused_with_plugin_and_path() -> None:
    """S-05: an unserialisable state is refused before a byte is written."""
    with pytest.raises(StateError, match=r"^state of plugin counter\.f is a function"):
        encode(attrs.evolve(SMALL, data={"f": read}))


def test_a_state_that_changes_after_the_check_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain when checked and not when encoded: another thread wrote to it, and nothing but StateError comes of it."""
    monkeypatch.setattr("blackhole_core.state.snapshot.plain", lambda *_, **__: None)
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    for data in (cyclic, [2**64], ["\ud800"], [object()]):
        with pytest.raises(StateError, match="state of plugin counter could not be encoded: "):
            encode(attrs.evolve(SMALL, data=data))


def test_no_secret_of_the_state_is_in_the_repr() -> None:
    """A snapshot in a log line does not show the plugin's data."""
    assert "7" not in repr(SMALL).replace("1.2.0", "")
