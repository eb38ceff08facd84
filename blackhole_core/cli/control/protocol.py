"""What goes over the control socket: one request down, answers up, each a length and a JSON document.

A frame is four bytes, big-endian, the number of bytes that follow, then that much JSON. The length is checked against a cap
before anything is allocated. Requests are a closed set of types, told apart by ``command``; an unknown command, field or type
is refused with a sentence. Pure: bytes in, values out.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Final, TypeAlias

import msgspec

from blackhole_core.errors import ProtocolError

__all__ = [
    "HEADER",
    "MAX_ANSWER",
    "MAX_REQUEST",
    "Answer",
    "AnyRequest",
    "Call",
    "Describe",
    "Entry",
    "Error",
    "Execute",
    "Grant",
    "Load",
    "Logs",
    "Notice",
    "Permissions",
    "Plugins",
    "Reload",
    "Request",
    "Result",
    "Revoke",
    "Rollback",
    "StateExport",
    "StateImport",
    "StateList",
    "Stop",
    "Swap",
    "Unload",
    "Who",
    "decode_answer",
    "decode_request",
    "encode",
    "payload_length",
]

HEADER: Final = struct.Struct(">I")
#: Bytes of a request: room for the arguments of a call that somebody types or pipes, far below what would hurt the host.
MAX_REQUEST: Final = 4 * 1024 * 1024
#: Bytes of an answer: the result of a call, as JSON.
MAX_ANSWER: Final = 64 * 1024 * 1024


def _command(name: str) -> str:
    """``StateExport`` is the command ``state-export``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="command", tag=_command):
    """Base of every request."""


class Who(Request, frozen=True):
    """Who is there: project, versions, pid."""


class Plugins(Request, frozen=True):
    """Every plugin of the host."""


class Describe(Request, frozen=True):
    """One plugin."""

    name: str


class Call(Request, frozen=True):
    """Call a hook. ``arguments`` are texts as typed; the spec says what they mean. ``timeout`` in seconds."""

    hook: str
    arguments: dict[str, str] = {}
    timeout: float = 30.0


class Execute(Request, frozen=True):
    """Send one request to one plugin's ``plugin_handle``."""

    name: str
    method: str | None = None
    params: dict[str, Any] = {}
    data: bytes = b""
    timeout: float = 30.0


class Load(Request, frozen=True):
    """Load one plugin. ``source`` is an absolute path."""

    name: str
    version: str | None = None
    source: str | None = None
    isolation: str | None = None


class Unload(Request, frozen=True):
    """Take one plugin out."""

    name: str


class Swap(Request, frozen=True):
    """Replace one plugin by another version or level. ``timeout`` is the drain's, in seconds."""

    name: str
    version: str | None = None
    source: str | None = None
    isolation: str | None = None
    timeout: float | None = None
    force: bool = False


class Rollback(Request, frozen=True):
    """Back to the version before the last swap."""

    name: str
    force: bool = False


class Reload(Request, frozen=True):
    """Swap to what stands at the plugin's source now."""

    name: str


class Permissions(Request, frozen=True):
    """What one plugin asks for, was granted and has."""

    name: str


class Grant(Request, frozen=True):
    """Let a plugin have permissions; ``versions`` is a PEP 440 range, ``digest`` that of its code."""

    name: str
    permissions: list[str] = []
    versions: str = ""
    digest: str | None = None


class Revoke(Request, frozen=True):
    """Take permissions, and what lies in them, from a plugin."""

    name: str
    permissions: list[str] = []


class StateExport(Request, frozen=True):
    """Save a plugin's state, and write it to ``path`` (absolute, on the host's machine)."""

    name: str
    path: str


class StateImport(Request, frozen=True):
    """Give a plugin the state in the file at ``path`` (absolute)."""

    name: str
    path: str


class StateList(Request, frozen=True):
    """The snapshots of one plugin."""

    name: str


class Logs(Request, frozen=True):
    """What was logged and what happened lately; with ``follow``, also what comes."""

    name: str | None = None
    follow: bool = False
    limit: int = 200


class Stop(Request, frozen=True):
    """End the host in an orderly way."""


AnyRequest: TypeAlias = (
    Who
    | Plugins
    | Describe
    | Call
    | Execute
    | Load
    | Unload
    | Swap
    | Rollback
    | Reload
    | Permissions
    | Grant
    | Revoke
    | StateExport
    | StateImport
    | StateList
    | Logs
    | Stop
)


class Answer(msgspec.Struct, frozen=True, tag_field="answer", tag=_command):
    """Base of every answer. The last one is a Result or an Error, or a Notice that says why a stream ends."""


class Result(Answer, frozen=True):
    """It was done; ``value`` is what came of it."""

    value: Any = None


class Error(Answer, frozen=True):
    """It was not done. ``busy``: the host had no room for the request, it may be sent again."""

    type: str
    message: str
    traceback: str = ""
    busy: bool = False


class Entry(Answer, frozen=True):
    """One record of a stream."""

    record: dict[str, Any]


class Notice(Answer, frozen=True):
    """The stream ends here, and why."""

    text: str


_encoder: Final = msgspec.json.Encoder()
_request_decoder: Final = msgspec.json.Decoder(AnyRequest)
_answer_decoder: Final[msgspec.json.Decoder[Result | Error | Entry | Notice]] = msgspec.json.Decoder(Result | Error | Entry | Notice)


def encode(message: Request | Answer, *, limit: int) -> bytes:
    """Return the frame of ``message``.

    :raises ProtocolError: it has more than ``limit`` bytes, or holds what JSON cannot.
    """
    try:
        payload = _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"it cannot be written as JSON: {error}") from error
    if len(payload) > limit:
        raise ProtocolError(f"it has {len(payload)} bytes as JSON, the control socket carries at most {limit}")
    return HEADER.pack(len(payload)) + payload


def payload_length(header: bytes, *, limit: int) -> int:
    """Return the number of bytes that follow ``header``.

    :raises ProtocolError: it claims more than ``limit``, or nothing.
    """
    (length,) = HEADER.unpack(header)
    if not 0 < length <= limit:
        raise ProtocolError(f"a frame says that it has {length} bytes, wanted 1 to {limit}; is this a client of blackhole?")
    return int(length)


def decode_request(payload: bytes) -> AnyRequest:
    """Return the request.

    :raises ProtocolError: it is none; the sentence says where.
    """
    try:
        request: AnyRequest = _request_decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"not a request that this host knows: {error}") from error
    return request


def decode_answer(payload: bytes) -> Result | Error | Entry | Notice:
    """Return the answer.

    :raises ProtocolError: it is none.
    """
    try:
        return _answer_decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"the host's answer cannot be read: {error}") from error
