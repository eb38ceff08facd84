"""The messages of the protocol and how they become bytes. Pure.

One closed set of message types in each direction. Arguments and results travel inside a message as bytes of their own
(``Raw``), so that the thread that moves frames never decodes a value: the caller that waits for it does, by the type it
expects. Nothing is ever pickled. Both sides come from the same release, so there is no negotiation: the first message of
a worker names the protocol version and the host refuses another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeAlias, cast

import msgspec

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire.policy import Policy, WallReport

__all__ = [
    "MANY_BYTES",
    "MAX_CONTROL",
    "MAX_GROUP",
    "MAX_IMPORTED",
    "MAX_MODULE_NAME",
    "MAX_STACK_LINE",
    "MAX_STACK_LINES",
    "PROTOCOL",
    "Answer",
    "AskImported",
    "AskStacks",
    "Bind",
    "BoundTypes",
    "Cancel",
    "Confine",
    "Error",
    "Hello",
    "HookInfo",
    "HostCall",
    "HostMessage",
    "ImplementationInfo",
    "Imported",
    "Load",
    "Loaded",
    "Log",
    "Outcome",
    "Ping",
    "Pong",
    "Request",
    "Stacks",
    "StateChanged",
    "Stop",
    "Trim",
    "WireFailure",
    "WorkerMessage",
    "decode_host_message",
    "decode_many",
    "decode_outcomes",
    "decode_worker_message",
    "encode",
    "encode_many",
    "encode_outcomes",
    "is_log",
]

#: Bumped when a message changes its shape. Unknown trailing fields are ignored, missing optional ones are defaulted.
PROTOCOL: Final = 1

#: Bytes of a worker's message that carries no value. Decoded, a message may take some fifty times its size; values are not
#: decoded here but by the caller who waits for them.
MAX_CONTROL: Final = 1024 * 1024
#: Bytes of results after which no further one of many calls is begun for one request: an answer stays little larger than one result can be.
MANY_BYTES: Final = 1024 * 1024
#: Exceptions in one failure.
MAX_GROUP: Final = 100
#: Modules of a plugin that a worker names, and characters of such a name: more than plugins have, and together less than :data:`MAX_CONTROL`.
MAX_IMPORTED: Final = 4096
MAX_MODULE_NAME: Final = 200
#: Lines that tell where a worker's threads stand, and characters of a line: a deep recursion is cut, and together they are less than :data:`MAX_CONTROL`.
MAX_STACK_LINES: Final = 400
MAX_STACK_LINE: Final = 400
#: Arguments of one call: more than Python programs write down.
_MAX_ARGUMENTS: Final = 255


class WireFailure(msgspec.Struct, array_like=True, frozen=True):
    """An exception as data: where its type lives, what it was made of, what it says, and the traceback as text."""

    module: str
    name: str
    message: str
    args: bytes | None = None  #: plain-encoded argument tuple, None when an argument is not plain
    traceback: str = ""
    notes: tuple[str, ...] = ()
    cause: WireFailure | None = None
    group: Annotated[tuple[WireFailure, ...], msgspec.Meta(max_length=MAX_GROUP)] = ()


class ImplementationInfo(msgspec.Struct, array_like=True, frozen=True):
    """One hook implementation a worker found. ``annotated`` are the arguments whose type the implementation names itself."""

    attribute: str
    hook: str
    argnames: tuple[str, ...]
    options: dict[str, str | bool | None]
    is_generator: bool = False
    annotated: tuple[str, ...] = ()


# --- host → worker ---------------------------------------------------------------------------------------------------


class Confine(msgspec.Struct, array_like=True, frozen=True, tag=15):
    """Build these walls around yourself, and say hello from inside; None: there are none. First message to a worker, and the only one it reads before it has threads."""

    policy: Policy | None = None


class Load(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Import the plugin and make its object. Sent with :class:`Confine`, and read after that."""

    entry: str
    path: str
    packages: tuple[str, ...]
    name: str
    version: str | None
    generation: int
    project: str
    threads: int
    max_message: int
    config: bytes
    log_level: int = 30
    changeable: bool = True
    #: What the host has compiled of the plugin's sources, so that the worker need not: the mark of its byte code, and (file, sha256, code).
    code_mark: bytes = b""
    codes: tuple[tuple[str, bytes, bytes], ...] = ()
    #: The modules that the version before had imported, to be imported with the entry.
    imported: tuple[str, ...] = ()
    #: The text that the worker was loaded from whose place this one takes, as :mod:`blackhole_core.loader.children` packs it; None: what is on disk.
    sources: bytes | None = None


