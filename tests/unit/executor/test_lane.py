"""Both ends of a lane in one process, the worker's on a thread of its own."""

from __future__ import annotations

import math
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from blackhole_core.errors import ProtocolError
from blackhole_core.executor import lane as lanes
from blackhole_core.executor.lane import CAPACITY, HostLane, WorkerLane
from blackhole_core.executor.lanelooks import Choice
from blackhole_core.executor.wire.parcels import Parcel

pytestmark = pytest.mark.skipif(lanes.UNAVAILABLE is not None, reason=str(lanes.UNAVAILABLE))


class Pair:
    """A host's end and a worker's; the worker's runs ``answer`` for each request until :meth:`close`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # its release is the fence between a store and the look at the other's door
        self.host = HostLane()
        self.worker = WorkerLane(*map(os.dup, self.host.descriptors))
        self.host.launched()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.number = 0

    def serve(self, answer: Callable[[int, bytes], bytes]) -> None:
        def run() -> None:
            while not self._stop.is_set():
                if self.worker.look():
                    number, index, _seconds, args = self.worker.receive()
                    self.answer(number, answer(index, args))
                else:
                    self.worker.sleep(lambda: not self._stop.is_set())

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def send(self, number: int, args: bytes = b"", index: int = 0) -> None:
        with self.lock:
            self.host.send(number, index, math.inf, args, time.monotonic())
        self.host.knock()

    def answer(self, number: int, result: bytes) -> None:
        with self.lock:
            self.worker.send(number, result)
        self.worker.knock()

    def call(self, args: bytes, index: int = 0) -> bytes:
        self.number += 1
        self.send(self.number, args, index)
        try:
            if not self.host.look():
                while not self.host.answered():
                    assert self.host.sleep(time.monotonic() + 20), "no answer within 20 s"
            return self.host.receive(self.number)
        finally:
            self.host.leave()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self.worker.wake()
        if self._thread is not None:
            self._thread.join()
        self.host.close()
        self.worker.forget()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_each_request_gets_its_answer(pair: Pair) -> None:
    """More calls than there are tags, of all sizes that fit."""
    pair.serve(lambda index, args: bytes([index]) + args[::-1])
    for number in range(600):
        args = bytes([number % 256]) * (number % 50)
        assert pair.call(args, number % 7) == bytes([number % 7]) + args[::-1]
    whole = os.urandom(CAPACITY)
    assert pair.call(whole[:-1])[1:] == whole[:-1][::-1]


def test_no_ring_is_missed_whenever_threads_switch(pair: Pair) -> None:
    """The two sides meet at every point of each other's falling asleep: with a ring missed a call would wait for ever."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        pair.serve(lambda _, args: args)
        end = time.monotonic() + 1.0
        count = 0
        while time.monotonic() < end:
            count += 1
            args = str(count).encode()
            assert pair.call(args) == args
            if count % 7 == 0:
                time.sleep(count % 5 * 1e-4)  # let the worker fall asleep at different moments
    finally:
        sys.setswitchinterval(before)


def test_a_worker_that_sleeps_is_rung_and_one_that_is_awake_is_not(pair: Pair) -> None:
    pair.worker._memory[lanes._DOZING] = 1
    pair.send(1)
    assert os.read(pair.worker._door, 10) == b"\1"
    pair.host.leave()
    pair.worker._memory[lanes._DOZING] = 0
    pair.send(2)
    with pytest.raises(BlockingIOError):
        os.read(pair.worker._door, 10)
    pair.host.leave()


def test_waiting_ends_at_the_deadline(pair: Pair) -> None:
    pair.send(1)
    assert not pair.host.sleep(time.monotonic() + 0.01)
    assert not pair.host.answered()
    assert pair.worker._memory[lanes._WAITING] == 0
    pair.host.leave()


def test_waiting_ends_when_the_host_has_something_to_say(pair: Pair) -> None:
    pair.send(1)
    pair.host.wake()
    assert pair.host.sleep(None)
    assert not pair.host.answered()
    pair.host.leave()


def test_a_late_answer_is_none_to_the_next_call(pair: Pair) -> None:
    """The answer to a call that was given up stays in the memory, and the next call does not take it for its own."""
    pair.send(1)
    assert pair.worker.look()
    number, *_ = pair.worker.receive()
    pair.host.leave()
    pair.answer(number, b"late")
    pair.send(2)
    assert not pair.host.answered()
    pair.host.leave()


@pytest.mark.parametrize(("number", "length"), [(7, 3), (1, CAPACITY + 1), (1, 2**32 - 1), (2**64 - 1, 0)])
def test_an_answer_that_cannot_be_is_a_breach(pair: Pair, number: int, length: int) -> None:
    pair.send(1)
    lanes._OUTWARD.pack_into(pair.worker._memory, lanes._OUT, number, length)
    with pytest.raises(ProtocolError, match="where request 1 was made"):
        pair.host.receive(1)
    pair.host.leave()


def test_rings_without_an_answer_are_a_breach(pair: Pair) -> None:
    """A worker that keeps ringing does not keep the caller's processor busy."""
    stop = threading.Event()

    def ring() -> None:
        while not stop.is_set():
            lanes._ring(pair.worker._bell)

    thread = threading.Thread(target=ring)
    thread.start()
    pair.send(1)
    try:
        with pytest.raises(ProtocolError, match="rings without an answer"):
            pair.host.sleep(time.monotonic() + 20)
    finally:
        stop.set()
        thread.join()
        pair.host.leave()


