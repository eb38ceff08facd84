"""Everything here that reads what a stranger may have written: what it is fed, and the only errors it may raise."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec

from blackhole_core.cli.control import protocol
from blackhole_core.errors import ManifestError, ProtocolError, SnapshotDamaged, SourceError
from blackhole_core.executor.failure import Rebuilder, to_wire
from blackhole_core.executor.wire import codec, spawn
from blackhole_core.executor.wire.claims import claim_body, decode_open
from blackhole_core.executor.wire.frames import FrameReader, frame
from blackhole_core.executor.wire.parcels import Packing, Shelf
from blackhole_core.executor.wire.plain import decode_plain, encode_plain, wrap_plain
from blackhole_core.executor.wire.signature import ArgumentsDecoder, ResultDecoder, Undecodable
from blackhole_core.manifest.parse import parse_manifest
from blackhole_core.registry.indexanswer import Answer, Declarer, answer_from_text, answer_to_text
from blackhole_core.registry.indexfile import _HEADER, _MAGIC, _hash, _read_part
from blackhole_core.registry.indextable import empty_table, table_from_text, table_to_text
from blackhole_core.registry.wheel import inspect_wheel
from blackhole_core.state.snapshot import Draft
from blackhole_core.state.snapshot import decode as decode_snapshot
from blackhole_core.state.snapshot import encode as encode_snapshot

__all__ = ["READERS", "WORKER_MESSAGES", "Reader"]

#: Bytes of one message: small, so that a claim of more is likely.
CAP: Final = 100_000


@attrs.frozen
class Reader:
    """``read`` takes any bytes and returns, or raises one of ``errors``; ``samples`` are such as it takes. ``cost``: how much more than a message one takes."""

    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    samples: tuple[bytes, ...]
    cost: int = 1


# --- between worker and host -----------------------------------------------------------------------------------------


def _failure() -> codec.WireFailure:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ExceptionGroup("several", [ValueError("bad", 7), OSError(2, "gone")]) from error
    except ExceptionGroup as group:
        return to_wire(group)


_VALUES: Final[tuple[Any, ...]] = (
    None, True, -(2**63), 1.5, "text", b"bytes", [1, "two", None], {"a": {"b": [1.0]}}, (1, 2), {1, 2}, 2**80, complex(1, 2),
    bytearray(b"mutable"), memoryview(b"looked at"), array("d", [1.0, 2.0]), {(1, 2): "key"},
)  # fmt: skip
_PLAIN: Final = tuple(encode_plain(value) for value in _VALUES)

#: One of each message that a worker sends, and then some.
WORKER_MESSAGES: Final[tuple[msgspec.Struct, ...]] = (
    codec.Hello(codec.PROTOCOL, 77, "3.11.7", True, True),
    codec.Loaded(
        (codec.ImplementationInfo("transform", "transform", ("text",), {"tryfirst": True, "specname": None}, annotated=("text",)),),
        {"plugin_start": ("context",), "plugin_stop": ()},
    ),
    *(codec.Answer(number, msgspec.Raw(value)) for number, value in enumerate(_PLAIN)),
    codec.Error(3, _failure()),
    codec.HostCall(1, "transform", {"text": msgspec.Raw(_PLAIN[4]), "more": msgspec.Raw(_PLAIN[6])}, 1.5, 7),
    codec.Log(40, "db.pool", "it failed", "Traceback (most recent call last):\n  …"),
    codec.Imported(5, ("notes", "notes.deep")),
    codec.Pong(1),
    codec.Stacks(1, ('  File "x.py", line 1, in f',)),
)
_BODIES: Final = tuple(codec.encode(message) for message in WORKER_MESSAGES)


class _Memory:
    """A shelf in this process: a row of bytes, every region of which is there."""

    limit = CAP
    in_place = False

    def __init__(self) -> None:
        self._row = bytearray(CAP)
        self._used = 0

    def put(self, data: memoryview) -> tuple[int, int] | None:
        offset = self._used
        self._row[offset : offset + len(data)] = data
        self._used += len(data)
        return 0, offset

    def take_back(self, slots: tuple[int, ...]) -> None:
        pass

    def send_back(self, data: memoryview) -> tuple[int, int] | None:
        return None

    def sent(self, slot: int, offset: int, length: int) -> memoryview:
        return memoryview(self._row)[offset : offset + length]

    def holds(self, slot: int, offset: int, length: int) -> bool:
        return slot == 0 and offset + length <= len(self._row)

    received = sent

    def lease(self, slot: int, offset: int, length: int) -> memoryview:
        return self.sent(slot, offset, length)

    def copy(self, slot: int, offset: int, length: int) -> bytes:
        return bytes(self.sent(slot, offset, length))

    def keep(self, slot: int, offset: int, length: int) -> memoryview:
        return memoryview(self.copy(slot, offset, length))

    def release(self, slots: tuple[int, ...]) -> None:
        pass


def _parcels(shelf: Shelf) -> tuple[bytes, ...]:
    """Return answers of which large parts lie on the shelf."""
    parcels = []
    for value in (b"x" * 60_000, {"rows": [array("i", range(15_000)), "beside"]}):
        packing = Packing(shelf)
        sealed = packing.seal(msgspec.msgpack.encode(wrap_plain(value, packing)))
        sealed.handed = True  # type: ignore[attr-defined]  # the module, or object, is the test's own
        parcels.append(codec.encode(codec.Answer(1, msgspec.Raw(sealed))))
    return tuple(parcels)


_shelf: Final = _Memory()


def _read_frames(data: bytes) -> None:
    reader = FrameReader(CAP)
    step = 1 + len(data) // 7
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
        assert reader.partial <= CAP + 4


def _read_value(data: bytes) -> None:
    message = claim_body(codec.decode_worker_message(data), _shelf)
    if isinstance(message, codec.Answer):
        decode_open(message.result)
    elif isinstance(message, codec.HostCall):
        for value in message.kwargs.values():
            decode_open(value)


def _rebuild(data: bytes) -> None:
    message = codec.decode_worker_message(data)
    if isinstance(message, codec.Error):
        raise Rebuilder("fuzz@1", "the worker", lambda module, name: getattr(__import__("builtins"), name, None)).rebuild(
            message.failure, "transform"
        )


_TYPES: Final[tuple[Any, ...]] = (int, str | None, list[dict[str, float]], tuple[bytes, ...], dict[str, list[int]], memoryview, bytearray)


def _read_typed(data: bytes) -> None:
    """Read it as every type; the last error is as good as any."""
    failure: Exception | None = None
    for kind in _TYPES:
        try:
            ResultDecoder(kind).decode(data)
            ArgumentsDecoder([kind, int]).decode(data)
        except (Undecodable, ProtocolError) as error:
            failure = error
    if failure is not None:
        raise failure


# --- between host, zygote and newborn --------------------------------------------------------------------------------

_ASSIGNMENT: Final = spawn.Assignment((1, 2, 3, 4), 3, 4, (), (b"/lib", b"/\xff"), ((b"PATH", b"/bin"),), 0o22, ((7, 1024, 4096),))


def _read_spawn(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        spawn.decode_fork(data)
    with contextlib.suppress(ProtocolError):
        spawn.decode_order(data, 5)
    spawn.decode_answer(data)


# --- files -----------------------------------------------------------------------------------------------------------

_MANIFEST: Final = """
name: counter
version: 1.2.0
description: "counts, é"
capabilities: [computation]
permissions: ["filesystem:read:/usr", 'network:connect:example.org:443']
resources: {cpu: 50, memory: 100}
isolation: process
dependencies:
  - {name: other, version: ">=1,<2", optional: true}