class HookInfo(msgspec.Struct, array_like=True, frozen=True):
    """What a worker must know of one host hook to call it: which arguments do not travel as plain data, and the result's type expression."""

    typed_args: tuple[str, ...] = ()
    open_result: bool = True
    result: str | None = None


class BoundTypes(msgspec.Struct, array_like=True, frozen=True):
    """The spec's types for one implementation: an expression for each argument (None: the implementation names it itself)."""

    args: tuple[str | None, ...] = ()
    open_result: bool = True


class Bind(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """After :class:`Loaded`: how the arguments and results of each implementation travel, and which hooks the host has."""

    types: tuple[BoundTypes, ...]
    hooks: dict[str, HookInfo]


class Request(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Call one implementation (or contract). ``parent`` is the :class:`HostCall` it is nested in, 0 for none.

    A negative ``index`` means many calls of implementation ``~index``, one after the other: ``args`` is what :func:`encode_many` makes of what each has there, and the
    result an array of :class:`Outcome`, for the first of them at least. What it leaves out was not begun.
    """

    id: int
    space: str
    hook: str
    index: int
    args: msgspec.Raw
    timeout: float | None = None
    parent: int = 0


class Cancel(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Nobody waits for this request any more; drop it if it has not begun. ``lane``: it went there, its answer must not."""

    id: int
    lane: bool = False


class Stop(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Answer what is begun, then exit."""


class Trim(msgspec.Struct, array_like=True, frozen=True, tag=14):
    """Give back the memory of large values that nobody looks at, see :mod:`blackhole_core.executor.arena`."""


class AskImported(msgspec.Struct, array_like=True, frozen=True, tag=12):
    """Say, calls under way or not, which of the plugin's modules are imported."""

    id: int


class Ping(msgspec.Struct, array_like=True, frozen=True, tag=20):
    """Answer with :class:`Pong`, calls under way or not, see :mod:`blackhole_core.executor.heartbeat`."""

    id: int


class AskStacks(msgspec.Struct, array_like=True, frozen=True, tag=22):
    """Say, likewise, where the threads that run calls stand."""

    id: int


# --- both ways -------------------------------------------------------------------------------------------------------


class Answer(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """The result of the request (or host call) ``id``."""

    id: int
    result: msgspec.Raw


class Error(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """The failure of the request (or host call, or load when 0) ``id``."""

    id: int
    failure: WireFailure


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """How one of many calls ended: its result, or a :class:`WireFailure`, as bytes."""

    failed: bool
    body: msgspec.Raw


# --- worker → host ---------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """First message of a worker. ``pid`` is its process id as the host sees it."""

    protocol: int
    pid: int
    python: str = ""
    #: Whether the worker takes calls from the memory that it was given, see :mod:`blackhole_core.executor.lane`.
    lane: bool = False
    #: Whether it takes large values from the memory that it was given, see :mod:`blackhole_core.executor.arena`.
    arena: bool = False
    #: What came of :class:`Confine`.
    walls: WallReport = WallReport()


class Loaded(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """The plugin is there; what it offers. ``version`` is what its module says of itself, if it does."""

    implementations: tuple[ImplementationInfo, ...]
    contracts: dict[str, tuple[str, ...]]


class HostCall(msgspec.Struct, array_like=True, frozen=True, tag=9):
    """Call a hook of the host. ``parent`` is the :class:`Request` it is made in, 0 when made by a thread of the plugin's own."""

    id: int
    hook: str
    kwargs: Annotated[dict[str, msgspec.Raw], msgspec.Meta(max_length=_MAX_ARGUMENTS)]
    timeout: float | None = None
    parent: int = 0


class Log(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """One record of the plugin's own ``logging``."""

    level: int
    logger: str
    message: str
    traceback: str = ""


class Imported(msgspec.Struct, array_like=True, frozen=True, tag=13):
    """The dotted names of the plugin's modules that are imported, those imported first first."""

    id: int
    names: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=MAX_MODULE_NAME)], ...], msgspec.Meta(max_length=MAX_IMPORTED)]


class Pong(msgspec.Struct, array_like=True, frozen=True, tag=21):
    """The answer to the :class:`Ping` of that number; there is one open at a time."""

    id: int


class Stacks(msgspec.Struct, array_like=True, frozen=True, tag=23):
    """The answer to :class:`AskStacks`: lines as a traceback has them."""

    id: int
    lines: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=MAX_STACK_LINE)], ...], msgspec.Meta(max_length=MAX_STACK_LINES)]


