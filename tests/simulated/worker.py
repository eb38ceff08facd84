"""A worker without a process: what it has been sent, what it has begun, and what it may do next.

It keeps the rules of :mod:`blackhole_core.executor.serving`: requests begin in the order in which they came, at most ``threads`` at once, each answer is written before the
next request begins on that thread. Its reader and its threads are not threads here but things that may happen, one at a time; a signal is one more, so
a worker that was killed may still do something before it ends. The plugin's code is what a real worker would import.
"""

from __future__ import annotations

import collections
import errno
import itertools
import math
import os
import select
import signal
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from blackhole_core.executor.failure import to_wire
from blackhole_core.executor.hosted import Hosted, host_object
from blackhole_core.executor.launch.child import Child, LaunchSpec, Start
from blackhole_core.executor.limits.usage import Usage
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import decode_open
from blackhole_core.executor.wire.frames import FrameReader, frame
from blackhole_core.executor.wire.plain import decode_plain, encode_plain
from blackhole_core.executor.workerbinding import WorkerBinding, describe
from blackhole_core.messages import CONTRACT

if TYPE_CHECKING:
    from tests.simulated.scheduler import Scheduler

__all__ = ["BREACHES", "Killed", "Machine", "SimulatedWorker"]

#: Descriptors of workers have numbers from here on, some apart; no real one has.
_FIRST: Final = 1 << 24
_RECEIVE, _SEND, _OUTPUT, _PIDFD, _PER_WORKER = range(5)


#: What breaks the protocol.
BREACHES: Final = frozenset({"twice", "breach", "too long"})
#: Seconds that a late call takes to have its effect.
_LATE: Final = 3.0
#: A call that was begun: the request, its number in the history, how and from when on it may be answered, and with what; None: it
#: has not had its effect yet.
_Begun: TypeAlias = tuple[codec.Request, int, str, float, bytes | codec.WireFailure | None]


class Killed(BaseException):
    """The worker ends here: nothing that the plugin does catches it."""


