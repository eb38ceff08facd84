"""The short way to a worker and back: one call at a time through memory that both processes map.

A call that finds its worker idle need not wake the host's I/O thread nor the worker's reader: the calling thread writes the
arguments into shared memory, and the thread that runs the plugin's calls takes them from there and puts the result beside
them. While calls come in quick succession, and where that makes them shorter, both sides look at the memory for a moment before they sleep, so a call
and its answer cost no system call at all; an idle pair of processes sleeps. Looking only helps two processes on two processors, and the kernel wakes a
process where it was rung; so a worker that falls asleep between such calls first leaves the processor that the host is on. Everything else (several calls
at once, nested calls, large values, exceptions, logs, control) travels through the channel's pipes.

Layout, the flags of either side on cache lines of their own::

    REQUEST   1 byte   tag of the latest request
    AGAIN     1 byte   0: nothing. Else the next request may come soon after this one's answer: look for it before you sleep, and not on processor AGAIN - 1
    CONDEMNED 1 byte   the worker is being ended: it begins no other call, by whatever way it came
    DOZING    1 byte   1: the worker sleeps, or is about to: a request must be followed by a ring at its door; 2: and wakes up on another processor
    WAITING   1 byte   the same for the host
    ANSWER    1 byte   tag of the latest answer
    IN, OUT   header and body of the request, and of the answer

Invariants:

* The host makes the memory, sealed against growing and shrinking, so no access of its own can fault, whatever the worker does.
* At most one call holds the lane (:meth:`HostLane.send` to :meth:`HostLane.leave`). It has a tag of its own; a tag that stands
  in the memory for another call is no answer.
* The host reads each number once, checks it, and copies the body out before it is decoded: a worker that writes nonsense, or at
  the wrong time, spoils its own answers and nothing else.
* A tag is stored after what it announces, and a door is looked at after the tag was stored and a fence passed: either the
  sleeper sees the tag, or the other side sees it asleep and rings. The lock under which either side sends is the fence, once it is released. Stores are
  only ordered like that on x86; elsewhere there is no lane (:data:`UNAVAILABLE`).
* Each end waits on a door that only the other process rings, and on an event of its own that only threads of this process set.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import platform
import select
import struct
import threading
import time
from collections.abc import Callable
from typing import Final, cast

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.lanelooks import Choice
from blackhole_core.executor.wire.parcels import Parcel

__all__ = ["CAPACITY", "UNAVAILABLE", "HostLane", "WorkerLane"]


def _why_not() -> str | None:
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"stores to shared memory are not ordered on {platform.machine()}"
    if not hasattr(os, "memfd_create") or not hasattr(os, "eventfd"):
        return "this system has no memfd or no eventfd"
    return None


#: Why there is no lane on this machine, None when there is.
UNAVAILABLE: Final = _why_not()

_REQUEST, _AGAIN, _CONDEMNED, _DOZING, _WAITING, _ANSWER, _IN = 0, 1, 2, 64, 128, 192, 256
_OUT: Final = 64 * 1024
_SIZE: Final = 128 * 1024
#: number, seconds left (infinity: none), index of the implementation, bytes of the body
_INWARD: Final = struct.Struct("<QdiI")
#: number, bytes of the body
_OUTWARD: Final = struct.Struct("<QI")
#: Bytes of arguments or result: what lies between the areas. More than nearly every call has.
CAPACITY: Final = _OUT - _IN - _INWARD.size
_ARGUMENTS: Final = _IN + _INWARD.size
_RESULT: Final = _OUT + _OUTWARD.size
_TAGS: Final = 255
#: The value of DOZING for a worker that wakes up on another processor.
_FAR: Final = 2
#: What AGAIN says of a processor that it cannot name.
_NOWHERE: Final = 255

#: Looks at a flag before it is slept on, some 25 ns each. The host's are few: it holds the interpreter meanwhile, and looks only when the worker is
#: awake, or about to be on another processor: then for as long as it takes to wake one up, because a host that slept would be woken on the worker's. The
#: worker's, when the host says that it may call again soon, bridge the time in which the host takes its answer and makes the next call, and, if it slept,
#: wakes up. The processor is not offered to others between them: on a busy machine they would keep it for milliseconds.
_HOST_LOOKS: Final = (None,) * 700
_FAR_LOOKS: Final = (None,) * 6000
_WORKER_LOOKS: Final = (None,) * 1000
_LONGER_LOOKS: Final = (None,) * 2500
#: The same around large values: either side waits while the other one copies, which takes 30 µs for 1 MB, and is woken late enough to double such a call.
_LARGE_HOST_LOOKS: Final = (None,) * 4000
_LARGE_WORKER_LOOKS: Final = (None,) * 8000
#: Seconds between an answer and the next request: below it calls come in quick succession. With large values, as long as the worker looks.
_QUICK: Final = 150e-6
_LARGE_QUICK: Final = 200e-6
#: Rings in one call that announce nothing: an honest worker rings once.
_FALSE_RINGS: Final = 100

#: What an end has when it is closed: any index is out of range.
_NO_MEMORY: Final = cast(mmap.mmap, memoryview(bytearray()))

#: Seconds; ``epoll_wait`` counts milliseconds in 31 bits.
_LONGEST_SLEEP: Final = 2_000_000.0

#: Seconds that a host's looks take at most, with room for a switch of threads.
_LOOKING: Final = 300e-6
#: Until when (``time.perf_counter()``) a thread of this process looks without sleeping: at most one does. No lock, which an interrupt could leave locked.
_looked_until: Final = [0.0]


def _open_door() -> tuple[int, int]:
    # A pipe: its two ends have flags of their own, so that the other process cannot make this one block, and the kernel wakes
    # its reader on the processor of the writer.
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


def _several_processors() -> bool:
    return len(os.sched_getaffinity(0)) > 1


@functools.cache
def _processor() -> Callable[[], int]:
    """Return a function that tells on which processor the calling thread runs, -1 where that is not known."""
    import ctypes

    return getattr(ctypes.PyDLL(None), "sched_getcpu", lambda: -1)  # PyDLL: it keeps the interpreter


class _Sleeper:
    """Waits for rings and events, edge-triggered: an event need not be read. A door is, because Linux 5.5 to 5.13 tell of a ring only if the pipe was empty."""

    def __init__(self, door: int, event: int) -> None:
        self._door = door
        self._epoll = select.epoll(2)
        self._epoll.register(door, select.EPOLLIN | select.EPOLLET)
        self._epoll.register(event, select.EPOLLIN | select.EPOLLET)

    def sleep(self, seconds: float) -> list[int]:
        """Wait until one of the two is heard of and return which; nothing after ``seconds``, -1 for no end."""
        heard = [descriptor for descriptor, _ in self._epoll.poll(seconds, 2)]
        if self._door in heard:
            try:  # after the sleep, never before: whoever slept looks at the memory next, and sees what the rings taken out here announced
                os.read(self._door, 1 << 16)
            except BlockingIOError:
                pass  # taken out together with the ring before
        return heard

    def close(self) -> None:
        self._epoll.close()


class HostLane:
    """The host's end. Made before the worker, which gets :attr:`descriptors`; closed once, when the worker has ended.

    Its owner has a lock under which it sends, leaves and closes; the rest belongs to the call that holds it.
    """

    def __init__(self) -> None:
        import fcntl

        opened: list[int] = []
        try:
            memory = os.memfd_create("blackhole-lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            opened.append(memory)
            os.ftruncate(memory, _SIZE)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            there, self._bell = _open_door()
            opened += (there, self._bell)
            self._door, back = _open_door()
            opened += (self._door, back)
            self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            opened.append(self._event)
            self._sleeper = _Sleeper(self._door, self._event)
            self._memory = mmap.mmap(memory, _SIZE)
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        #: What the worker gets: memory, its door, and what rings at ours.
        self.descriptors: tuple[int, ...] = (memory, there, back)
        self._fence = threading.Lock()
        self.held = False  #: whether a call has it; guarded, like ``_closed``, by the lock of its owner
        self._closed = False
        self.number = 0  #: of the latest call
        self._tag = 0
        self._spins = _several_processors()
        self._choice = Choice()
        self._sent = self._received = 0.0  # when the present request and the last answer passed here (``time.monotonic()``)
        self._quick = False  # whether the present request came soon after that answer
        self._large = False  # whether large values lie beside the present request
        self._looks: tuple[None, ...] = ()  # for the present answer
        self._moved = True  # whether this or the worker may be on another processor than at the last look: one of them has slept
        self._again = _NOWHERE  # what is said of this one's processor

    # --- life --------------------------------------------------------------------------------------------------------

    def launched(self) -> None:
        """Close what only the worker needs."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()

    def close(self) -> None:
        """End the lane; the call that still holds it does so when it leaves. Under the owner's lock."""
        self.launched()
        self._closed = True
        if not self.held:
            self._release()

    def _release(self) -> None:
        self._sleeper.close()
        for descriptor in (self._bell, self._door, self._event):
            os.close(descriptor)
        self._memory = _NO_MEMORY

    def condemn(self) -> None:
        """Have the worker begin no other call, a request that it has not seen included. Under the owner's lock."""
        if not self._closed:
            self._memory[_CONDEMNED] = 1
            self._memory[_REQUEST] = 0  # no call has this tag

    # --- a call ------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Give the lane up. Under the owner's lock."""
        self.held = False
        if self._closed:
            self._release()

    def send(self, number: int, index: int, seconds: float, args: bytes, now: float) -> None:
        """Take the lane for a call: put its request there for the worker. Under the owner's lock, when the lane is free; :meth:`knock` follows.

        ``now`` is ``time.monotonic()``, or was some microseconds ago.
        """
        self.held = True
        self.number = number
        memory = self._memory
        length = len(args)
        _INWARD.pack_into(memory, _IN, number, seconds, index, length)
        memory[_ARGUMENTS : _ARGUMENTS + length] = args
        self._sent = now
        self._large = type(args) is Parcel
        self._quick = quick = self._spins and now - self._received < (_LARGE_QUICK if self._large else _QUICK)
        memory[_AGAIN] = self._where() if quick and self._choice.looks else 0
        self._tag = memory[_REQUEST] = self._tag % _TAGS + 1

    def _where(self) -> int:
        if self._moved:
            self._moved = False
            self._again = 1 + _processor()()
            if not 0 < self._again < _NOWHERE:
                self._again = _NOWHERE
        return self._again

    def knock(self) -> None:
        """Ring if the worker sleeps. Holders only, once the lock is released under which they sent: that is the fence."""
        memory = self._memory
        dozing = memory[_DOZING]
        if not dozing:
            self._looks = () if not memory[_AGAIN] else _LARGE_HOST_LOOKS if self._large else _HOST_LOOKS
            return
        self._moved = True
        self._looks = _FAR_LOOKS if dozing == _FAR and memory[_AGAIN] else ()
        _ring(self._bell)

    def answered(self) -> bool:
        """Whether the worker has put an answer to the present call there. Holders only."""
        return self._memory[_ANSWER] == self._tag

    def look(self) -> bool:
        """Look for an answer for some microseconds if that is likely to help, and return whether it is there. Holders only."""
        if not self._looks or self._sent < _looked_until[0]:
            return self._memory[_ANSWER] == self._tag
        _looked_until[0] = self._sent + _LOOKING
        found = _seen(self._memory, _ANSWER, self._tag, self._looks)
        _looked_until[0] = 0.0
        return found

    def sleep(self, deadline: float | None) -> bool:
        """Wait until there is an answer or somebody here calls :meth:`wake`; False when ``deadline`` (``time.monotonic()``) passed. Holders only.

        :raises ProtocolError: the worker rings and has nothing to say.
        """
        memory = self._memory
        memory[_WAITING] = 1
        self._moved = True
        try:
            with self._fence:
                pass
            for _ in range(_FALSE_RINGS):
                if self.answered():
                    return True
                seconds = -1 if deadline is None else min(max(0.0, deadline - time.monotonic()), _LONGEST_SLEEP)
                heard = self._sleeper.sleep(seconds)
                if not heard:
                    return False
                if self._event in heard:
                    return True
        finally:
            memory[_WAITING] = 0
        raise ProtocolError(f"{_FALSE_RINGS} rings without an answer")

    def wake(self) -> None:
        """Have the holder's :meth:`sleep` return. Only the thread that closes the lane may call this, before it does."""
        os.eventfd_write(self._event, 1)

    def receive(self, number: int) -> bytes:
        """Return the body of the answer that is there. Holders only.

        :raises ProtocolError: it is not an answer to ``number``, or says that it is larger than it can be.
        """
        memory = self._memory
        said, length = _OUTWARD.unpack_from(memory, _OUT)
        if said != number or length > CAPACITY:
            raise ProtocolError(f"an answer of {length} bytes to request {said} in the shared memory, where request {number} was made")
        body = memory[_RESULT : _RESULT + length]
        self._received = now = time.monotonic()
        if self._quick:
            self._choice.took(now - self._sent)
        return body


