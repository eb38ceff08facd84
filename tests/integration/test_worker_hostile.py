"""A worker program written by an enemy: it is cut off, with a reason, and nothing else is disturbed."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import blackhole_core as bh
from blackhole_core.errors import BlackholeError, CallTimeout, CannotCross, LoadFailed, ProtocolError, RemoteError, WorkerDied
from blackhole_core.executor.lane import UNAVAILABLE
from tests.stage import Stage, eventually


def _rss() -> int:
    """Return the bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


_BREACHES = {
    "4 GiB frame": ("raw(b'\\xff\\xff\\xff\\xff')", "claims 4294967295 bytes"),  # A02
    "garbage": ("raw(b'\\xde\\xad\\xbe\\xef' * 1000)", "broke the protocol"),
    "not msgpack": ("raw(frame(b'\\xc1'))", "not a message"),
    "empty message": ("raw(frame(b''))", "not a message"),
    "deep nesting": ("raw(frame(b'\\x93\\x05\\x01' + b'\\x91' * 500_000 + b'\\xc0'))", "not a message"),  # A04
    "not UTF-8": ("raw(frame(b'\\x92\\x07\\xa1\\xff'))", "not a message"),  # A05
    "the host's own message": ("say(codec.Stop())", "not a message"),
    "unknown id": ("say(codec.Answer(77, NONE))", "an answer to request 77, which is not open"),
    "answer twice": ("say(codec.Answer(request.id, NONE), codec.Answer(request.id, NONE))", "which is not open"),  # A10
    "hello again": ("say(codec.Hello(1, 1))", "Hello from a worker that has come up"),
    "loaded again": ("say(codec.Loaded((TRANSFORM,), {}))", "Loaded from a worker that has come up"),
    "more modules than there can be": ("say(codec.Imported(1, ('m',) * 5000))", "not a message"),
    "a module name without end": ("say(codec.Imported(1, ('m' * 1000,)))", "not a message"),
    "bound again": ("say(codec.Answer(0, NONE))", "request 0, which is not open"),
    "a large message without a value": ("say(codec.Log(30, 'root', 'x' * (2 << 20)))", "without a value"),
}


@pytest.mark.parametrize("breach", _BREACHES)
def test_a_breach_of_the_protocol_cuts_the_worker_off(stage: Stage, breach: str) -> None:
    """A02, A04, A05, A10: the worker is killed, the caller told, the reason named; another plugin does not notice."""
    program, says = _BREACHES[breach]
    other = stage.start("counter")
    plugin, ends = stage.hostile_up(f"come_up()\nrequest = hear()\n{program}\nhold()")
    if breach == "answer twice":
        assert plugin("transform", "x") is None
    else:
        with pytest.raises(WorkerDied) as caught:
            plugin("transform", "x")
        assert says in "\n".join(caught.value.__notes__)
        assert "it broke the protocol" in "\n".join(caught.value.__notes__)
    assert eventually(lambda: ends)
    assert ends[0].reason is not None
    assert says in ends[0].reason
    assert ends[0].exit == -9
    assert plugin.remote.drained(0)
    assert other("add", 1) == 1


def test_what_waits_behind_a_breach_is_not_run_again(stage: Stage) -> None:
    """What a worker says after a breach is not read: it may have answered and begun whatever it had been sent, until it was killed."""
    plugin, ends = stage.hostile_up("come_up()\nhear(), hear()\nsay(codec.Answer(77, NONE))\nhold()")

    def call(text: str) -> str:
        with pytest.raises(WorkerDied) as caught, bh.deadline(20):
            plugin("transform", text)
        return caught.value.executed

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(call, ["first", "second"])) == ["unknown", "unknown"]
    assert eventually(lambda: len(ends) == 1)  # told after the callers


_BAD_STARTS = {
    "says nothing and ends": ("", "exited with status 0 before it was ready"),
    "garbage for hello": ("raw(b'x' * 100)\nhold()", "broke the protocol"),
    "another protocol": ("say(codec.Hello(99, 1))\nhold()", "speaks protocol 99"),
    "loaded before hello": ("say(codec.Loaded((), {}))\nhold()", "sent Loaded where Hello was expected"),
    "calls the host": ("say(codec.Hello(1, 1), codec.HostCall(1, 'transform', {}))\nhold()", "has not come up"),
    "says everything at once, twice": ("say(*[codec.Hello(1, 1)] * 4)\nhold()", "Hello"),
    "source text for a name": (
        "come_up(codec.ImplementationInfo('f(): import os #', 'f(): import os #', (), {}))",
        "not a usable name",
    ),
    "source text for an argument": (
        "come_up(codec.ImplementationInfo('transform', 'transform', ('a=print(1)',), {}))",
        "not a usable name",
    ),
    "an argument twice": ("come_up(codec.ImplementationInfo('transform', 'transform', ('a', 'a'), {}))", "names an argument twice"),
    "a dunder": ("come_up(codec.ImplementationInfo('__class__', '__class__', (), {}))", "not a usable name"),
    "another hook than its options": (
        "come_up(codec.ImplementationInfo('transform', 'transform', ('text',), {'specname': 'total'}))",
        "its options say something else",
    ),
    "two of one name": ("come_up(TRANSFORM, TRANSFORM)", "two implementations have the same name"),
    "a wrapper that is none": ("come_up(codec.ImplementationInfo('transform', 'transform', (), {'wrapper': True}))", "hook wrapper"),
}