class Machine:
    """All workers of one history, their descriptors, and how many bytes a pipe holds. Stands for the launcher and the limiter of a level as well."""

    def __init__(self, scheduler: Scheduler, sources: dict[str, str]) -> None:
        self.scheduler = scheduler
        self.workers: list[SimulatedWorker] = []
        self.capacity = 65536
        self._codes = {version: compile(source, f"counter_{version}.py", "exec") for version, source in sources.items()}
        self._events: dict[int, int] = {}
        self.judge: Any = None  #: who is told what was executed
        self._event_numbers = itertools.count(_FIRST // 2)
        scheduler.sources.append(self._what_may_happen)

    @property
    def living(self) -> list[SimulatedWorker]:
        return [worker for worker in self.workers if worker.exit is None]

    def newest(self) -> int | None:
        """Return the count in the newest snapshot."""
        if self.judge is None:
            return None
        snapshot = self.judge.world.pm.parts.states.latest("counter")
        return None if snapshot is None else snapshot.data["count"]

    def _what_may_happen(self) -> list[Callable[[], object]]:
        return [one for worker in self.workers if worker.exit is None for one in worker.what_may_happen()]

    # --- a launcher --------------------------------------------------------------------------------------------------

    def launch(self, spec: LaunchSpec) -> Child:
        assert spec.plugin is not None
        worker = SimulatedWorker(self, len(self.workers), self._codes[str(spec.plugin.id.version)])
        worker.generation, worker.version = spec.plugin.generation, str(spec.plugin.id.version)
        self.workers.append(worker)
        return worker.child

    # --- a limiter ---------------------------------------------------------------------------------------------------

    def rlimits(self, confinement: object) -> tuple[()]:
        return ()

    def attach(self, child: Child, *_: object) -> Any:
        return types.SimpleNamespace(
            main=child.pid, held=False, usage=Usage, release=lambda: None, verdict=lambda status, ended_by_host: None
        )

    def enforcement(self, *_: object) -> dict[str, str]:
        return {}

    # --- descriptors -------------------------------------------------------------------------------------------------

    def worker_of(self, descriptor: int) -> SimulatedWorker:
        return self.workers[(descriptor - _FIRST) // _PER_WORKER]

    def ready(self, descriptor: int, wanted: int) -> int:
        """Return what ``poll`` tells of a descriptor."""
        if descriptor in self._events:
            return select.POLLIN if self._events[descriptor] else 0
        worker, role = self.worker_of(descriptor), (descriptor - _FIRST) % _PER_WORKER
        if role == _RECEIVE:
            return select.POLLIN if worker.outbound or worker.closed else 0
        if role == _SEND:
            return select.POLLERR if worker.deaf else select.POLLOUT & wanted if len(worker.inbound) < self.capacity else 0
        return select.POLLIN if worker.exit is not None else 0

    def os(self) -> types.ModuleType:
        """Return what stands for ``os`` where descriptors of workers are read and written."""
        shim = types.ModuleType("os")
        shim.__dict__.update({name: value for name, value in vars(os).items() if not name.startswith("__")})
        shim.__dict__.update(
            eventfd=self._eventfd,
            eventfd_write=self._ring,
            eventfd_read=self._unring,
            read=self._read,
            write=self._write,
            close=self._close,
        )
        return shim

    def _eventfd(self, *_: object) -> int:
        number = next(self._event_numbers)
        self._events[number] = 0
        return number

    def _ring(self, descriptor: int, value: int) -> None:
        self._events[descriptor] += value

    def _unring(self, descriptor: int) -> int:
        value, self._events[descriptor] = self._events[descriptor], 0
        return value

    def _close(self, descriptor: int) -> None:
        del self._events[descriptor]

    def _read(self, descriptor: int, size: int) -> bytes:
        worker = self.worker_of(descriptor)
        if (descriptor - _FIRST) % _PER_WORKER != _RECEIVE:
            return b""
        several = (
            self.scheduler.random.randrange(1, size) if len(worker.outbound) < size and self.scheduler.random.randrange(8) == 0 else size
        )
        data = bytes(worker.outbound[: min(several, 1 + several % 97) if several != size else size])
        del worker.outbound[: len(data)]
        return data

    def _write(self, descriptor: int, data: bytes | memoryview) -> int:
        worker = self.worker_of(descriptor)
        if worker.deaf:
            raise BrokenPipeError(errno.EPIPE, "the worker has ended")
        room = self.capacity - len(worker.inbound)
        if room <= 0:
            raise BlockingIOError(errno.EAGAIN, "the pipe is full")
        worker.inbound += data[:room]
        self.scheduler.maybe(100)
        return min(room, len(data))

    def poll(self) -> Any:
        """Return what stands for ``select.poll()``."""
        scheduler, ready, watched = self.scheduler, self.ready, dict[int, int]()

        def look() -> list[tuple[int, int]]:
            return [(descriptor, told) for descriptor, wanted in watched.items() if (told := ready(descriptor, wanted))]

        def poll(milliseconds: float | None = None) -> list[tuple[int, int]]:
            scheduler.block(look, None if milliseconds is None else milliseconds / 1000)
            return look()

        return types.SimpleNamespace(register=watched.__setitem__, modify=watched.__setitem__, unregister=watched.__delitem__, poll=poll)

    def wait_readable(self, descriptor: int, milliseconds: int | None) -> bool:
        if milliseconds == 0:
            return bool(self.ready(descriptor, select.POLLIN))
        return self.scheduler.block(lambda: self.ready(descriptor, select.POLLIN), None if milliseconds is None else milliseconds / 1000)


class _Child(Child):
    """The host's view of one."""

    def __init__(self, worker: SimulatedWorker, number: int) -> None:
        first = _FIRST + number * _PER_WORKER
        super().__init__(
            100_000 + number, first + _PIDFD, first + _RECEIVE, first + _SEND, first + _OUTPUT, start=Start("exec", "it is simulated")
        )
        self._worker = worker

    def _signal(self, number: int) -> None:
        self._worker.signal(number)

    def reap(self) -> int | None:
        with self._lock:
            self._reaped = True
            for action in self._on_reap:
                action()
        assert self._worker.exit is not None, "who reaps has seen it end"
        return self._worker.exit

    def close(self) -> None:
        return None

    def discard(self) -> None:
        self._worker.end(-signal.SIGKILL)


class SimulatedWorker:
    """One of them. ``plugin`` is the object in it, None until it has been loaded."""

    def __init__(self, machine: Machine, number: int, code: types.CodeType) -> None:
        self.machine, self.number, self.child = machine, number, _Child(self, number)
        self.inbound, self.outbound = bytearray(), bytearray()
        self.closed = self.deaf = False  #: whether nothing more comes from it, and nothing goes to it
        self.exit: int | None = None
        self.born = machine.scheduler.now
        self.load: codec.Load | None = None
        self.plugin: Any = None
        self.stopped = False  #: whether it was sent SIGSTOP
        self._code = code
        self._frames = FrameReader()
        self._heard: collections.deque[bytes] = collections.deque()
        self._queue: collections.deque[codec.Request | None] = collections.deque()
        self._running: list[_Begun] = []
        self._signals: list[int] = []
        self._hosted: Hosted | None = None
        self._bindings: tuple[WorkerBinding, ...] = ()
        self.generation, self.version = 0, ""  #: of the instance it was launched for
        self.given: int | None = None  #: the state it was given
        self.left: list[int] = []  #: the calls it had begun and not answered when it ended
        self.answered_badly = False
        self.kept = machine.newest()  #: the state that was kept when it was launched
        self.stopped_at = math.inf  #: since when it stands still
        self._owing_since = math.inf
        self._say(codec.Hello(codec.PROTOCOL, self.child.pid))

    @property
    def owes(self) -> bool:
        """Whether it was sent something that it has not answered."""
        return bool(self.inbound or self._heard or self._queue or self._running)

    @property
    def queued(self) -> list[int]:
        """The numbers, in the history, of the calls that it was sent and has not begun."""
        return [self._arguments(request)[0] for request in self._queue if request is not None and request.space != CONTRACT]

    def owing(self) -> float:
        """Return since when it owes something, as far as anybody has looked; infinity when it does not."""
        if not self.owes:
            self._owing_since = math.inf
        elif self._owing_since == math.inf:
            self._owing_since = self.machine.scheduler.now
        return self._owing_since

    # --- what may happen next ----------------------------------------------------------------------------------------

    def what_may_happen(self) -> list[Callable[[], object]]:
        """Return what this worker may do now."""
        deliverable = signal.SIGKILL in self._signals if self.stopped else self._signals
        found: list[Callable[[], object]] = [self._take_signal] if deliverable else []
        if self.stopped:
            return found
        if self.inbound or self._heard:
            found.append(self._hear)
        threads = self.load.threads if self.load is not None else 1
        if self._queue and len(self._running) < (threads if self._queue[0] is not None else 1):  # it ends when all calls have
            found.append(self._begin)
        now = self.machine.scheduler.now
        found += [lambda call=call: self._finish(call) for call in self._running if call[3] <= now]  # type: ignore[misc]  # a default binds the loop's value
        return found

    def signal(self, number: int) -> None:
        """Have a signal delivered, some time; a stopped process takes SIGKILL and SIGCONT alone."""
        if number == signal.SIGCONT:
            self.stopped, self.stopped_at = False, math.inf
        elif number == signal.SIGSTOP:
            self.stopped, self.stopped_at = True, min(self.stopped_at, self.machine.scheduler.now)
        elif self.exit is None and number not in self._signals:
            self._signals.append(number)

    def _take_signal(self) -> None:
        self.end(-(signal.SIGKILL if signal.SIGKILL in self._signals else self._signals[0]))

    def end(self, status: int) -> None:
        """End it; what it has written stays in the pipe."""
        if self.exit is None:
            self.exit = status
            self.left = [call for request, call, *_ in self._running]
            self.closed = self.deaf = True
            self._heard.clear()
            self._queue.clear()
            self._running.clear()

    # --- the channel -------------------------------------------------------------------------------------------------

    def _say(self, message: msgspec.Struct) -> None:
        if not self.closed:
            self.outbound += frame(codec.encode(message))

    def _hear(self) -> None:  # noqa: C901 - one case for each message
        if not self._heard:
            self._heard += self._frames.feed(bytes(self.inbound))
            self.inbound.clear()
            if not self._heard:
                return
        message = codec.decode_host_message(self._heard.popleft())
        match message:
            case codec.Request():
                self._queue.append(message)
            case codec.Cancel():
                self._cancel(message.id)
            case codec.Ping():
                self._say(codec.Pong(message.id))
            case codec.AskStacks():
                self._say(codec.Stacks(message.id, ()))
            case codec.AskImported():
                self._say(codec.Imported(message.id, ("counter_plugin",)))
            case codec.Load():
                self._come_up(message)
            case codec.Bind():
                self._bind(message)
            case codec.Stop():
                self._queue.append(None)
            case _:
                pass

    def _cancel(self, number: int) -> None:
        for request in self._queue:
            if request is not None and request.id == number:
                self._queue.remove(request)
                self._say(codec.Error(number, to_wire(TimeoutError("cancelled before it began"))))
                return

    def _come_up(self, load: codec.Load) -> None:
        self.load = load
        module: dict[str, Any] = {"__name__": "counter_plugin"}
        exec(self._code, module)
        module |= {"worker": self, "die": self.die, "hold": self.hang}
        self.plugin = module["Plugin"]()
        self._hosted = host_object(self.plugin, load.project)
        self._say(codec.Loaded(tuple(describe(self._hosted)), dict(self._hosted.surface.contracts)))

    def _bind(self, bind: codec.Bind) -> None:
        assert self._hosted is not None
        known = zip(self._hosted.implementations, self._hosted.surface.implementations, bind.types, strict=True)
        self._bindings = tuple(WorkerBinding(info.hook, function, info.argnames, types) for function, info, types in known)
        self._say(codec.Answer(0, msgspec.Raw(encode_plain(None))))

    # --- what the plugin says ----------------------------------------------------------------------------------------

    def start(self, config: dict[str, Any]) -> None:
        """It starts."""

    def die(self, call: int | None = None) -> None:
        """End here, in the middle of ``call`` if it is one."""
        if call == -1:
            self.machine.judge.poisoned[self.generation] += 1
        raise Killed

    def hang(self) -> None:
        self._until = math.inf

    def note(self, call: int, count: int) -> None:
        """A call has its effect."""
        self._call = call
        self.machine.judge.effects[call].append((self, count, self.machine.scheduler.decisions))

    def answer(self, how: str) -> None:
        """This is how the call that runs ends."""
        if how == "after":
            raise Killed
        if how == "raise":
            raise RuntimeError("on purpose")
        self._how = how
        if how == "hang":
            self._until = math.inf

    def go_on(self) -> None:
        """Let what hangs end."""
        self._running = [(request, call, how, self.machine.scheduler.now, result) for request, call, how, _, result in self._running]

    def exported(self, count: int) -> None:
        self.machine.judge.exports[self.generation] = self.machine.scheduler.decisions

    def imported(self, count: int) -> None:
        """It is given state, which must be what was kept last."""
        self.given = count
        newest = self.machine.newest()
        if newest != count:
            self.machine.judge.faults.append(f"worker {self.number} was given the count {count}, the newest snapshot has {newest}")

    # --- calls -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin the next call: what it does, it does now; when and how it answers comes later."""
        request = self._queue.popleft()
        if request is None:
            self.end(0)
            return
        now = self.machine.scheduler.now
        if self._is_late(request):  # its effect comes with its answer
            self._running.append((request, -2, "no", now + _LATE, None))
            return
        self._how, self._until, self._call = "", now, -2
        result = self._run(request)
        if result is not None:
            self._running.append((request, self._call, self._how, self._until, result))

    def _is_late(self, request: codec.Request) -> bool:
        return request.space != CONTRACT and self._arguments(request)[-1] == "late"

    def _arguments(self, request: codec.Request) -> Any:
        return self._bindings[request.index].arguments.decode(request.args)

    def _run(self, request: codec.Request) -> bytes | codec.WireFailure | None:
        """Run a call; None when the worker was killed by that."""
        try:
            return self._perform(request)
        except Killed:
            self.end(-signal.SIGKILL)
            self.left.append(self._call)
            return None
        except Exception as error:
            return to_wire(error)

    def _perform(self, request: codec.Request) -> bytes:
        if request.space != CONTRACT:
            return self._bindings[request.index].call(request.args, None)
        args = decode_open(request.args)
        if request.hook == "plugin_start":
            assert self.load is not None
            args = tuple(types.SimpleNamespace(config=decode_plain(self.load.config)) for _ in args)
        assert self._hosted is not None
        return encode_plain(self._hosted.contracts[request.hook](*args))

    def _finish(self, call: _Begun) -> None:
        """Answer a call, as it was told to. What breaks the protocol is done in the middle of the call, which goes on then."""
        self._running.remove(call)
        request, number, how, _, result = call
        if result is None:
            result = self._run(request)
            assert result is not None, "what is late does not die"
        answer = codec.Answer(request.id, msgspec.Raw(result)) if isinstance(result, bytes) else codec.Error(request.id, result)
        data = frame(codec.encode(answer))
        if how in BREACHES:
            self.answered_badly = True
        if how == "mid-answer":
            self._running.append(call)
            self.outbound += data[: len(data) // 2]
            self.end(-signal.SIGKILL)
        elif how == "answered":
            self.outbound += data
            self.end(-signal.SIGKILL)
        elif how == "twice":
            self.outbound += data * 2
        elif how in ("breach", "too long", "closes"):
            self.outbound += {"breach": frame(b"\xc1 nonsense"), "too long": (2**31).to_bytes(4, "big"), "closes": b""}[how]
            self.closed = self.deaf = self.deaf or how == "closes"
            self._running.append((request, number, "hang", math.inf, result))
        else:
            self.outbound += data