def test_the_memory_keeps_its_size() -> None:
    """A worker cannot shrink it under the host, whose next look would be a bus error."""
    host = HostLane()
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(host.descriptors[0], size)
    host.close()


def test_a_lane_in_use_is_closed_by_the_call_that_has_it() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    host = HostLane()
    host.launched()
    host.send(1, 0, math.inf, b"", 0.0)
    host.close()
    assert not host.answered()  # the memory is still there
    host.leave()
    assert open_files() == before


def test_the_worker_looks_for_the_next_request_only_when_the_host_says_so(pair: Pair) -> None:
    """It is said of calls in quick succession, and only where looking was chosen: an idle pair sleeps."""
    pair.serve(lambda _, args: args)
    pair.host._spins = True
    for looks, rested, said in ((False, False, False), (True, False, True), (True, True, False)):
        pair.host._choice.looks = looks
        pair.call(b"")
        if rested:
            pair.host._received -= lanes._QUICK
        else:
            pair.host._received = math.inf
        pair.call(b"")
        assert bool(pair.host._memory[lanes._AGAIN]) is said


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
@pytest.mark.parametrize("again", ["here", "not said", "nowhere"])
def test_a_worker_that_falls_asleep_between_calls_leaves_the_processor_of_the_host(pair: Pair, again: str) -> None:
    """Woken on the host's it would wait for the host to stop looking. When it is awake it may run anywhere again."""
    allowed = os.sched_getaffinity(0)
    here = min(allowed)
    asleep: list[tuple[set[int], int]] = []
    pair.worker._again = {"here": 1 + here, "not said": 0, "nowhere": lanes._NOWHERE}[again]
    pair.worker._sleeper.sleep = lambda _: asleep.append((os.sched_getaffinity(0), pair.worker._memory[lanes._DOZING])) or []  # type: ignore[func-returns-value]  # it is None, so the list is returned
    pair.worker.sleep(lambda: True)
    pair.worker.sleep(lambda: True)  # said once, done once
    assert asleep == [(allowed - {here}, lanes._FAR) if again == "here" else (allowed, 1), (allowed, 1)]
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize("apart", [True, False])
def test_the_host_looks_long_for_a_worker_that_wakes_up_elsewhere_alone(pair: Pair, apart: bool) -> None:
    """One that is to wake up on the host's own processor could not, as long as the host looks."""
    pair.host._spins, pair.host._choice.looks = True, True
    pair.host._received = math.inf
    pair.host._memory[lanes._DOZING] = lanes._FAR if apart else 1
    pair.send(1)
    assert pair.host._looks == (lanes._FAR_LOOKS if apart else ())
    assert os.read(pair.worker._door, 10) == b"\1"
    pair.host.leave()


def test_both_sides_look_longer_around_large_values(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beside a message takes the other side longer to copy than it looks otherwise, and less than being woken does."""
    asked: list[int] = []
    monkeypatch.setattr(lanes, "_seen", lambda memory, flag, tag, looks: asked.append(len(looks)) or memory[flag] == tag)
    pair.host._spins = True
    large = Parcel(b"large")
    large.handed = True  # nothing of it lies anywhere
    for body in (b"small", large):
        pair.host._choice.looks = True
        pair.host._received = math.inf  # the last answer came a moment ago
        pair.send(1, body)
        pair.host.look()
        assert pair.worker.look()
        pair.worker.receive()
        pair.answer(1, body)
        pair.worker.look()
        assert pair.host.receive(1) == body
        pair.host.leave()
    assert asked[2] > asked[0]
    assert asked[3] > asked[1]


def _run(choice: Choice, calls: int, seconds: dict[bool, float]) -> int:
    """Make calls, and return how many of them looked."""
    looked = 0
    for _ in range(calls):
        looked += choice.looks
        choice.took(seconds[choice.looks])
    return looked


def test_looking_is_chosen_where_calls_take_less_with_it() -> None:
    """What is slower is tried ever more rarely; when the machine changes, so does the choice, and a few slow calls do not matter."""
    choice = Choice()
    assert _run(choice, 2000, {False: 30.0, True: 50.0}) < 200
    assert _run(choice, 100_000, {False: 30.0, True: 29.0}) < 700
    _run(choice, 20_000, {False: 30.0, True: 12.0})
    assert _run(choice, 2000, {False: 30.0, True: 12.0}) > 1700
    for _ in range(5):
        choice.took(9000.0)
    assert _run(choice, 2000, {False: 30.0, True: 12.0}) > 1700
    _run(choice, 40_000, {False: 30.0, True: 50.0})
    assert _run(choice, 2000, {False: 30.0, True: 50.0}) < 200


def test_a_forked_child_takes_and_gives_nothing(pair: Pair) -> None:
    """It has no memory to write an answer into, and forgetting once more closes nothing that has the old numbers now."""
    pair.worker.forget()
    with pytest.raises(IndexError):
        pair.worker.look()
    with pytest.raises(struct.error):
        pair.worker.send(1, b"")
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    pair.worker.forget()
    for descriptor in taken:
        os.close(descriptor)


def test_the_areas_do_not_overlap() -> None:
    assert lanes._IN + lanes._INWARD.size + CAPACITY <= lanes._OUT
    assert lanes._OUT + lanes._OUTWARD.size + CAPACITY <= lanes._SIZE