@pytest.mark.parametrize("fault", _BAD_STARTS)
def test_a_worker_that_comes_up_wrong(stage: Stage, fault: str) -> None:
    """F05, A05: the load fails with the reason, and nothing is left behind."""
    program, says = _BAD_STARTS[fault]
    runner = stage.hostile(program, start_timeout=10.0)
    with pytest.raises((LoadFailed, CannotCross), match=says):
        runner.start()


def test_a_worker_that_never_says_ready(stage: Stage) -> None:
    """H-06: the start timeout ends it."""
    with pytest.raises(LoadFailed, match=r"not ready within 0.3 s \(start_timeout\)"):
        stage.hostile("say(codec.Hello(1, 1))\nhold()", start_timeout=0.3).start()


_IN_LANE = """
import mmap, random
from blackhole_core.executor import lane as lanes
come_up(lane=True)
memory = memoryview(mmap.mmap(shared[0], lanes._SIZE))
mine = lanes.WorkerLane(*shared[:3])
def request():
    while not mine.look():
        time.sleep(0.001)
    return mine.receive()
def answer(number, body=b"\\xa2hi", length=None):
    lanes._OUTWARD.pack_into(memory, lanes._OUT, number, len(body) if length is None else length)
    memory[lanes._OUT + lanes._OUTWARD.size:][:len(body)] = body
    memory[lanes._ANSWER] = (mine._tag - 2) % 255 + 1
    lanes._ring(mine._bell)
"""

_LANE_BREACHES = {
    "another request's answer": ("answer(77)", "to request 77 in the shared memory"),
    "an answer larger than the memory": ("answer(number, length=2**32 - 1)", "an answer of 4294967295 bytes"),
    "rings for ever": ("[lanes._ring(mine._bell) for _ in iter(int, 1)]", "100 rings without an answer"),
    "an answer by both ways": ("answer(number); say(codec.Answer(number, NONE), codec.Answer(number, NONE))", "which is not open"),
}


@pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))
@pytest.mark.parametrize("breach", _LANE_BREACHES)
def test_a_breach_in_shared_memory_cuts_the_worker_off(stage: Stage, breach: str) -> None:
    """A worker that misuses the memory it shares with its host ends, with the reason; its caller is told or has its answer."""
    act, reason = _LANE_BREACHES[breach]
    plugin, ends = stage.hostile_up(f"{_IN_LANE}\nnumber, *_ = request()\n{act}\nhold()")
    try:
        assert plugin("transform", "x") in ("hi", None)
    except WorkerDied as error:
        assert error.executed == "unknown"  # noqa: PT017 - it need not be raised
    assert eventually(lambda: bool(ends))
    assert reason in str(ends[0].reason)


@pytest.mark.skipif(UNAVAILABLE is not None, reason=str(UNAVAILABLE))
@pytest.mark.parametrize("seed", range(2))
def test_scribbling_over_shared_memory_harms_nobody_else(stage: Stage, seed: int) -> None:
    """Random bytes at random places, all the time: calls end in a value of the right type or in a typed error, and others go on."""
    scribble = """
chance = random.Random(SEED)
def write_all_over():
    while True:
        start = chance.choice([0, 64, 128, 192, 256, lanes._OUT, chance.randrange(lanes._SIZE)])
        noise = chance.randbytes(chance.randrange(1, 40))
        memory[start : start + len(noise)] = noise[: lanes._SIZE - start]
import threading
threading.Thread(target=write_all_over, daemon=True).start()
while True:
    try:
        number, *_ = request()
        answer(number)
    except Exception:
        pass
""".replace("SEED", str(seed))
    plugin, ends = stage.hostile_up(_IN_LANE + scribble, call_timeout=0.3, hang_grace=0.2)
    other = stage.start("upper", "process")
    for number in range(15):
        if ends:
            break
        try:
            assert isinstance(plugin("transform", "x"), str | None)
        except (WorkerDied, CannotCross, CallTimeout):
            pass
        assert other("transform", f"a{number}") == f"A{number}"
    assert other("transform", "still") == "STILL"


def test_results_of_the_wrong_type_never_reach_the_host(stage: Stage) -> None:
    """A05: the result is decoded by the spec's annotation, whatever the worker says."""
    plugin, _ = stage.hostile_up("come_up()\nwhile True: say(codec.Answer(hear().id, msgspec.Raw(msgspec.msgpack.encode({'a': 1}))))")
    with pytest.raises(CannotCross, match="the result .* Expected `str"):
        plugin("transform", "x")


