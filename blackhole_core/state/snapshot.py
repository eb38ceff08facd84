"""A saved state as a value, and the bytes it is kept in.

Nothing here does I/O. The format (docs/reference/state.md has the table): magic, format version, header length, payload length, header,
payload, sha256 of everything before it. Header and payload are MessagePack, the header strictly typed; never pickle, so reading a file from
elsewhere runs no code. :func:`decode` answers with a whole snapshot or :class:`SnapshotDamaged`, whatever the bytes are.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec

from blackhole_core.errors import SnapshotDamaged, StateError
from blackhole_core.ids import canonical_name
from blackhole_core.state.plain import STATE_CAP, plain

__all__ = ["FORMAT", "HEADER_CAP", "MAGIC", "OVERHEAD", "STATE_CAP", "Draft", "Snapshot", "decode", "encode", "plain"]

#: First byte not ASCII, then both line ends and DOS's end of file, as in PNG: a copy in text mode is seen at once.
MAGIC: Final = b"\x89BHS\r\n\x1a\n"

#: Version of the file format, not of the plugin's state.
FORMAT: Final = 1

#: Bytes of the header. It holds a name, a version and a reason, some 200 bytes; the cap bounds what is parsed before anything is believed.
HEADER_CAP: Final = 64 * 1024

_PREFIX: Final = struct.Struct(">8sHIQ")  # magic, format, header length, payload length
_DIGEST_SIZE: Final = hashlib.sha256().digest_size

#: Bytes a file may have beyond its payload.
OVERHEAD: Final = _PREFIX.size + HEADER_CAP + _DIGEST_SIZE


@attrs.frozen
class Draft:
    """A state to be kept; a store gives it an id and makes it a :class:`Snapshot`.

    ``created`` is seconds of the wall clock, for people; the order of snapshots is the order of their ids. ``reason`` says why it was taken:
    ``swap``, ``export``, ``periodic``, ``manual`` … ``data`` is plain data (:mod:`~blackhole_core.state.plain`).
    """

    plugin: str
    plugin_version: str | None
    state_version: int
    generation: int
    created: float
    reason: str
    data: Any = attrs.field(repr=False)

    def as_snapshot(self, snapshot_id: str) -> Snapshot:
        """Return the snapshot this draft becomes under ``id``; the data is the very same object."""
        return Snapshot(id=snapshot_id, **{name: getattr(self, name) for name in _DRAFT_FIELDS})


@attrs.frozen
class Snapshot:
    """The state of one plugin at one moment. ``id`` is unique within the plugin and store, and sorts by age."""

    id: str
    plugin: str
    plugin_version: str | None
    state_version: int
    generation: int
    created: float
    reason: str
    data: Any = attrs.field(repr=False)


_DRAFT_FIELDS: Final = tuple(field.name for field in attrs.fields(Draft))


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    plugin: str
    plugin_version: str | None
    state_version: int
    generation: int
    created: float
    reason: str


_HEADER_FIELDS: Final = _Header.__struct_fields__
_header_decoder: Final = msgspec.msgpack.Decoder(_Header)


def encode(snapshot: Snapshot, *, limit: int = STATE_CAP) -> bytes:
    """Return the file of ``snapshot``. Raise :class:`StateError` when its data is not plain or larger than ``limit`` bytes."""
    what = f"state of plugin {snapshot.plugin}"
    plain(snapshot.data, what=what, limit=limit)
    header = _encode_header(snapshot)
    try:
        payload = msgspec.msgpack.encode(snapshot.data)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        # It was plain a moment ago: another thread of the plugin writes to it, or the caller's own stack is nearly used up.
        raise StateError(f"{what} could not be encoded: {error}") from error
    if len(payload) > limit:
        raise StateError(
            f"{what} has {len(payload)} bytes, wanted at most {limit}: keep bulk data in a file and put its name into the state"
        )
    prefix = _PREFIX.pack(MAGIC, FORMAT, len(header), len(payload))
    digest = hashlib.sha256(prefix)
    digest.update(header)
    digest.update(payload)
    return b"".join((prefix, header, payload, digest.digest()))


def decode(data: bytes, *, path: Path, plugin: str, limit: int = STATE_CAP) -> Snapshot:
    """Return the snapshot of ``plugin`` that ``data`` holds. ``path`` is only named in the error.

    Raise :class:`SnapshotDamaged` for anything but a whole file of ours of this plugin: another magic, a newer format, too short, too long,
    one bit changed, another plugin's, a payload over ``limit`` bytes or not plain.
    """
    reader = _Reader(path)
    header, payload = reader.split(data, limit)
    facts = reader.header(header)
    if canonical_name(facts.plugin) != canonical_name(plugin):
        raise SnapshotDamaged(path, f"it belongs to plugin {facts.plugin!r}, wanted {plugin!r}")
    return Snapshot(**{name: getattr(facts, name) for name in _HEADER_FIELDS}, data=reader.payload(payload, limit))


def _encode_header(snapshot: Snapshot) -> bytes:
    """Return the header, checked with the reader's own eyes: what it would refuse is not written."""
    try:
        header = msgspec.msgpack.encode(_Header(*(getattr(snapshot, name) for name in _HEADER_FIELDS)))
        _header_decoder.decode(header)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
        raise StateError(f"snapshot of plugin {snapshot.plugin} has a header that cannot be kept: {error}") from error
    if len(header) > HEADER_CAP:
        raise StateError(
            f"snapshot of plugin {snapshot.plugin} has a header of {len(header)} bytes, wanted at most {HEADER_CAP}: shorten its reason"
        )
    return header


