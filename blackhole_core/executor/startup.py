"""The conversation by which a worker comes up: hello, load, loaded, bind, bound. One object per worker.

The I/O thread puts in what the worker says, the thread that brings the worker up takes it out. A worker says exactly three
things before it is up; whatever it says too early or too late is a breach of the protocol, so the inbox stays small.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Final, TypeVar

import attrs
import msgspec

from blackhole_core.errors import LoadFailed, ProtocolError, describe_exit
from blackhole_core.executor.binding import Binding, bind, describe_hooks
from blackhole_core.executor.connection import Ended
from blackhole_core.executor.failure import Rebuilder
from blackhole_core.executor.proxy import check_names
from blackhole_core.executor.runner import Host, RunnerSpec
from blackhole_core.executor.sandbox.judge import refuse_open
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.plain import NotPlain, encode_plain
from blackhole_core.executor.wire.policy import Policy, WallReport
from blackhole_core.ids import Isolation
from blackhole_core.loader.children import pack
from blackhole_core.loader.codes import pack_codes
from blackhole_core.loader.snapshot import Sources, read_sources
from blackhole_core.messages import Implementation, Surface

__all__ = ["Started", "Startup"]

#: What a worker says while it comes up: Hello, Loaded, and the answer to Bind (or an Error in place of the last two).
_MESSAGES: Final = 3

_M = TypeVar("_M", bound=msgspec.Struct)


@attrs.frozen(eq=False)
class Started:
    """What a worker turned out to offer, and how the values of each implementation travel."""

    surface: Surface
    bindings: tuple[Binding, ...]
    lane: bool  #: whether it takes calls by the lane
    arena: bool  #: whether it takes large values from the arena
    pid: int  #: its process id
    walls: WallReport  #: what it built around itself


class Startup:
    """One worker's way up, within ``limits.start_timeout`` from when it was launched, and again from when one that waited goes on."""

    def __init__(
        self, spec: RunnerSpec, host: Host, rebuilder: Rebuilder, policy: Policy | None = None, level: Isolation = Isolation.PROCESS
    ) -> None:
        """``policy`` says what walls the worker is to build around itself, None: none."""
        self._level = level
        self._spec = spec
        self._policy = policy
        self._host = host
        self._rebuilder = rebuilder
        self._plugin = str(spec.id)
        self.sources: Sources | None = None  #: the text that it is loaded from, once that was read; None for one that cannot change
        self._deadline = 0.0  # set when it was launched
        self._tail: Callable[[], tuple[str, ...]] = tuple
        self._inbox: queue.SimpleQueue[codec.WorkerMessage | Ended] = queue.SimpleQueue()
        self._said = 0  # messages; touched by the I/O thread only
        self._hello: codec.Hello | None = None

    # --- the I/O thread ----------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether the worker has said everything it has to say before it is up."""
        return self._said == _MESSAGES

    def hear(self, message: codec.WorkerMessage) -> None:
        """Take in what the worker said.

        :raises ProtocolError: it has nothing more to say.
        """
        if self.over:
            raise ProtocolError(f"{type(message).__name__} from a worker that has come up")
        self._said += 1
        self._inbox.put(message)

    def end(self, ended: Ended) -> None:
        """Take in that the worker ended."""
        self._inbox.put(ended)

    # --- the thread that brings it up --------------------------------------------------------------------------------

    def greet(self, send: Callable[[msgspec.Struct], None], tail: Callable[[], tuple[str, ...]] = tuple) -> None:
        """Have its walls built and hear its hello, no more: it waits then, and has no plugin code. :meth:`converse` goes on from there.

        :raises LoadFailed: it did not get there.
        """
        self._begin(tail)
        send(codec.Confine(self._policy))
        self._hello = self._expect(codec.Hello)

    def converse(self, send: Callable[[msgspec.Struct], None], log_level: int, tail: Callable[[], tuple[str, ...]] = tuple) -> Started:
        """Have the plugin loaded and its values' types agreed on. Called when it has just been launched, or waits since :meth:`greet`;
        ``tail`` tells the last lines it wrote.

        :raises Exception: what the plugin's import raised, or :class:`LoadFailed` with the reason, or
            :class:`~blackhole_core.errors.CannotCross` for a hook that cannot cross a process, or
            :class:`~blackhole_core.errors.IsolationUnavailable` for walls that do not hold.
        """
        self._begin(tail)
        if self._hello is None:
            send(codec.Confine(self._policy))
        send(self._load(log_level))  # made while the worker starts, and there when it looks for it
        hello = self._hello or self._expect(codec.Hello)
        if hello.protocol != codec.PROTOCOL:
            raise LoadFailed(self._plugin, f"its worker speaks protocol {hello.protocol}, the host {codec.PROTOCOL}")
        if self._policy is not None:
            refuse_open(self._policy, hello.walls, self._level)
        surface = self._surface(self._expect(codec.Loaded))
        bindings = tuple(bind(known, self._host.signature(known.hook), self._plugin) for known in surface.implementations)
        send(codec.Bind(tuple(binding.types for binding in bindings), describe_hooks(self._host)))
        self._expect(codec.Answer)
        return Started(surface, bindings, hello.lane, hello.arena, hello.pid, hello.walls)

    def _begin(self, tail: Callable[[], tuple[str, ...]]) -> None:
        self._deadline = time.monotonic() + self._spec.limits.start_timeout
        self._tail = tail

    def _load(self, log_level: int) -> codec.Load:
        spec = self._spec
        if spec.changeable:
            self.sources = spec.sources or read_sources(spec.path, spec.packages)
        try:
            config = encode_plain(dict(spec.config))
        except NotPlain as error:
            raise LoadFailed(self._plugin, f"its configuration cannot cross a process boundary: {error}") from None
        mark, codes = pack_codes(self.sources[1].files) if self.sources is not None else (b"", ())
        return codec.Load(
            entry=spec.entry,
            path=str(spec.path),
            packages=spec.packages,
            name=spec.id.name,
            version=spec.id.version,
            generation=spec.generation,
            project=spec.project,
            threads=spec.limits.threads,
            max_message=spec.limits.max_message,
            config=config,
            log_level=log_level,
            changeable=spec.changeable,
            code_mark=mark,
            codes=codes,
            imported=spec.imported,
            sources=pack(*spec.sources, level=0) if spec.sources is not None else None,
        )

    def _surface(self, loaded: codec.Loaded) -> Surface:
        surface = Surface(
            implementations=tuple(
                Implementation(info.attribute, info.hook, info.argnames, info.options, info.is_generator, info.annotated)
                for info in loaded.implementations
            ),
            contracts=loaded.contracts,
        )
        try:
            check_names(surface)
        except ValueError as error:
            raise LoadFailed(self._plugin, f"what its worker says it offers cannot be: {error}") from None
        return surface

    def _expect(self, kind: type[_M]) -> _M:
        """Return the next message, which must be of ``kind``."""
        try:
            message = self._inbox.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except queue.Empty:
            timeout = self._spec.limits.start_timeout
            late = [f"its worker was not ready within {timeout:g} s (start_timeout)", *_last_lines(self._tail())]
            raise LoadFailed(self._plugin, "\n".join(late)) from None
        if isinstance(message, kind):
            return message
        if isinstance(message, codec.Error):
            raise self._rebuilder.rebuild(message.failure, "import")
        if isinstance(message, Ended):
            raise LoadFailed(self._plugin, _describe_end(message))
        raise LoadFailed(self._plugin, f"its worker sent {type(message).__name__} where {kind.__name__} was expected")


def _describe_end(ended: Ended) -> str:
    cause = ended.reason or f"its worker {describe_exit(ended.exit)}"
    return "\n".join([f"{cause} before it was ready", *_last_lines(ended.tail)])


def _last_lines(tail: tuple[str, ...]) -> list[str]:
    return ["last lines it wrote:", *(f"  {line}" for line in tail)] if tail else []
