"""The plugin's side of one connection: it loads what it is told to, answers requests, and may call back into the host.

Threads: the main thread imports the plugin and runs its calls (signals and event loops work there as in any program),
``threads - 1`` more run calls beside it, and one daemon thread reads the channel. Requests begin strictly in the order in
which they came and each answer is written before its thread takes the next request; the host's ledger relies on both.

The end of the channel is the end of the host: the worker then kills its whole process group at once.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import logging
import math
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from blackhole_core.callcontext import bound_deadline, get_deadline
from blackhole_core.executor.arena import MappedShelf
from blackhole_core.executor.context import PluginContext, leases_of
from blackhole_core.executor.failure import Rebuilder, cannot_cross, to_wire, too_large
from blackhole_core.executor.hosted import Hosted, host_object, instantiate
from blackhole_core.executor.lane import CAPACITY, WorkerLane
from blackhole_core.executor.leases import Leases
from blackhole_core.executor.mailbox import Job, Mailbox, MailboxTimeout
from blackhole_core.executor.standing import busy_stacks
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import Claim, claim_body, claimed, decode_open
from blackhole_core.executor.wire.frames import USUAL_AT_ONCE, FrameReader, frame, read_size
from blackhole_core.executor.wire.parcels import MARK, Parcel, Shelf, TooLarge, hand_over
from blackhole_core.executor.wire.plain import NotPlain, decode_plain, encode_plain
from blackhole_core.executor.wire.policy import WallReport
from blackhole_core.executor.wire.signature import ResultDecoder
from blackhole_core.executor.wire.types import type_of_expression
from blackhole_core.executor.workerbinding import WorkerBinding, describe, encode_argument, settle
from blackhole_core.executor.workerlog import report_logging
from blackhole_core.ids import PluginId
from blackhole_core.loader.codes import learn_codes
from blackhole_core.loader.universe import Universe
from blackhole_core.messages import CONTRACT

__all__ = ["Worker"]

#: ``prctl(2)`` option: the name of this thread, which as the first gives the process its own.
_PR_SET_NAME: Final = 15
#: Seconds after which no further one of many calls is begun for one request: a drain, and every other caller, waits for the whole of it.
_MANY_SECONDS: Final = 0.005
#: Seconds in which the plugin's leases are undone at an orderly stop: the host waits 70 % of ``stop_grace`` (5 s) before it terminates the worker.
_LEASES_SECONDS: Final = 3.0

#: The request this code runs in, 0 for a thread of the plugin's own.
_request: Final[contextvars.ContextVar[int]] = contextvars.ContextVar("blackhole_request", default=0)


class Worker:
    """The plugin's side of one connection.

    Owners: ``_queue`` is fed by the reader and emptied by the executing threads; ``_queued``, ``_mailboxes``, ``_in_lane``, ``_left_lane`` and
    ``_withdrawn`` are guarded by ``_lock``; whoever writes to the channel holds ``_write_lock`` for one whole frame. The lane belongs to the main thread.
    """

    def __init__(
        self,
        receive: int,
        send: int,
        lane: WorkerLane | None = None,
        shelf: MappedShelf | None = None,
        *,
        pid: int | None = None,
        walls: WallReport | None = None,
    ) -> None:
        """``pid`` is this process's id as the host sees it, ``walls`` what was built around it."""
        self._receive = receive
        self._send = send
        self._pid = pid or os.getpid()
        self._walls = walls or WallReport()
        self._write_lock = threading.Lock()
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[codec.Load | codec.Bind | codec.Request | None] = queue.SimpleQueue()
        self._queued: set[int] = set()
        self._shelf = shelf
        self._lane = lane
        self._in_lane = 0  # the request that came by the lane and is to be answered there
        self._left_lane = 0  # the latest that was answered there
        self._left_parcel: Parcel | None = None  # that answer, if parts of it lie in the arena
        self._withdrawn = 0  # the latest that was cancelled before it was taken from the lane
        self._mailboxes: dict[int, Mailbox[codec.Answer | codec.Error]] = {}
        self._numbers = itertools.count(1)
        self._load: codec.Load | None = None
        self._max_message = 0
        self._universe: Universe | None = None
        self._hosted: Hosted | None = None
        self._leases: Leases | None = None
        self._bindings: tuple[WorkerBinding, ...] = ()
        self._hooks: dict[str, codec.HookInfo] = {}
        self._change_told = False  # since the host last asked for the state
        self._rebuilder = Rebuilder("host", "the host", _known_here)
        self._threads: list[threading.Thread] = []

    # --- life --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until told to stop. Called on the main thread."""
        os.register_at_fork(after_in_child=self._forget_channel)
        self.greet()
        threading.Thread(target=self._read, name="blackhole-reader", daemon=True).start()
        try:
            self._bring_up()
        except BaseException as error:
            self.send(codec.Error(0, to_wire(error)))
            return
        if self._lane is not None:
            self._serve_lane(self._lane)
        else:
            self._serve()
        for thread in self._threads:  # each finishes the call it has begun, then finds the queue's end
            thread.join()
        self._end_leases()

    def greet(self) -> None:
        """Say hello."""
        version = sys.version.partition(" ")[0]
        self.send(codec.Hello(codec.PROTOCOL, self._pid, version, self._lane is not None, self._shelf is not None, self._walls))

    def _end_leases(self) -> None:
        """Undo what the plugin took through its context, on this thread: it is the one that called ``plugin_start``, unless the plugin has several."""
        if self._leases is not None:
            for problem in self._leases.end(_LEASES_SECONDS, lambda undo: undo()):
                logging.getLogger("blackhole.leases").warning("%s", problem)

    def _bring_up(self) -> None:
        """Import the plugin, tell the host what it offers, and learn how its values travel."""
        load = self._queue.get()
        if not isinstance(load, codec.Load):
            return
        self._load = load
        _name_process(load.name)
        self._max_message = load.max_message
        if self._shelf is not None:
            self._shelf.limit = load.max_message
        self._leases = leases_of(PluginId(load.name, load.version), load.generation)
        report_logging(self.send, load.log_level)
        learn_codes(load.code_mark, load.codes)
        tag = str(load.generation)
        recipe = None if load.sources is None else (load.packages, load.path, tag, load.sources)
        self._universe = universe = Universe(load.packages, Path(load.path), tag, fresh=load.changeable, recipe=recipe)
        self._hosted = host_object(instantiate(universe.load(load.entry, load.imported)), load.project)
        self.send(codec.Loaded(tuple(describe(self._hosted)), dict(self._hosted.surface.contracts)))
        bind = self._queue.get()
        if not isinstance(bind, codec.Bind):
            return
        self._bind(bind)
        for number in range(load.threads - 1):
            thread = threading.Thread(target=self._serve, name=f"blackhole-call-{number + 2}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self.send(codec.Answer(0, msgspec.Raw(encode_plain(None))))

    def _forget_channel(self) -> None:
        """In a child that plugin code forked: it is not the worker, so it must neither answer nor keep the channel open."""
        self._lock = threading.Lock()  # another thread may have held them when this process was forked off
        self._write_lock = threading.Lock()
        self._queue = queue.SimpleQueue()  # what waited there is the worker's to do
        for descriptor in (self._receive, self._send):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._receive = self._send = -1  # the numbers may soon mean other files
        if self._lane is not None:
            self._lane.forget()

    # --- the channel -------------------------------------------------------------------------------------------------

    def send(self, message: msgspec.Struct) -> None:
        """Write one whole message."""
        data = frame(codec.encode(message))
        with self._write_lock:
            written = os.write(self._send, data)
            while written < len(data):
                written += os.write(self._send, memoryview(data)[written:])

    def _read(self) -> None:
        # The thread that runs calls takes it, and so begins no other one meanwhile; ``abort()`` in this one unblocks it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGABRT})
        frames = FrameReader(2**32)  # the host is trusted; its own cap has been applied on its side
        size = USUAL_AT_ONCE
        try:
            while data := os.read(self._receive, size):
                size = read_size(len(data))
                for body in frames.feed(data):
                    self._dispatch(codec.decode_host_message(body))
        finally:  # the host is gone, or plugin code closed the channel: a worker that cannot hear is of no use
            os.killpg(0, signal.SIGKILL)

    def _dispatch(self, message: codec.HostMessage) -> None:
        message = claim_body(message, self._shelf)
        match message:
            case codec.Request(parent=0):
                with self._lock:
                    self._queued.add(message.id)
                self._enqueue(message)
            case codec.Request():
                self._nest(message)
            case codec.Answer() | codec.Error():
                with self._lock:
                    mailbox = self._mailboxes.get(message.id)
                if mailbox is not None:
                    mailbox.deliver(message)
            case codec.Cancel():
                self._cancel_in_lane(message.id) if message.lane else self._cancel(message.id)
            case codec.AskImported() | codec.AskStacks() | codec.Ping():
                self._tell(message)
            case codec.Load() | codec.Bind():
                self._queue.put(message)
            case codec.Trim() | codec.Stop():
                self._obey(message)

    def _tell(self, question: codec.AskImported | codec.AskStacks | codec.Ping) -> None:
        """Answer what the host asks of the worker itself, whatever its calls do."""
        match question:
            case codec.Ping():
                self.send(codec.Pong(question.id))
            case codec.AskImported():
                self._tell_imported(question.id)
            case codec.AskStacks():
                self.send(codec.Stacks(question.id, busy_stacks([threading.main_thread(), *self._threads])))

    def _obey(self, message: codec.Trim | codec.Stop) -> None:
        if isinstance(message, codec.Stop):
            for _ in range(self._load.threads if self._load else 1):
                self._enqueue(None)
        elif self._shelf is not None:
            self._shelf.trim()

    def _enqueue(self, message: codec.Request | None) -> None:
        self._queue.put(message)
        if self._lane is not None:
            self._lane.wake()

    def _bind(self, message: codec.Bind) -> None:
        assert self._hosted is not None, "the host binds after Loaded"
        self._hooks = message.hooks
        self._bindings = tuple(
            WorkerBinding(implementation.hook, function, implementation.argnames, types)
            for function, implementation, types in zip(
                self._hosted.implementations, self._hosted.surface.implementations, message.types, strict=True
            )
        )

    def _tell_imported(self, number: int) -> None:
        assert self._universe is not None, "the host asks after Loaded"
        names = [name for name in list(self._universe.registry) if len(name) <= codec.MAX_MODULE_NAME]
        self.send(codec.Imported(number, tuple(names[: codec.MAX_IMPORTED])))

    def _nest(self, message: codec.Request) -> None:
        """A call that came back while one of our threads waits for the host: that thread runs it."""
        with self._lock:
            mailbox = self._mailboxes.get(message.parent)
        abandoned = codec.Error(message.id, to_wire(TimeoutError("the outer call does not wait any more")))
        if mailbox is None or not mailbox.post(Job(lambda: self._answer(message), lambda: self.send(abandoned))):
            self.send(abandoned)

    def _cancel(self, number: int) -> None:
        with self._lock:
            if number not in self._queued:
                return
            self._queued.discard(number)
            # Written under the lock: no thread skips this request and begins a later one before the host can know of it, or that later
            # one would be taken for untouched if we died now, and run twice.
            self.send(codec.Error(number, to_wire(TimeoutError("cancelled before it began"))))

    # --- calls of the plugin -----------------------------------------------------------------------------------------

    def _serve_lane(self, lane: WorkerLane) -> None:
        """Serve the lane and the queue. A request in the lane was sent before anything that is queued."""
        while True:
            if lane.look():
                self._answer_in_lane(lane)
                continue
            if self._queue.empty():
                lane.sleep(self._queue.empty)
                continue
            try:
                message = self._queue.get_nowait()
            except queue.Empty:  # another thread was faster
                continue
            # One that came between the look and the queue came before what was taken from there; the ledger counts on this order.
            if lane.requested():
                self._answer_in_lane(lane)
            if message is None:
                return
            self._take(message)
            del message  # or its arguments live until the next one comes

    def _serve(self) -> None:
        while (message := self._queue.get()) is not None:
            self._take(message)
            del message

    def _take(self, message: codec.Load | codec.Bind | codec.Request) -> None:
        if isinstance(message, codec.Request):
            with self._lock:
                wanted = message.id in self._queued
                self._queued.discard(message.id)
            if wanted and not (self._lane is not None and self._lane.condemned):
                self._answer(message)

    def _answer(self, request: codec.Request) -> None:
        if request.space == CONTRACT:
            result = contextvars.copy_context().run(self._perform, request.id, request.hook, request.args, request.timeout)
        else:
            result = self._perform_indexed(request.id, request.index, request.args, request.timeout)
        self.send(_reply(request.id, result))

    # --- calls that come by the lane ---------------------------------------------------------------------------------

    def _answer_in_lane(self, lane: WorkerLane) -> None:
        """Answer the request in the lane: there, or by the channel when it cannot or nobody looks there any more."""
        number, index, seconds, args = lane.receive()
        if args[:1] == MARK:
            args = claimed(args, self._shelf)
        with self._lock:
            self._in_lane = number if number != self._withdrawn else 0
        if not self._in_lane:
            self.send(codec.Error(number, to_wire(TimeoutError("cancelled before it began"))))
            return
        result = self._perform_indexed(number, index, args, None if seconds == math.inf else seconds)
        there = False
        with self._lock:
            if self._in_lane == number and isinstance(result, bytes) and len(result) <= CAPACITY:
                lane.send(number, result)
                self._left_lane = number
                self._left_parcel = result if type(result) is Parcel else None
                there = True
            self._in_lane = 0
        if there:
            lane.knock()
        else:
            self.send(_reply(number, result))

    def _cancel_in_lane(self, number: int) -> None:
        """Have a request answered by the channel from now on: nobody looks into the lane for it any more."""
        with self._lock:
            if number == self._in_lane:
                self._in_lane = 0
            elif number == self._left_lane:
                if self._left_parcel is not None:
                    self._left_parcel.take_back()
                self.send(codec.Error(number, to_wire(TimeoutError("answered when nobody waited any more"))))
            else:
                self._withdrawn = number
                if self._lane is not None:
                    self._lane.wake()  # whoever put it there may have been interrupted before it rang

    # --- any call ----------------------------------------------------------------------------------------------------

    def _perform_indexed(self, number: int, index: int, args: Any, timeout: float | None) -> bytes | codec.WireFailure:
        """Run one call of an implementation, or many one after the other, each in a context of its own."""
        if index >= 0:
            return contextvars.copy_context().run(self._perform, number, self._bindings[index], args, timeout, self._shelf)
        binding, begun, size = self._bindings[~index], time.monotonic(), 0
        outcomes: list[bytes | codec.WireFailure] = []
        stop_at_failure, several = codec.decode_many(args)
        for one in several:
            passed = time.monotonic() - begun
            if outcomes and (passed > _MANY_SECONDS or size > codec.MANY_BYTES):
                break  # others wait for their turn; the host asks again for the rest
            left = None if timeout is None else timeout - passed
            outcome = contextvars.copy_context().run(self._perform, number, binding, one, left)
            outcomes.append(outcome)
            if isinstance(outcome, bytes):
                size += len(outcome)
            elif stop_at_failure:
                break
        return codec.encode_outcomes(outcomes)

    def _perform(
        self, number: int, target: WorkerBinding | str, args: bytes | msgspec.Raw | Claim, timeout: float | None, shelf: Shelf | None = None
    ) -> bytes | codec.WireFailure:
        """Run one call in a context of its own, of an implementation or the contract of that name; return the result or what went wrong."""
        _request.set(number)
        if timeout is not None:
            bound_deadline(time.monotonic() + timeout)
        try:
            result = self._contract(target, args) if isinstance(target, str) else target.call(args, shelf)
        except NotPlain as error:
            return cannot_cross("the result" + (f" at {error.path}" if error.path else ""), error.type_name)
        except TooLarge as error:
            return too_large(error.size, self._max_message)
        except BaseException as error:
            return to_wire(error)
        if len(result) > self._max_message:
            return too_large(len(result), self._max_message)
        if type(result) is Parcel:
            result.handed = True
        return result

    def _contract(self, hook: str, data: bytes | msgspec.Raw | Claim) -> bytes:
        assert self._hosted is not None
        args = decode_open(data)
        if hook == "plugin_start":
            args = tuple(self._context() for _ in args)
        elif hook == "plugin_stop" and self._leases is not None:
            self._leases.stopping.set()
        elif hook == "plugin_export_state":
            self._change_told = False  # first: what changes from now on may not be in what it gives
        return encode_plain(settle(self._hosted.contracts[hook](*args)), self._shelf)

    def _context(self) -> PluginContext:
        load, leases = self._load, self._leases
        assert load is not None
        assert leases is not None
        return PluginContext(
            load.name, load.version, load.generation, decode_plain(load.config), HostRelay(self), leases, self._tell_change
        )

    def _tell_change(self) -> None:
        """Tell the host that the plugin's state changed; more than one thread may tell it twice, which does no harm."""
        if not self._change_told:
            self._change_told = True
            self.send(codec.StateChanged())

    # --- calls of the host -------------------------------------------------------------------------------------------

    def call_host(self, hook: str, kwargs: dict[str, Any]) -> Any:
        """Call a hook of the host and return its result; nested calls into this plugin run on this thread meanwhile."""
        info = self._hooks.get(hook)
        if info is None:
            raise AttributeError(f"the host has no hook {hook!r}")
        number = next(self._numbers)
        mailbox: Mailbox[codec.Answer | codec.Error] = Mailbox()
        with self._lock:
            self._mailboxes[number] = mailbox
        deadline = get_deadline()
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            bodies = {name: encode_argument(name, value, hook, info, self._shelf) for name, value in kwargs.items()}
            self.send(codec.HostCall(number, hook, hand_over(bodies), timeout, _request.get()))
            reply = mailbox.wait(deadline)
        except MailboxTimeout:
            raise TimeoutError(f"the host's hook {hook!r} gave no answer within {timeout or 0:g} s") from None
        finally:
            with self._lock:
                del self._mailboxes[number]
        if isinstance(reply, codec.Error):
            raise self._rebuilder.rebuild(reply.failure, hook)
        if info.result is None:
            return decode_open(reply.result)
        return ResultDecoder(type_of_expression(info.result)).decode(reply.result)


class HostRelay:
    """``context.hook`` in a worker: the host's hooks by name, with the call syntax of pluggy."""

    def __init__(self, worker: Worker) -> None:
        self.__worker = worker

    def __getattr__(self, hook: str) -> Callable[..., Any]:
        if hook.startswith("_"):
            raise AttributeError(hook)
        worker = self.__worker

        def call(**kwargs: Any) -> Any:
            return worker.call_host(hook, kwargs)

        return call


def _known_here(module: str, name: str) -> type[Exception] | None:
    """Return an exception type of a module that is imported already: the host may raise in a plugin what the plugin knows."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def _reply(number: int, result: bytes | codec.WireFailure) -> codec.Answer | codec.Error:
    return codec.Answer(number, msgspec.Raw(result)) if isinstance(result, bytes) else codec.Error(number, result)


def _name_process(plugin: str) -> None:
    """Have ``ps`` and ``top`` show whose worker this is: all forked from one process, they have one command line."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_NAME, f"bh {plugin}".encode()[:15], 0, 0, 0)  # what the kernel keeps; /proc may be closed to a worker