config: {a: 1, b: [x, 1.5, null, ~]}
state:
  version: 2
"""
_SNAPSHOT: Final = Draft("counter", "1.2.0", 1, 3, 1.5, "swap", {"count": 7, "rows": [b"x", 1.5, None]}).as_snapshot("0000000000000001")
_PATH: Final = Path("somewhere/0000000000000001.state")


def _reseal(data: bytes) -> bytes:
    """Give a damaged snapshot the digest it would need: what a careful forger writes."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def _read_snapshot(data: bytes) -> None:
    decode_snapshot(data, path=_PATH, plugin="counter")


def _read_index_file(data: bytes) -> None:
    file = os.memfd_create("fuzz")
    try:
        os.write(file, data)
        for part in (0, 1):
            text = _read_part(file, len(data), part)
            if part == 0:
                table_from_text(text)
    finally:
        os.close(file)


def _index_file(table: str) -> bytes:
    parts = [table.encode(), b"records"]
    header = b" ".join((_MAGIC, *(b"%d %s" % (len(part), _hash(part)) for part in parts)))
    return header.ljust(_HEADER - 1) + b"\n" + b"".join(parts)


_TABLE: Final = table_to_text(empty_table("/usr/lib/python3", (1, 2, 3, 4, 5), 4), "machine")


