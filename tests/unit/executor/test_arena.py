from __future__ import annotations

import ctypes
import gc
import itertools
import mmap
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import msgspec
import numpy as np
import pytest

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.arena import SLOTS, UNAVAILABLE, Arena, MappedShelf
from blackhole_core.executor.regions import PAGE
from blackhole_core.executor.timers import Timers
from blackhole_core.executor.wire.buffers import LARGE, Form
from blackhole_core.executor.wire.claims import claimed, decode_open
from blackhole_core.executor.wire.parcels import Body, Parcel, Reference, TooLarge, _whole, fit
from blackhole_core.executor.wire.plain import NotPlain, encode_plain
from blackhole_core.executor.wire.signature import ArgumentsDecoder, ArgumentsEncoder, ResultDecoder, Undecodable

pytestmark = pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))

LIMIT = 8 * 1024 * 1024


class Pair:
    """Both sides of one arena, in one process."""

    def __init__(self, *, in_place: bool = False) -> None:
        self.timers = Timers()
        self.host = Arena(LIMIT, in_place=in_place, timers=self.timers)
        self.descriptor = os.dup(self.host.descriptor)
        self.worker = MappedShelf(self.descriptor, first=False, limit=LIMIT, in_place=True)

    def down(self, value: Any) -> Any:
        return self._across(value, self.host, self.worker)

    def up(self, value: Any) -> Any:
        return self._across(value, self.worker, self.host)

    def _across(self, value: Any, here: MappedShelf, there: MappedShelf) -> Any:
        body = encode_plain(value, here)
        if isinstance(body, Parcel):
            body.handed = True
        return decode_open(claimed(body, there))

    def kilobytes(self) -> int:
        """Return how much of the memory there is."""
        return os.fstat(self.descriptor).st_blocks // 2

    def close(self) -> None:
        self.host.close()
        self.timers.close()
        del self.host, self.worker  # the last references: a cycle would be seen as a descriptor left behind
        os.close(self.descriptor)


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_values_that_lie_beside_the_message(pair: Pair) -> None:
    """Whatever the kind and wherever in a value: it arrives as it left, and few bytes are in the message."""
    row = os.urandom(300_000)
    numbers = np.frombuffer(row[:240_000], dtype="<f4").reshape(100, 600)
    value = {"a": [row, (numbers, {1: bytearray(row)})], "b": [memoryview(row)], "small": b"x"}
    assert len(encode_plain(value, pair.host)) < 1000
    for across in (pair.down, pair.up):
        answer = across(value)
        assert answer["a"][0] == row
        got, inner = answer["a"][1]
        assert got.tobytes() == numbers.tobytes()
        assert (got.shape, got.dtype, got.flags.writeable) == (numbers.shape, numbers.dtype, False)
        assert (type(inner[1]), inner[1]) == (bytearray, row)
        assert answer["b"] == [memoryview(row)]
        del answer, got, inner
        assert pair.host.in_flight() == pair.worker.in_flight() == 0


def test_the_threshold(pair: Pair) -> None:
    """Below it a value travels inside the message, from it on beside it."""
    assert type(encode_plain(bytes(LARGE - 1), pair.host)) is bytes
    assert type(encode_plain(bytes(LARGE), pair.host)) is Parcel


def test_a_huge_row_of_bytes(pair: Pair) -> None:
    """What is copied in another way, because it is huge, is the same."""
    for size in (4 * 1024 * 1024, 4 * 1024 * 1024 + 7, LIMIT - 100):
        row = random.Random(size).randbytes(size)
        assert pair.down(row) == row
        assert pair.up(row) == row


def test_a_kept_array_stays_what_it_was(pair: Pair) -> None:
    """Its region is used again only when the last that looks at it is gone, whatever derived object that is."""
    first = np.full(50_000, 7, dtype="u1")
    kept = pair.down(first)
    last = memoryview(kept[10:20].reshape(2, 5))
    del kept
    for number in range(20):
        assert (pair.down(np.full(50_000, number, dtype="u1")) == number).all()
    assert last.tolist() == [[7] * 5] * 2
    assert pair.host.in_flight() == 1
    del last
    assert pair.host.in_flight() == 0


def test_a_copied_result_does_not_change_any_more(pair: Pair) -> None:
    """What the worker writes after its answer changes nothing that the host has."""
    got = pair.up(np.zeros(50_000, dtype="u1"))
    view = pair.up(memoryview(bytes(50_000)))
    pair.worker._memory[:] = b"\xff" * len(pair.worker._memory)
    assert not got.any()
    assert view == bytes(50_000)


