"""The plugin's side of one connection: it loads what it is told to, answers requests, and may call back into the host.

Threads: the main thread imports the plugin and runs its calls (signals and event loops work there as in any program),
``threads - 1`` more run calls beside it, and one daemon thread reads the channel. Requests begin strictly in the order in
which they came and each answer is written before its thread takes the next request; the host's ledger relies on both.

The end of the channel is the end of the host: the worker then kills its whole process group at once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from blackhole_core.executor.arena import MappedShelf
from blackhole_core.executor.context import leases_of
from blackhole_core.executor.failure import to_wire
from blackhole_core.executor.hostcalls import HostCalls
from blackhole_core.executor.hosted import host_object, instantiate
from blackhole_core.executor.lane import CAPACITY, WorkerLane
from blackhole_core.executor.leases import Leases
from blackhole_core.executor.mailbox import Job
from blackhole_core.executor.performing import Performer
from blackhole_core.executor.standing import busy_stacks
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.claims import claim_body, claimed
from blackhole_core.executor.wire.frames import USUAL_AT_ONCE, FrameReader, frame, read_size
from blackhole_core.executor.wire.parcels import MARK, Parcel
from blackhole_core.executor.wire.plain import encode_plain
from blackhole_core.executor.wire.policy import WallReport
from blackhole_core.executor.workerbinding import describe
from blackhole_core.executor.workerlog import report_logging
from blackhole_core.ids import PluginId
from blackhole_core.loader.codes import learn_codes
from blackhole_core.loader.universe import Universe
from blackhole_core.messages import CONTRACT

__all__ = ["Worker"]

#: ``prctl(2)`` option: the name of this thread, which as the first gives the process its own.
_PR_SET_NAME: Final = 15
#: Seconds in which the plugin's leases are undone at an orderly stop: the host waits 70 % of ``stop_grace`` (5 s) before it terminates the worker.
_LEASES_SECONDS: Final = 3.0


class Worker:
    """The plugin's side of one connection.

    Owners: ``_queue`` is fed by the reader and emptied by the executing threads; ``_queued``, ``_in_lane``, ``_left_lane`` and ``_withdrawn``
    are guarded by ``_lock``; whoever writes to the channel holds ``_write_lock`` for one whole frame. The lane belongs to the main thread.
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
        self._calls = HostCalls(self.send, shelf)
        self._universe: Universe | None = None
        self._leases: Leases | None = None
        self._performer: Performer  # from when the plugin is bound; no request comes before that
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
        _name_process(load.name)
        if self._shelf is not None:
            self._shelf.limit = load.max_message
        self._leases = leases_of(PluginId(load.name, load.version), load.generation)
        report_logging(self.send, load.log_level)
        learn_codes(load.code_mark, load.codes)
        tag = str(load.generation)
        recipe = None if load.sources is None else (load.packages, load.path, tag, load.sources)
        self._universe = universe = Universe(load.packages, Path(load.path), tag, fresh=load.changeable, recipe=recipe)
        hosted = host_object(instantiate(universe.load(load.entry, load.imported)), load.project)
        self.send(codec.Loaded(tuple(describe(hosted)), dict(hosted.surface.contracts)))
        bind = self._queue.get()
        if not isinstance(bind, codec.Bind):
            return
        self._calls.hooks = bind.hooks
        self._performer = Performer(load, bind, hosted, self._leases, self._calls, self._shelf)
        for number in range(load.threads - 1):
            thread = threading.Thread(target=self._serve, name=f"blackhole-call-{number + 2}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self.send(codec.Answer(0, msgspec.Raw(encode_plain(None))))

    def _forget_channel(self) -> None:
        """In a child that plugin code forked: it is not the worker, so it must neither answer nor keep the channel open."""
        self._lock = threading.Lock()  # another thread may have held them when this process was forked off
        self._write_lock = threading.Lock()
        self._calls.forget()
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
                self._calls.deliver(message)
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
            self._enqueue(None)
        elif self._shelf is not None:
            self._shelf.trim()

    def _enqueue(self, message: codec.Request | None) -> None:
        self._queue.put(message)
        if self._lane is not None:
            self._lane.wake()

    def _tell_imported(self, number: int) -> None:
        assert self._universe is not None, "the host asks after Loaded"
        names = [name for name in list(self._universe.registry) if len(name) <= codec.MAX_MODULE_NAME]
        self.send(codec.Imported(number, tuple(names[: codec.MAX_IMPORTED])))

    def _nest(self, message: codec.Request) -> None:
        """A call that came back while one of our threads waits for the host: that thread runs it."""
        abandoned = codec.Error(message.id, to_wire(TimeoutError("the outer call does not wait any more")))
        if not self._calls.post(message.parent, Job(lambda: self._answer(message), lambda: self.send(abandoned))):
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
                self._queue.put(None)  # for the next thread
                return
            self._take(message)
            del message  # or its arguments live until the next one comes

    def _serve(self) -> None:
        while (message := self._queue.get()) is not None:
            self._take(message)
            del message
        self._queue.put(None)  # for the next thread

    def _take(self, message: codec.Load | codec.Bind | codec.Request) -> None:
        if isinstance(message, codec.Request):
            with self._lock:
                wanted = message.id in self._queued
                self._queued.discard(message.id)
            if wanted and not (self._lane is not None and self._lane.condemned):
                self._answer(message)

    def _answer(self, request: codec.Request) -> None:
        if request.space == CONTRACT:
            result = self._performer.contract(request.id, request.hook, request.args, request.timeout)
        else:
            result = self._performer.implementation(request.id, request.index, request.args, request.timeout)
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
        result = self._performer.implementation(number, index, args, None if seconds == math.inf else seconds)
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


def _reply(number: int, result: bytes | codec.WireFailure) -> codec.Answer | codec.Error:
    return codec.Answer(number, msgspec.Raw(result)) if isinstance(result, bytes) else codec.Error(number, result)


def _name_process(plugin: str) -> None:
    """Have ``ps`` and ``top`` show whose worker this is: all forked from one process, they have one command line."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_NAME, f"bh {plugin}".encode()[:15], 0, 0, 0)  # what the kernel keeps; /proc may be closed to a worker