def _read_table(data: bytes) -> None:
    table_from_text(data.decode("utf-8", "surrogateescape"))


_ANSWER: Final = answer_to_text(
    Answer(
        4, ("/usr/lib/python3",), "[(1, 2, 3, 4, 5)]", (Declarer("upper", "/usr/lib/python3/upper-1.dist-info", (("a", "b"),)),), kept=True
    ),
    "key",
    "machine",
    "clock",
)


def _read_answer(data: bytes) -> None:
    answer_from_text(data.decode("utf-8", "surrogateescape"), "key", "machine")


def _wheel() -> bytes:
    import zipfile

    kept = io.BytesIO()
    info = "upper-1.0.0.dist-info"
    files = {
        "upper/__init__.py": "VERSION = 1\n",
        "upper/plugin.yaml": "name: upper\nversion: 1.0.0\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: upper\nVersion: 1.0.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[notes]\nupper = upper:Plugin\n",
    }
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        lines = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in files.items()]
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,", ""]))
    return kept.getvalue()


def _digest(text: str) -> str:
    import base64

    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _read_wheel(data: bytes) -> None:
    inspect_wheel("upper-1.0.0-py3-none-any.whl", io.BytesIO(data))


# --- the control socket ----------------------------------------------------------------------------------------------

_REQUESTS: Final = (
    b'{"command": "who"}',
    b'{"command": "call", "hook": "transform", "arguments": {"text": "x"}}',
    b'{"command": "logs", "limit": 5, "name": "counter", "follow": true}',
    b'{"command": "swap", "name": "counter", "version": "2.0.0"}',
)
_ANSWERS: Final = (b'{"answer": "result", "value": [1, {"a": null}]}', b'{"answer": "error", "kind": "LoadFailed", "text": "no"}')


def _read_control(data: bytes) -> None:
    if len(data) >= protocol.HEADER.size:
        with contextlib.suppress(ProtocolError):
            protocol.payload_length(data[: protocol.HEADER.size], limit=CAP)
    with contextlib.suppress(ProtocolError):
        protocol.decode_answer(data)
    protocol.decode_request(data)


READERS: Final[dict[str, Reader]] = {
    "frames": Reader(_read_frames, (ProtocolError,), (b"".join(map(frame, _BODIES)), *map(frame, _BODIES))),
    "worker-message": Reader(codec.decode_worker_message, (ProtocolError,), _BODIES),
    "host-message": Reader(codec.decode_host_message, (ProtocolError,), (codec.encode(codec.Request(1, "hook", "f", 0, msgspec.Raw(_PLAIN[6]))),)),
    "value": Reader(_read_value, (ProtocolError,), (*_BODIES, *_parcels(_shelf)), cost=3),
    "typed-value": Reader(_read_typed, (Undecodable, ProtocolError), _PLAIN, cost=10),
    "plain": Reader(decode_plain, (ProtocolError,), _PLAIN),
    "failure": Reader(_rebuild, (Exception,), (codec.encode(codec.Error(3, _failure())), codec.encode(codec.Error(0, to_wire(ValueError(1))))), cost=3),
    "outcomes": Reader(lambda data: codec.decode_outcomes(data, 5), (ProtocolError,), (codec.encode_outcomes([_PLAIN[1], _failure(), _PLAIN[6]]),)),
    "spawn": Reader(_read_spawn, (ProtocolError,), tuple(map(spawn.encode, (spawn.Fork(3), spawn.Ready(), spawn.Forked(4), spawn.Refused(11, "no"), _ASSIGNMENT)))),
    "manifest": Reader(lambda data: parse_manifest(data, file="plugin.yaml"), (ManifestError,), (_MANIFEST.encode(),), cost=60),
    "snapshot": Reader(_read_snapshot, (SnapshotDamaged,), (encode_snapshot(_SNAPSHOT),)),
    "forged-snapshot": Reader(lambda data: _read_snapshot(_reseal(data)), (SnapshotDamaged,), (encode_snapshot(_SNAPSHOT),)),
    "wheel": Reader(_read_wheel, (SourceError,), (_wheel(),), cost=20),
    "index-file": Reader(_read_index_file, (ValueError,), (_index_file(_TABLE),), cost=2),
    "index-table": Reader(_read_table, (ValueError,), (_TABLE.encode(),)),
    "index-answer": Reader(_read_answer, (ValueError,), (_ANSWER.encode(),)),
    "control": Reader(_read_control, (ProtocolError,), (*_REQUESTS, *_ANSWERS)),
}  # fmt: skip