def test_a_shared_result_is_looked_at_in_place() -> None:
    """Where the operator says so, the host looks at the worker's own memory, and sees what is written there later."""
    pair = Pair(in_place=True)
    got = pair.up(np.zeros(50_000, dtype="u1"))
    assert pair.worker.in_flight() == 1
    pair.worker._memory[:] = b"\xff" * len(pair.worker._memory)
    assert got.all()
    del got
    pair.worker._memory[:] = bytes(len(pair.worker._memory))
    assert pair.worker.in_flight() == 0
    kept = pair.up(np.ones(50_000, dtype="u1"))
    pair.close()
    assert kept.all()


def _sent(value: Any, shelf: MappedShelf) -> Parcel:
    body = encode_plain(value, shelf)
    assert isinstance(body, Parcel)
    body.handed = True
    return body


def test_what_is_sent_back_is_not_copied_again(pair: Pair) -> None:
    """An array that was received, or a part of one, is copied once on its way back, from where it lies; it stays there until it was."""
    value = np.arange(300_000, dtype="u4")
    for part in (slice(None), slice(7, 100_007)):
        kept = pair.down(value)
        body = _sent(kept[part], pair.worker)
        assert pair.worker.in_flight() == 0
        del kept
        others = [pair.down(np.zeros(300_000, dtype="u4")) for _ in range(3)]
        assert pair.host.in_flight() == 4
        del others
        got = decode_open(claimed(body, pair.host))
        assert pair.host.in_flight() == 0
        pair.worker._memory[:] = b"\xff" * len(pair.worker._memory)
        assert (got == value[part]).all()
        pair.worker._memory[:] = bytes(len(pair.worker._memory))


def test_what_is_sent_back_twice(pair: Pair) -> None:
    """One of them is on its way from where it lies, the other is a copy, as is one whose items lie scattered; nothing is left of any."""
    value = np.arange(100_000, dtype="u4")
    kept = pair.down({"array": value, "view": memoryview(value.tobytes())})
    body = _sent([kept["array"], kept["array"], kept["view"], kept["array"][::-1]], pair.worker)
    assert pair.worker.in_flight() == 2
    first, second, view, scattered = decode_open(claimed(body, pair.host))
    assert pair.worker.in_flight() == 0
    assert (first == value).all()
    assert (second == value).all()
    assert (scattered == value[::-1]).all()
    assert view == value.tobytes()
    del kept
    assert pair.host.in_flight() == 0


def test_what_is_sent_back_and_dropped(pair: Pair) -> None:
    """Whether it was not sent, not decoded, or refused: its region is free once the one who had received it lets go."""
    kept = pair.down(np.ones(LARGE, dtype="u1"))
    body = encode_plain(kept, pair.worker)
    del body
    claim = claimed(_sent(kept, pair.worker), pair.host)
    del claim
    with pytest.raises(NotPlain):
        encode_plain([kept, object()], pair.worker)
    assert pair.host.in_flight() == 1
    del kept
    assert pair.host.in_flight() == 0


def test_a_forked_child_sends_nothing_back(pair: Pair) -> None:
    """What a child answers travels inside the message: it knows nothing of what its parent sends."""
    kept = pair.down(np.ones(LARGE, dtype="u1"))
    child = os.fork()
    if child == 0:
        os._exit(type(encode_plain(kept, pair.worker)) is not bytes)
    assert os.waitpid(child, 0)[1] == 0
    assert kept.all()


def test_a_shared_result_that_goes_back() -> None:
    """It is looked at where it lies by everybody, is the other worker's own when it moves there, and is free in the end."""
    pair = Pair(in_place=True)
    sent = np.arange(100_000, dtype="u4")
    got = pair.up(pair.down(sent))
    assert pair.worker.in_flight() == 0
    assert (got == sent).all()
    del got
    assert pair.host.in_flight() == 0
    made = pair.up(sent)
    body = encode_plain(made, pair.host)
    assert pair.host.in_flight() == 0
    assert (decode_open(claimed(fit(body, None), None)) == sent).all()
    del body
    again = pair.down(made)
    del made
    assert pair.worker.in_flight() == 1
    assert (again == sent).all()
    del again
    assert pair.worker.in_flight() == 0
    pair.close()