class StateChanged(msgspec.Struct, array_like=True, frozen=True, tag=24):
    """The plugin says that its state changed; told once until the host asks for the state."""


HostMessage: TypeAlias = Confine | Load | Bind | Request | Cancel | Stop | AskImported | Trim | Answer | Error | Ping | AskStacks
WorkerMessage: TypeAlias = Hello | Loaded | Answer | Error | HostCall | Log | Imported | Pong | Stacks | StateChanged

_encoder = msgspec.msgpack.Encoder()
_many_decoder: msgspec.msgpack.Decoder[tuple[bool, list[msgspec.Raw]]] = msgspec.msgpack.Decoder(tuple[bool, list[msgspec.Raw]])
_outcomes_decoder: msgspec.msgpack.Decoder[list[Outcome]] = msgspec.msgpack.Decoder(list[Outcome])
_failure_decoder: msgspec.msgpack.Decoder[WireFailure] = msgspec.msgpack.Decoder(WireFailure)
_host_decoder: msgspec.msgpack.Decoder[HostMessage] = msgspec.msgpack.Decoder(HostMessage)
_worker_decoder: msgspec.msgpack.Decoder[WorkerMessage] = msgspec.msgpack.Decoder(WorkerMessage)


def encode(message: msgspec.Struct) -> bytes:
    """Return the bytes of ``message``, without a frame around them."""
    return _encoder.encode(message)


def encode_many(args: Sequence[bytes], stop_at_failure: bool) -> bytes:
    """Return the arguments of many calls as one request has them, and whether a failure leaves out those after it."""
    return _encoder.encode((stop_at_failure, [msgspec.Raw(one) for one in args]))


def decode_many(data: bytes | msgspec.Raw) -> tuple[bool, list[msgspec.Raw]]:
    """Return what :func:`encode_many` was given. The host's bytes are trusted."""
    return _many_decoder.decode(data)


def encode_outcomes(outcomes: Sequence[bytes | WireFailure]) -> bytes:
    """Return the answer to a request for many calls: a result or a failure for each that was made."""
    return _encoder.encode(
        [
            Outcome(False, msgspec.Raw(one)) if isinstance(one, bytes) else Outcome(True, msgspec.Raw(_encoder.encode(one)))
            for one in outcomes
        ]
    )


def decode_outcomes(data: bytes | msgspec.Raw, most: int) -> list[msgspec.Raw | WireFailure]:
    """Return how the first of ``most`` calls ended, one at least.

    :raises ProtocolError: not that.
    """
    outcomes: list[Outcome] = _decode(_outcomes_decoder, data)
    if not 1 <= len(outcomes) <= most:
        raise ProtocolError(f"{len(outcomes)} outcomes of {most} calls")
    return [_decode(_failure_decoder, outcome.body) if outcome.failed else outcome.body for outcome in outcomes]


def decode_host_message(data: bytes) -> HostMessage:
    """Decode what a worker received.

    :raises ProtocolError: not one of the messages a host sends.
    """
    return cast(HostMessage, _decode(_host_decoder, data))


def decode_worker_message(data: bytes) -> WorkerMessage:
    """Decode what a host received. The bytes are hostile until this returns.

    :raises ProtocolError: not one of the messages a worker sends.
    """
    if len(data) > MAX_CONTROL and not _carries_a_value(data):
        raise ProtocolError(f"a message without a value of {len(data)} bytes, at most {MAX_CONTROL} are allowed")
    return cast(WorkerMessage, _decode(_worker_decoder, data))


def is_log(data: bytes) -> bool:
    """Whether a worker's message is a :class:`Log`, if it is one at all: so many come at once that they are told apart before they are decoded."""
    return len(data) > 1 and data[0] & 0xF0 == 0x90 and data[1] == Log.__struct_config__.tag


def _carries_a_value(data: bytes) -> bool:
    """Whether it is an :class:`Answer` or a :class:`HostCall`: a short msgpack array whose first element is their tag."""
    return data[0] & 0xF0 == 0x90 and data[1] in (Answer.__struct_config__.tag, HostCall.__struct_config__.tag)


def _decode(decoder: msgspec.msgpack.Decoder[Any], data: bytes | msgspec.Raw) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # ValueError: text that is not UTF-8
        raise ProtocolError(f"not a message of protocol {PROTOCOL}: {error}") from error