class WorkerLane:
    """The worker's end. :meth:`receive` and :meth:`send` belong to the thread that runs the lane's calls."""

    def __init__(self, memory: int, door: int, bell: int) -> None:
        self._memory = mmap.mmap(memory, _SIZE)
        os.close(memory)
        self._door = door
        self._bell = bell
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._sleeper = _Sleeper(self._door, self._event)
        self._fence = threading.Lock()
        self._tag = 1  # of the next request
        self._again = 0  # what the latest one said of the next
        self._large = False  # whether large values lie beside the latest answer
        self._looks: tuple[None, ...] = ()  # for the next one

    @property
    def condemned(self) -> bool:
        """Whether this process is being ended. Any thread."""
        return bool(self._memory[_CONDEMNED])

    def requested(self) -> bool:
        """Whether there is a request now."""
        return self._memory[_REQUEST] == self._tag

    def look(self) -> bool:
        """Return whether there is a request, after looking for it for a moment if one may come soon."""
        if self._memory[_REQUEST] == self._tag:
            return True
        looks, self._looks = self._looks, ()
        return _seen(self._memory, _REQUEST, self._tag, looks)

    def sleep(self, idle: Callable[[], bool]) -> None:
        """Wait for a request, or for :meth:`wake`; not if ``idle()`` is false by now. It may be another processor on which this returns."""
        memory = self._memory
        left = _leave(self._again - 1) if 0 < self._again < _NOWHERE else None
        memory[_DOZING] = 1 if left is None else _FAR
        self._again = 0
        with self._fence:
            pass
        if memory[_REQUEST] != self._tag and idle():
            self._sleeper.sleep(-1)
        memory[_DOZING] = 0
        if left:
            with contextlib.suppress(OSError):  # its control group may have other processors now
                os.sched_setaffinity(0, left)

    def wake(self) -> None:
        """Have :meth:`sleep` return, after what ``idle`` tells was changed. Any thread."""
        with self._fence:
            pass
        if self._memory[_DOZING]:
            os.eventfd_write(self._event, 1)

    def receive(self) -> tuple[int, int, float, bytes]:
        """Return the request that is there: number, index of the implementation, seconds left, arguments."""
        memory = self._memory
        self._tag = self._tag % _TAGS + 1
        number, seconds, index, length = _INWARD.unpack_from(memory, _IN)
        return number, index, seconds, memory[_ARGUMENTS : _ARGUMENTS + length]

    def send(self, number: int, result: bytes) -> None:
        """Put the answer to the request received last there for the host. :meth:`knock` follows, when the lock is released under which this was called."""
        memory = self._memory
        length = len(result)
        _OUTWARD.pack_into(memory, _OUT, number, length)
        memory[_RESULT : _RESULT + length] = result
        self._again = memory[_AGAIN]
        self._large = type(result) is Parcel
        memory[_ANSWER] = (self._tag - 2) % _TAGS + 1

    def knock(self) -> None:
        """Ring if the host waits."""
        waits = self._memory[_WAITING]
        if waits:
            _ring(self._bell)
        self._looks = () if not self._again else _LARGE_WORKER_LOOKS if self._large else _LONGER_LOOKS if waits else _WORKER_LOOKS

    def forget(self) -> None:
        """In a forked child: it is not the worker, so it must neither answer nor take requests. Whoever tries finds no memory; more than once is once."""
        if self._bell < 0:
            return
        self._sleeper.close()
        for descriptor in (self._door, self._bell, self._event):
            os.close(descriptor)
        self._door = self._bell = self._event = -1  # the numbers may soon mean other files
        self._memory = _NO_MEMORY


def _leave(processor: int) -> set[int] | None:
    """Have this thread run on any processor that it may use but this one. Return those that it may, to be set again: empty when it may not use that one anyway.

    None where it has no other one.
    """
    allowed = os.sched_getaffinity(0)
    if processor not in allowed:
        return set()
    try:
        os.sched_setaffinity(0, allowed - {processor})
    except OSError:  # there is no other one, or it may not choose
        return None
    return allowed


def _seen(memory: mmap.mmap, flag: int, tag: int, looks: tuple[None, ...]) -> bool:
    """Look so often at a flag; return whether it had the value ``tag`` at one of them."""
    for _ in looks:  # noqa: SIM110 - a generator would look half as often
        if memory[flag] == tag:
            return True
    return False


def _ring(bell: int) -> None:
    try:
        os.write(bell, b"\1")
    except BlockingIOError:
        pass  # it has been rung thousands of times and not answered: that wakes, too
    except BrokenPipeError:
        pass  # the other end is gone; whoever waits here is told by the channel