def test_a_large_array_lies_where_the_last_one_lay(pair: Pair) -> None:
    """The host copies it to memory of its own that was used before; what finds no room there has memory of its own, and all stay right."""
    pages = []
    for number in range(3):
        got = pair.up(np.full(5_000_000, number, dtype="u1"))
        assert (got == number).all()
        assert not got.flags.writeable
        pages.append(got.ctypes.data)
        del got
    assert len(set(pages)) == 1
    kept = [pair.up(np.full(5_000_000, number, dtype="u1")) for number in range(5)]
    pair.host.trim()
    assert [(int(array[0]), int(array[-1])) for array in kept] == [(number, number) for number in range(5)]
    pair.worker._memory[:] = b"\xff" * len(pair.worker._memory)
    pair.host.close()
    assert all((array == number).all() for number, array in enumerate(kept))


def test_without_address_space_for_them(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a limit leaves none for such memory, each large array has its own, as small ones have."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr("blackhole_core.executor.landing.mmap.mmap", refuse)
        assert (pair.up(np.ones(5_000_000, dtype="u1")) == 1).all()


def test_more_than_fits(pair: Pair) -> None:
    """When there is no room, or no slot, values travel inside the message; nobody waits."""
    kept = [pair.down(np.full(LIMIT // 4, number, dtype="u1")) for number in range(12)]
    assert [int(value[-1]) for value in kept] == list(range(12))
    assert pair.host.in_flight() == 8
    del kept
    many = [pair.down(bytes(LARGE)[:]) and pair.down(memoryview(bytes(LARGE))) for _ in range(SLOTS + 10)]
    assert len(many) == SLOTS + 10
    del many
    assert pair.host.in_flight() == 0


def test_the_limit_counts_what_lies_beside(pair: Pair) -> None:
    """A body has at most so many bytes, wherever they lie; the refusal says how many it had, and frees what was put."""
    half = np.zeros(LIMIT // 2, dtype="u1")
    with pytest.raises(TooLarge) as caught:
        encode_plain([half, half], pair.host)
    assert LIMIT < caught.value.size < LIMIT + 1000
    assert pair.host.in_flight() == 0


@pytest.mark.parametrize("value", [[bytes(LARGE), object()], [np.zeros(LARGE), np.array([None])]], ids=["object", "array"])
def test_a_refused_value_leaves_nothing(pair: Pair, value: Any) -> None:
    """What had been put there before the refusal is free again."""
    with pytest.raises(NotPlain):
        encode_plain(value, pair.host)
    assert pair.host.in_flight() == 0


def test_a_body_that_is_not_sent_or_not_decoded(pair: Pair) -> None:
    """Whoever drops one gives its regions back."""
    body = encode_plain([bytes(LARGE), bytes(LARGE)], pair.host)
    assert pair.host.in_flight() == 2
    del body
    assert pair.host.in_flight() == 0
    body = encode_plain([bytes(LARGE), bytes(LARGE)], pair.host)
    assert isinstance(body, Parcel)
    body.handed = True
    claim = claimed(body, pair.worker)
    del body
    assert pair.host.in_flight() == 2
    del claim
    assert pair.host.in_flight() == 0


def test_a_body_for_another_worker(pair: Pair) -> None:
    """It is sent to another worker with everything inside, also when that one has no such memory."""
    body = encode_plain({"a": (bytes(LARGE), np.arange(LARGE))}, pair.host)
    assert fit(body, pair.host) is body
    inside = fit(body, None)
    del body
    assert pair.host.in_flight() == 0
    answer = decode_open(claimed(inside, None))
    assert answer["a"][0] == bytes(LARGE)
    assert (answer["a"][1] == np.arange(LARGE)).all()


def test_typed_positions(pair: Pair) -> None:
    """Bytes and bytearray at a typed position lie beside the message, and are decoded as strictly as ever."""
    types = [int, bytes, bytearray | None, list[str]]
    args = (1, bytes(LARGE), bytearray(LARGE), ["x"])
    body = ArgumentsEncoder(types).encode(args, pair.host)
    assert isinstance(body, Parcel)
    body.handed = True
    got = ArgumentsDecoder(types).decode(claimed(body, pair.worker))
    assert got == args
    assert [type(item) for item in got] == [int, bytes, bytearray, list]
    pair.host.limit = 0
    inside = ArgumentsEncoder(types).encode(args, pair.host)
    assert type(inside) is bytes
    assert ArgumentsDecoder(types).decode(inside) == args
    pair.host.limit = LIMIT
    body = ArgumentsEncoder(types).encode(args, pair.host)
    with pytest.raises(Undecodable, match="Expected `str`, got `bytes`"):
        ArgumentsDecoder([int, str, bytearray, list[str]]).decode(claimed(body, pair.worker))
    with pytest.raises(Undecodable, match="Expected 1 arguments, got 4"):
        ArgumentsDecoder([int]).decode(claimed(ArgumentsEncoder(types).encode(args, pair.host), pair.worker))


def test_many_containers_around_values(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tuples, sets and dicts: they are decoded by the same few decoders."""
    made: list[object] = []
    real = msgspec.msgpack.Decoder

    def counted(*args: Any, **options: Any) -> Any:
        made.append(args)
        return real(*args, **options)

    value = [bytes(LARGE), [(number, {number}, {number: (number, {})}) for number in range(100)]]
    monkeypatch.setattr(msgspec.msgpack, "Decoder", counted)
    assert pair.up(value) == value
    assert 0 < len(made) < 5


def test_a_decoded_body_leaves_no_cycle(pair: Pair) -> None:
    """What it has left over is given back as soon as nobody has it, without the garbage collector."""
    body = encode_plain([(bytes(LARGE), {1: bytes(LARGE)}), bytes(LARGE)], pair.worker)
    assert isinstance(body, Parcel)
    body.handed = True
    less = msgspec.msgpack.encode([msgspec.msgpack.Ext(1, b"\x91\xd4\x0d\x00"), msgspec.msgpack.Ext(11, b"\x91\x92\x01\xd4\x0d\x01")])
    gc.disable()
    try:
        assert decode_open(claimed(_whole(Body(body.body.table, less)), pair.host)) == [(bytes(LARGE),), {1: bytes(LARGE)}]
        assert pair.worker.in_flight() == 0
    finally:
        gc.enable()


_FORM = Form(0)
_LIES = {
    "a slot that is none": (Reference(_FORM, 2 * SLOTS, 0, 10),),
    "beyond the end": (Reference(_FORM, 0, 2 * LIMIT, 4096),),
    "far beyond the end": (Reference(_FORM, 0, 2**62, 2**62),),
    "not at a page": (Reference(_FORM, 0, 8, 10),),
    "sent back from beyond the end": (Reference(_FORM, SLOTS, 2 * LIMIT - 5, 10),),
    "more than the limit": (Reference(_FORM, 0, 0, LIMIT), Reference(_FORM, 1, 0, LIMIT)),
    "another length than it has": (Reference(_FORM, 0, 0, 10, b"abc"),),
}


@pytest.mark.parametrize("lie", _LIES)
def test_a_table_that_lies(pair: Pair, lie: str) -> None:
    """Slot, offset, length and sum are checked before anything is read."""
    body = _whole(Body(_LIES[lie], b"\xd4\x0d\x00"))
    with pytest.raises(ProtocolError, match="beside a message|at most"):
        claimed(body, pair.host)
    with pytest.raises(ProtocolError):
        claimed(body, None)


@pytest.mark.parametrize("message", [b"\xd4\x0d\x01", b"\x92\xd4\x0d\x00\xd4\x0d\x00", b"\xd5\x0d\xcc\xff", b"\xc7\x00\x0d", b""])
def test_a_message_that_lies(pair: Pair, message: bytes) -> None:
    """A value that is not in the table, or twice in the message, is refused, and what the table holds is released."""
    pair.host._memory[pair.host._theirs] = 1
    claim = claimed(_whole(Body((Reference(_FORM, 0, 0, 10),), message)), pair.host)
    with pytest.raises(Undecodable):
        ResultDecoder(Any).decode(claim)
    del claim
    gc.collect()
    assert pair.host._memory[pair.host._theirs] == 0


def test_no_garbage_does_harm(pair: Pair) -> None:
    """Any change of a good body is a good body, or refused with the errors that are told."""
    dice = random.Random(4)
    pair.worker._memory[:] = dice.randbytes(len(pair.worker._memory))
    good = bytes(encode_plain([bytes(LARGE), {"x": np.zeros((10, LARGE // 10), "<f4")}], pair.worker))
    for _ in range(2000):
        body = bytearray(good)
        for _ in range(dice.randint(1, 4)):
            body[dice.randrange(1, len(body))] = dice.randrange(256)
        try:
            decode_open(claimed(bytes(body), pair.host))
        except ProtocolError:
            pass


def test_idle_pages_go_back_to_the_system(pair: Pair) -> None:
    """Pages on which nothing lies are given back, those of a kept array are not."""
    kept = pair.down(np.ones(1_000_000, dtype="u1"))
    assert pair.down(bytes(6_000_000)) == bytes(6_000_000)
    assert pair.up(bytes(6_000_000)) == bytes(6_000_000)
    assert pair.kilobytes() > 12_000
    pair.host.trim()
    pair.worker.trim()
    assert 900 < pair.kilobytes() < 1_200
    assert kept.all()
    del kept
    pair.host.trim()
    assert pair.kilobytes() < 20
    assert pair.down(bytes(6_000_000)) == bytes(6_000_000)


def test_nobody_can_change_its_size(pair: Pair) -> None:
    """The memory is sealed: a page that the host maps cannot be taken away from it."""
    with pytest.raises(PermissionError):
        os.ftruncate(pair.descriptor, 0)


def test_a_forked_child_gives_nothing_back(pair: Pair) -> None:
    """What a child drops, or its exit, does not free what the parent still looks at."""
    kept = pair.down(np.ones(50_000, dtype="u1"))
    body = encode_plain(bytes(LARGE), pair.host)
    child = os.fork()
    if child == 0:
        del kept, body
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert pair.host.in_flight() == 2
    assert kept.all()
    del body


def test_a_forked_child_sends_nothing_there(pair: Pair) -> None:
    """Its values travel inside the message, over nothing that its parent has sent; a lock that was held at the fork does not stop it."""
    ours, theirs = os.pipe()
    with pair.worker._lock:
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)  # for a child that hangs: it is what is tested
            os.read(ours, 1)
            os._exit(type(encode_plain(b"c" * LARGE, pair.worker)) is not bytes)
        finally:
            os._exit(2)
    body = encode_plain(b"p" * LARGE, pair.worker)
    os.write(theirs, b"x")
    assert os.waitpid(child, 0)[1] == 0
    assert isinstance(body, Parcel)
    body.handed = True
    assert decode_open(claimed(body, pair.host)) == b"p" * LARGE
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("step", ["_used", "_fill", "_in_use"])
def test_an_interrupted_value(pair: Pair, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Ctrl-C on the way in leaves nothing behind, and forgets nothing."""
    kept = pair.down(np.ones(LARGE, dtype="u1"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pair.host, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            encode_plain(bytes(LARGE), pair.host)
    assert pair.host.in_flight() == 1
    assert kept.all()


def test_locked_pages(pair: Pair) -> None:
    """Pages that the program has locked cannot go back; that is no reason to fail, here or in the worker."""
    libc = ctypes.CDLL(None, use_errno=True)
    for shelf in (pair.host, pair.worker):
        first = ctypes.c_char.from_buffer(shelf._mapping, shelf._ours + PAGE)
        if libc.mlock(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(PAGE)):
            pytest.skip(f"mlock: {os.strerror(ctypes.get_errno())}")
        del first
        with pytest.raises(OSError, match="Invalid argument"):
            shelf._mapping.madvise(mmap.MADV_REMOVE, shelf._ours + PAGE, PAGE)
    assert pair.down(bytes(LARGE)) == pair.up(bytes(LARGE)) == bytes(LARGE)
    pair.host.trim()
    pair.worker.trim()
    pair.host.close()


def test_it_is_closed_at_any_moment_of_tidying() -> None:
    """The worker is told, or it is not, because it has ended; nothing fails on the timer's thread."""
    told: list[int] = []
    for wanted in itertools.count():
        pair = Pair()
        pair.host.tidy_with(lambda wanted=wanted: told.append(wanted))
        lines = itertools.count()

        def close(frame: FrameType, event: str, _: object, wanted: int = wanted, pair: Pair = pair, lines: Iterator[int] = lines) -> Any:
            if frame.f_code is not Arena._tidy.__code__:
                return None
            if event == "line" and not pair.host._lock.locked() and next(lines) == wanted:
                pair.host.close()
            return close

        previous = sys.gettrace()
        sys.settrace(close)
        try:
            pair.host._tidy()
        finally:
            sys.settrace(previous)
        pair.close()
        if next(lines) <= wanted:
            break
    assert wanted > 4
    assert 0 not in told
    assert wanted in told


def test_many_threads_at_once(pair: Pair) -> None:
    """Values of many threads, some kept for a while, never mix; at the end nothing is in use."""
    wrong: list[object] = []

    def run(seed: int) -> None:
        dice = random.Random(seed)
        kept: list[tuple[int, Any]] = []
        for _ in range(60):
            number = dice.randrange(256)
            value = np.full(dice.randrange(LARGE, 4 * LARGE), number, dtype="u1")
            kept.append((number, dice.choice((pair.down, pair.up))(value)))
            if len(kept) > 5:
                number, got = kept.pop(dice.randrange(len(kept)))
                if not (got == number).all():
                    wrong.append((seed, number))
        wrong.extend((seed, number) for number, got in kept if not (got == number).all())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert pair.host.in_flight() == pair.worker.in_flight() == 0