@attrs.frozen
class _Reader:
    """The steps of :func:`decode`, each of which believes only what the step before has proved."""

    path: Path

    def split(self, data: bytes, limit: int) -> tuple[memoryview, memoryview]:
        """Return header and payload of a file whose lengths and digest are right."""
        if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
            raise self._damaged("it does not begin as a Blackhole snapshot does")
        if len(data) < _PREFIX.size:
            raise self._damaged(f"it ends after {len(data)} bytes, within its first {_PREFIX.size}")
        _, version, header_size, payload_size = _PREFIX.unpack_from(data)
        if version != FORMAT:
            age = "newer" if version > FORMAT else "unknown"
            raise self._damaged(f"it has the {age} format {version}, this Blackhole reads format {FORMAT}")
        if header_size > HEADER_CAP:
            raise self._damaged(f"it claims a header of {header_size} bytes, at most {HEADER_CAP} are allowed")
        if payload_size > limit:
            raise self._damaged(f"it claims a state of {payload_size} bytes, at most {limit} are allowed")
        body = _PREFIX.size + header_size + payload_size
        if len(data) != body + _DIGEST_SIZE:
            fault = "ends too early" if len(data) < body + _DIGEST_SIZE else "has bytes after its end"
            raise self._damaged(f"it {fault}: wanted {body + _DIGEST_SIZE} bytes, got {len(data)}")
        view = memoryview(data)
        if hashlib.sha256(view[:body]).digest() != data[body:]:
            raise self._damaged("its bytes were changed after it was written (sha256 differs)")
        return view[_PREFIX.size : _PREFIX.size + header_size], view[_PREFIX.size + header_size : body]

    def header(self, data: memoryview) -> _Header:
        try:
            return _header_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._damaged(f"its header is not one of ours: {error}") from error

    def payload(self, data: memoryview, limit: int) -> Any:
        """Return the state. The digest is no secret, so a file with the right one can still be somebody else's work."""
        try:
            state = msgspec.msgpack.decode(data)
            plain(state, limit=limit)
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError, StateError) as error:
            raise self._damaged(f"its state cannot be read: {error}") from error
        return state

    def _damaged(self, reason: str) -> SnapshotDamaged:
        return SnapshotDamaged(self.path, reason)
