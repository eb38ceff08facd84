"""Large blocks of memory through whole runners: the same at every level, nothing left in use whatever becomes of the call."""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blackhole_core.errors import CallTimeout, CannotCross, LimitExceeded, LoadFailed, WorkerDied
from blackhole_core.executor.arena import SLOTS, UNAVAILABLE, Arena
from blackhole_core.executor.connection import Ended
from tests.stage import Running, Stage, eventually, in_threads

needs_arena = pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))

_LARGE = 200_000


@pytest.fixture(params=["zygote", "exec"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(zygote=request.param == "zygote")
    yield stage
    stage.close()


_SOURCE = """
import threading, time
class Plugin:
    def __init__(self):
        self.kept = []
    @hookimpl
    def raw(self, value):
        match value if isinstance(value, (str, tuple)) else None:
            case ("keep", block):
                self.kept.append(block[10:])
                return None
            case "sums":
                return [sum(map(int, block[:100])) for block in self.kept]
            case "forget":
                self.kept.clear()
                return None
            case ("sleep", seconds, block):
                time.sleep(seconds)
                return block
            case ("make", count):
                return bytes(count)
            case "wide":
                import numpy
                return [numpy.zeros(20, [(f"{field}{number:0900}", "f8") for number in range(1000)]) for field in "abcde"]
            case ("refuse", block):
                return [block, object()]
            case ("raise", block):
                raise ValueError(len(block))
            case ("write", block):
                block[0] = 1
        return value
    @bh.hookimpl
    def plugin_export_state(self):
        return {"large": bytes(100_000)}
    @bh.hookimpl
    def plugin_start(self, context):
        self.context = context
    @hookimpl
    def pick(self, text):
        import array
        block = array.array("d", range(30_000))
        back = self.context.hook.raw(value=memoryview(block))
        return str(all(memoryview(one) == block for one in back) and len(back))
"""


@pytest.fixture
def plugin(stage: Stage, tmp_path: Path) -> Running:
    return stage.start("adhoc", **stage.write(tmp_path, _SOURCE), max_message=4_000_000)


def _arena(plugin: Running) -> Arena:
    worker = plugin.remote._traffic.worker
    assert worker is not None
    assert worker.arena is not None
    return worker.arena


def _in_use(plugin: Running) -> int:
    """Return how many regions are in use, of both directions."""
    arena = _arena(plugin)
    theirs = arena._memory[arena._theirs : arena._theirs + SLOTS]
    return arena.in_flight() + sum(map(bool, theirs))


_BLOCKS = [
    bytes(_LARGE), bytearray(_LARGE), memoryview(bytes(_LARGE)), array.array("d", range(20_000)), np.arange(50_000), np.ones((300, 200), order="F"),
    np.arange(100_000)[::-3], np.array(["a text"] * 9_000), memoryview(np.arange(24_000.0).reshape(100, 240)), np.zeros((0, 5)), np.float32([[1.5]]),
    b"small", bytearray(b"small"), memoryview(b"small"), array.array("B", b"small"),
]  # fmt: skip


@pytest.mark.parametrize("level", ["none", "thread", "process", "process by pipes alone"])
def test_every_block_is_the_same_at_every_level(level: str) -> None:
    """Large or small, at the top or deep in a value: type, shape, item type and contents arrive and come back."""
    stage = Stage()
    try:
        level, _, alone = level.partition(" ")
        if alone:
            stage.use_fall_backs()
        full = stage.start("full", level)
        for block in _BLOCKS:
            for value, get in ((block, lambda it: it), ({"a": [(1, block)], "b": block}, lambda it: it["a"][0][1])):
                answer = get(full("raw", value))
                assert type(answer) is type(block)
                assert np.array_equal(np.asarray(answer), np.asarray(block))
                if isinstance(block, np.ndarray):
                    assert (answer.dtype, answer.shape) == (block.dtype, block.shape)
        assert stage.hook.raw(value=_BLOCKS[0]) == [_BLOCKS[0]]
        assert full("blob", 300_000) == bytes(range(256)) * 1171 + bytes(range(300_000 % 256))
        with contextlib.nullcontext() if level in ("none", "thread") else pytest.raises(CannotCross, match="at \\['x'\\].*Python objects"):
            full("raw", {"x": np.array([None])})
    finally:
        stage.close()


@needs_arena
def test_nothing_is_left_in_use(plugin: Running) -> None:
    """After answers, refusals, errors, nested calls and contracts every region of both directions is free again."""
    block = np.ones(_LARGE)
    for _ in range(5):
        assert plugin("raw", block).all()
        assert len(plugin("raw", ("make", _LARGE))) == _LARGE
        with pytest.raises(ValueError, match=str(_LARGE)):
            plugin("raw", ("raise", block))
        with pytest.raises(CannotCross, match="the result at"):
            plugin("raw", ("refuse", block))
        with pytest.raises(CannotCross, match="argument 'value'"):
            plugin("raw", [block, object()])
        with pytest.raises(ValueError, match="read-only"):
            plugin("raw", ("write", block))
        assert plugin("pick", "") == "1"
        assert plugin.contract("plugin_export_state") == {"large": bytes(100_000)}
    assert eventually(lambda: _in_use(plugin) == 0)


@needs_arena
def test_a_description_beyond_the_limit(plugin: Running) -> None:
    """Where what is said of the values is too long, though they are not: the refusal frees what had been put there."""
    with pytest.raises(LimitExceeded) as caught:
        plugin("raw", "wide")
    assert (caught.value.limit, caught.value.wanted) == ("max_message", 4_000_000)
    assert eventually(lambda: _in_use(plugin) == 0)


@needs_arena
def test_kept_arrays_stay_right_and_run_nobody_out_of_room(plugin: Running) -> None:
    """A plugin that keeps what it got has it unchanged; when that fills the memory, values travel inside messages; forgotten, it is all free."""
    for number in range(60):
        plugin("raw", ("keep", np.full(_LARGE, number % 256, dtype="u1")))
        assert plugin("raw", memoryview(bytes(_LARGE))) == bytes(_LARGE)
    assert plugin("raw", "sums") == [100 * (number % 256) for number in range(60)]
    assert 30 <= _in_use(plugin) <= 42
    plugin("raw", "forget")
    assert eventually(lambda: _in_use(plugin) == 0)


def test_the_limit_names_its_numbers(plugin: Running) -> None:
    """max_message counts what lies beside a message, in both directions; the worker serves on."""
    with pytest.raises(LimitExceeded) as argument:
        plugin("raw", [np.zeros(2_500_000, "u1"), np.zeros(2_500_000, "u1")])
    with pytest.raises(LimitExceeded) as result:
        plugin("raw", ("make", 4_000_001))
    for caught in (argument, result):
        assert (caught.value.limit, caught.value.wanted, caught.value.unit) == ("max_message", 4_000_000, "bytes")
    assert 5_000_000 < argument.value.got < 5_001_000
    assert 4_000_000 < result.value.got < 4_001_000
    assert plugin("raw", ("make", 3_900_000)) == bytes(3_900_000)


@needs_arena
def test_a_caller_that_gave_up(plugin: Running, stage: Stage) -> None:
    """The regions of a call that is answered when nobody waits, of one that is cancelled before it begins, and of its answer are freed."""
    plugin.remote._traffic._call_timeout = 0.05
    block = np.ones(_LARGE)
    outcomes = in_threads(4, lambda _: plugin("raw", ("sleep", 0.3, block)))
    assert all(isinstance(outcome, CallTimeout) for outcome in outcomes)
    assert plugin.remote.drained(10)
    plugin.remote._traffic._call_timeout = 30.0
    assert plugin("raw", "sums") == []
    assert eventually(lambda: _in_use(plugin) == 0)


@needs_arena
def test_many_callers(plugin: Running) -> None:
    """Arrays of many callers never mix, and nothing is left."""

    def run(seed: int) -> None:
        for step in range(25):
            number = (seed * 31 + step) % 256
            block = np.full(60_000 + 1000 * ((seed + step) % 50), number, dtype="u1")
            answer = plugin("raw", block)
            assert answer.shape == block.shape
            assert (answer == number).all()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        assert in_threads(8, run) == [None] * 8
    finally:
        sys.setswitchinterval(interval)
    assert eventually(lambda: _in_use(plugin) == 0)


def _watch(plugin: Running) -> list[Ended]:
    ends: list[Ended] = []
    plugin.remote.watch(ends.append)
    return ends


def _bring_back(plugin: Running) -> None:
    while True:
        try:
            plugin.remote.restart(lambda via: None)
        except LoadFailed:
            continue
        return


def test_calls_move_to_the_next_worker_with_what_lies_beside_them(plugin: Running) -> None:
    """SIGKILL while one call runs and others wait for their turn: those are answered by the next worker, and have what they were given."""
    ends = _watch(plugin)
    pid = plugin.pid
    outcomes: dict[int, Any] = {}

    def call(number: int) -> None:
        value = np.full(_LARGE, number, dtype="u1")
        try:
            outcomes[number] = plugin("raw", ("sleep", 30.0 if number == 0 else 0.0, value))
        except WorkerDied as error:
            outcomes[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    threads[0].start()
    assert eventually(lambda: plugin.remote._traffic.outstanding)
    for thread in threads[1:]:
        thread.start()
    assert eventually(lambda: len(plugin.remote._traffic.outstanding) == 6)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: ends)
    _bring_back(plugin)
    for thread in threads:
        thread.join()
    assert isinstance(outcomes.pop(0), WorkerDied)
    assert {number: int(value[-1]) for number, value in outcomes.items()} == {number: number for number in range(1, 6)}
    if UNAVAILABLE is None:
        assert eventually(lambda: _in_use(plugin) == 0)


@pytest.mark.parametrize("items", [400_000, 2_000_000], ids=["private memory", "memory used before"])
def test_deaths_at_any_moment(items: int, stage: Stage, tmp_path: Path) -> None:
    """SIGKILL somewhere in a call with large values: an answer that is right and stays so, or WorkerDied; the next worker begins with a memory of its own."""
    plugin = stage.start("adhoc", **stage.write(tmp_path, _SOURCE), max_message=10_000_000)
    block = np.arange(items, dtype="u4")
    kept: list[tuple[int, Any]] = []
    revivers: list[threading.Thread] = []

    def revive(ended: Ended) -> None:
        thread = threading.Thread(target=_bring_back, args=(plugin,))
        thread.start()
        revivers.append(thread)

    def answered(number: int) -> bool:
        answer = plugin("raw", block + number)
        kept[number % 3 :] = [(number, answer)]  # the memory of some is used again, that of others is not
        return bool((answer == block + number).all())

    plugin.remote.watch(revive)
    numbers = itertools.count()
    for step in range(4):
        killer = threading.Timer(0.001 * step, os.kill, (plugin.pid, signal.SIGKILL))
        killer.start()
        with contextlib.suppress(WorkerDied):
            while len(revivers) == step:
                assert answered(next(numbers))
        killer.join()
        assert eventually(lambda step=step: len(revivers) > step)
        revivers[step].join()
        assert answered(next(numbers))
    assert all((answer == block + number).all() for number, answer in kept)


_HOSTILE = """
import mmap
from blackhole_core.executor.arena import MappedShelf
from blackhole_core.executor.wire.plain import encode_plain
from blackhole_core.executor.wire import parcels
from blackhole_core.executor.wire.parcels import Reference
from blackhole_core.executor.wire.buffers import Form, Item
def come_up():
    say(codec.Hello(codec.PROTOCOL, os.getpid(), "", False, True))
    hear()
    say(codec.Loaded((codec.ImplementationInfo("raw", "raw", ("value",), {}),), {}))
    hear()
    say(codec.Answer(0, NONE))
come_up()
shelf = MappedShelf(shared[-1], first=False, limit=4_000_000, in_place=True)
request = hear()
def answer(*table):
    say(codec.Answer(request.id, msgspec.Raw(parcels._whole(parcels.Body(table, b"\\xd4\\x0d\\x00")))))
"""


@needs_arena
@pytest.mark.parametrize(
    "lie",
    [
        "Reference(Form(0), 0, 10**9 * 4096, 10)",
        "Reference(Form(0), 999, 0, 10)",
        "Reference(Form(0), 300, 10**9, 10)",
        "Reference(Form(0), 0, 0, 4_000_001)",
    ],
)
def test_a_worker_that_lies_about_its_memory_is_cut_off(stage: Stage, lie: str) -> None:
    """A region beyond the memory, a slot that is none, or too many bytes: nothing is read, and the worker ends with the reason."""
    runner = stage.hostile(f"{_HOSTILE}\nanswer({lie})\nhold()", max_message=4_000_000)
    plugin = Running(runner, runner.start())
    with pytest.raises(WorkerDied) as caught:
        plugin("raw", 1)
    assert "beside a message" in "\n".join(caught.value.__notes__) or "at most" in "\n".join(caught.value.__notes__)


@needs_arena
@pytest.mark.parametrize("share_results", [False, True])
def test_a_worker_that_writes_after_its_answer(stage: Stage, share_results: bool) -> None:
    """It changes nothing of what the host has, unless the operator said that results are shared: then it changes the numbers of its own result."""
    program = f"""{_HOSTILE}
import numpy
body = encode_plain(numpy.zeros(100_000, dtype='u1'), shelf)
body.handed = True
say(codec.Answer(request.id, msgspec.Raw(body)))
request = hear()
shelf._memory[:] = b"\\xff" * len(shelf._memory)
say(codec.Answer(request.id, NONE))
hold()
"""
    runner = stage.hostile(program, max_message=4_000_000, share_results=share_results)
    plugin = Running(runner, runner.start())
    got = plugin("raw", np.ones(100_000, dtype="u1"))
    assert not got.any()
    assert plugin("raw", 2) is None
    assert bool(got.any()) is share_results


@needs_arena
@pytest.mark.parametrize("share_results", [False, True])
def test_a_worker_that_sends_back_and_writes(stage: Stage, share_results: bool) -> None:
    """What it was given and says to send back as it is, it may have changed before and may change later: nothing but its own result."""
    program = f"""{_HOSTILE}
from blackhole_core.executor.arena import SLOTS
shelf._memory[shelf._theirs + 4096 : shelf._theirs + 4196] = b"c" * 100
answer(Reference(Form(2, Item("B"), (100,)), SLOTS, 0, 100))
request = hear()
shelf._memory[:] = b"\\xff" * len(shelf._memory)
say(codec.Answer(request.id, NONE))
hold()
"""
    runner = stage.hostile(program, max_message=4_000_000, share_results=share_results)
    plugin = Running(runner, runner.start())
    value = np.ones(100_000, dtype="u1")
    got = plugin("raw", value)
    assert got == b"c" * 100
    assert plugin("raw", 2) is None
    assert got == (b"\xff" if share_results else b"c") * 100
    assert value.all()