def test_failures_name_only_exceptions_the_host_knows(stage: Stage) -> None:
    """A13: a failure that names anything else becomes RemoteError with its text; nothing is imported, called or ended."""
    names = [("os", "_wrap_close"), ("builtins", "SystemExit"), ("builtins", "exit"), ("notes_api", "NotesSpecs"), ("subprocess", "Popen")]
    program = f"""
come_up()
for module, name in {names!r}:
    say(codec.Error(hear().id, codec.WireFailure(module, name, "\\x1b[2Jtext\\r", args=b"\\x91\\xa2id", traceback="\\x1b[31m")))
say(codec.Error(hear().id, codec.WireFailure("blackhole:wire", "too_large", "", args=b"\\xc0")))
hold()
"""
    plugin, _ = stage.hostile_up(program)
    for module, name in names:
        with pytest.raises(RemoteError) as caught:
            plugin("transform", "x")
        assert caught.value.type_name == (name if module == "builtins" else f"{module}.{name}")
        assert "\x1b" not in str(caught.value) + "".join(caught.value.__notes__)
        assert "\\x1b[2Jtext\\r" in str(caught.value)
    with pytest.raises(ProtocolError, match="failure report that cannot be read"):
        plugin("transform", "x")


def test_a_flood_of_host_calls_is_bounded(stage: Stage) -> None:
    """A11: more calls to the host than it takes at once are refused, each with an answer, and memory stays flat."""
    program = """
come_up()
first = hear()
for number in range(1, 20_001):
    say(codec.HostCall(number, "no_such_hook", {}))
answers = 0
while answers < 20_000:
    answers += isinstance(hear(), codec.Error)
say(codec.Answer(first.id, msgspec.Raw(msgspec.msgpack.encode(str(answers)))))
hold()
"""
    plugin, _ = stage.hostile_up(program)
    before = _rss()
    # Nobody reads while the worker writes: its answers wait in the host until it does.
    assert plugin("transform", "x") == "20000"
    assert _rss() - before < 40 * 1024 * 1024


def test_a_worker_that_asks_and_does_not_read_is_cut_off(stage: Stage, tmp_path: Path) -> None:
    """A11: answers that nobody reads may not fill the host's memory."""
    stage.start("full", "none")
    program = """
come_up()
hear()
size = msgspec.Raw(msgspec.msgpack.encode(900_000))
for number in range(1, 500):
    say(codec.HostCall(number, "blob", {"size": size}))
hold()
"""
    plugin, ends = stage.hostile_up(program, max_message=1_000_000, call_timeout=60.0)
    before = _rss()
    with pytest.raises(WorkerDied) as caught:
        plugin("transform", "x")
    assert "it calls the host and does not read the answers" in "\n".join(caught.value.__notes__)
    assert _rss() - before < 60 * 1024 * 1024
    assert eventually(lambda: len(ends) == 1)


def test_a_claimed_frame_takes_no_memory(stage: Stage) -> None:
    """A02: half a frame of the largest size takes what was sent, not what was claimed; the rest of the host runs on."""
    plugin, _ = stage.hostile_up("come_up()\nhear()\nraw((60 << 20).to_bytes(4, 'big') + b'x' * 1000)\nhold()", hang_grace=0.1)
    before = _rss()
    with bh.deadline(0.3), pytest.raises(BlackholeError):
        plugin("transform", "x")
    assert _rss() - before < 20 * 1024 * 1024  # a third of what was claimed: what else the host does meanwhile takes a few


def test_a_worker_that_stops_reading_is_found(stage: Stage) -> None:
    """A worker that closes its ear is ended; its callers do not wait for their deadline."""
    plugin, ends = stage.hostile_up("come_up()\nos.close(receive)\nhold()")
    with pytest.raises(WorkerDied):
        plugin("transform", "x")
    assert eventually(lambda: ends)
    assert ends[0].reason == "it closed its channel and went on running"


def test_a_process_that_outlives_its_worker_and_writes_for_ever(stage: Stage, tmp_path: Path) -> None:
    """What escapes into a session of its own and floods the output may not keep the host from seeing the worker's end."""
    enough, gave_up = tmp_path / "enough", tmp_path / "gave up"
    program = f"""
come_up()
hear()
if os.fork() == 0:
    os.setsid()
    end = time.monotonic() + 25
    while not os.path.exists({str(enough)!r}):
        if time.monotonic() > end:
            open({str(gave_up)!r}, "w").close()
            break
        os.write(1, b"x" * 5000 + b"\\n")
    os._exit(0)
os._exit(5)
"""
    plugin, _ = stage.hostile_up(program, call_timeout=60.0)
    try:
        with pytest.raises(WorkerDied) as caught:
            plugin("transform", "x")
    finally:
        enough.touch()
    assert caught.value.exit == 5
    assert not gave_up.exists()  # it was still writing
