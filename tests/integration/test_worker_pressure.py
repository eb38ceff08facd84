"""A worker that sends too slowly, or too much, or does not read: it costs the host a bounded amount of memory and work, and nobody else anything."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import blackhole_core as bh
from blackhole_core.errors import CallTimeout, LoadFailed, WorkerDied
from blackhole_core.executor import callbacks, connection, traffic
from blackhole_core.executor.wire.arrival import Patience
from tests.stage import Stage, eventually, in_threads

MIB = 1024 * 1024


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give workers a moment, where they have half a minute, to finish a message."""
    monkeypatch.setattr(connection, "PATIENCE", Patience(stall=0.4, grace=0.4, rate=1000.0, tick=0.05))


def _rss() -> int:
    """Return the bytes of this process that are in memory, without what its allocator keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- too slowly ------------------------------------------------------------------------------------------------------

_DRIP = """
def drip(data, seconds):
    for byte in data:
        raw(bytes([byte]))
        time.sleep(seconds)
"""


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("drip(frame(bytes(1000)), 0.03)", "at least 1000 a second are wanted"),
        ("raw(frame(bytes(1000))[:500])", "a message stopped after 500 bytes, and nothing followed"),
        ("raw(b'\\0\\0')", "a message stopped after 2 bytes"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_message_that_is_not_finished(stage: Stage, program: str, says: str) -> None:
    """A02, F03: whoever begins a message and drips it, or stops in it, is cut off with the reason; others do not notice."""
    other = stage.start("counter")
    plugin, ends = stage.hostile_up(f"{_DRIP}\ncome_up()\nhear()\n{program}\nhold()")
    with pytest.raises(WorkerDied) as caught:
        plugin("transform", "x")
    assert says in "\n".join(caught.value.__notes__)
    assert eventually(lambda: ends)
    assert ends[0].exit == -9
    assert other("add", 1) == 1


@pytest.mark.usefixtures("impatient")
def test_a_handshake_that_drips(stage: Stage) -> None:
    """F05, H-06: a worker gets no more time to say its first word than any other."""
    with pytest.raises(LoadFailed, match="broke the protocol: a message of which"):
        stage.hostile(f"{_DRIP}\ndrip(frame(codec.encode(codec.Hello(1, 1))) * 100, 0.06)\nhold()").start()


def test_a_handshake_that_drips_within_its_rights_ends_with_the_start_timeout(stage: Stage) -> None:
    """H-06: and all messages together have the start timeout."""
    with pytest.raises(LoadFailed, match=r"not ready within 0.4 s \(start_timeout\)"):
        stage.hostile(f"{_DRIP}\ndrip(frame(codec.encode(codec.Hello(1, 1))), 0.2)\nhold()", start_timeout=0.4).start()


@pytest.mark.usefixtures("impatient")
def test_a_large_message_in_many_pieces_is_none_of_that(stage: Stage) -> None:
    """An honest message takes several times the patience for one piece, and arrives."""
    program = """
come_up()
data = frame(codec.encode(codec.Answer(hear().id, msgspec.Raw(msgspec.msgpack.encode("x" * 2_000_000)))))
for start in range(0, len(data), 100_000):
    raw(data[start : start + 100_000])
    time.sleep(0.06)
hold()
"""
    plugin, ends = stage.hostile_up(program)
    assert len(plugin("transform", "x")) == 2_000_000
    assert not ends


@pytest.mark.usefixtures("impatient")
def test_a_host_that_was_stopped_does_not_take_it_out_on_its_workers(stage: Stage) -> None:
    """F24: what the host slept through is not held against a worker that was sending."""
    program = """
come_up()
data = frame(codec.encode(codec.Answer(hear().id, msgspec.Raw(msgspec.msgpack.encode("x" * 1000)))))
raw(data[:500])
host = os.getppid()
os.kill(host, signal.SIGSTOP)
time.sleep(1.0)
os.kill(host, signal.SIGCONT)
raw(data[500:])
hold()
"""
    plugin, ends = stage.hostile_up(program)
    assert len(plugin("transform", "x")) == 1000
    assert not ends


# --- does not read ---------------------------------------------------------------------------------------------------


def test_callers_wait_for_a_worker_that_does_not_read(stage: Stage) -> None:
    """F06: calls to a stopped worker hold a bounded amount of memory; who comes later waits with its own deadline and was certainly not executed."""
    plugin = stage.start("full", max_message=4 * MIB, hang_grace=60.0)
    text = "x" * (3 * MIB)
    os.kill(plugin.pid, signal.SIGSTOP)

    def call(_: int) -> str:
        with bh.deadline(0.5), pytest.raises(CallTimeout) as caught:
            plugin("raw", text)
        return str(caught.value)  # the error itself would keep the arguments

    outcomes = [outcome for _ in range(2) for outcome in in_threads(30, call)]
    refused = [outcome for outcome in outcomes if "are under way already" in outcome]
    assert len(refused) == 55  # four of the largest messages are sixteen MiB: five of these
    assert "executed: no, 5 calls with " in refused[0]
    waiting = plugin.remote._traffic.worker.connection._outbox  # type: ignore[union-attr]  # there is one
    with waiting.head(10**9) as held:
        assert 10 * MIB < len(held) < 16 * MIB
    os.kill(plugin.pid, signal.SIGCONT)
    assert plugin("raw", text) == text
    assert eventually(lambda: plugin.remote.drained(0))
    assert (plugin.remote._traffic._backlog.calls, plugin.remote._traffic._cramped) == (0, 0)


def test_whoever_waits_for_room_gets_it(stage: Stage, monkeypatch: pytest.MonkeyPatch, fast_switching: None) -> None:
    """Forty callers of a worker that takes three at a time: each is answered once, and none is forgotten."""
    monkeypatch.setattr(traffic, "_MOST_CALLS", 3)
    plugin = stage.start("counter")
    answers = in_threads(40, lambda _: [plugin("add", 1) for _ in range(10)])
    assert sorted(number for some in answers for number in some) == list(range(1, 401))
    assert plugin.remote._traffic._backlog.calls == 0


def test_whoever_waits_for_room_is_told_of_the_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping the plugin ends the waiting of those who had not even been let in."""
    monkeypatch.setattr(traffic, "_MOST_CALLS", 1)
    plugin = stage.start("full", stop_grace=0.3)

    def act(number: int) -> Any:
        if number < 5:
            return plugin("slow", 30)
        assert eventually(lambda: plugin.remote._traffic._cramped == 4)
        return plugin.runner.stop()

    *outcomes, stopped = in_threads(6, act)
    assert stopped is None
    kinds = sorted(type(outcome).__name__ for outcome in outcomes)
    assert kinds == ["PluginUnloaded"] * 4 + ["WorkerDied"]


# --- too much --------------------------------------------------------------------------------------------------------

_FLOODS = {
    "100,000 log records": "say(*[codec.Log(30, 'root', f'line {n}') for n in range(100)]); "
    "batch = frame(codec.encode(codec.Log(30, 'root', 'x' * 20))) * 1000\nfor _ in range(100): raw(batch)",
    "records in single bytes": "data = frame(codec.encode(codec.Log(30, 'root', 'x' * 20))) * 3000\nfor byte in data: raw(bytes([byte]))",
    "much output": "batch = (b'x' * 79 + b'\\n') * 10_000\nfor _ in range(50): os.write(1, batch)",
    "a line without end": "batch = b'x' * 1_000_000\nfor _ in range(50): os.write(1, batch)",
}


@pytest.mark.parametrize("flood", _FLOODS)
def test_a_flood_of_output_is_bounded(stage: Stage, flood: str, caplog: pytest.LogCaptureFixture) -> None:
    """A11, F-24: the plugin gets through, what is too much is counted, memory stays flat, and another plugin's calls are answered meanwhile."""
    logging.getLogger("blackhole.plugin.hostile").setLevel(logging.ERROR)  # nobody listens: the reading itself has to be bounded
    try:
        other = stage.start("counter")
        plugin, ends = stage.hostile_up(
            f"come_up()\nrequest = hear()\n{_FLOODS[flood]}\n"
            "say(codec.Answer(request.id, NONE))\nnext = hear()\nwhile type(next) is not type(request): next = hear()\n"
            "print('\\nthe last words', flush=True)\nsay(codec.Answer(next.id, NONE))\nhold()",
        )
        before = _rss()
        flooding = threading.Thread(target=plugin, args=("transform", "x"))
        flooding.start()
        counted = 0
        while flooding.is_alive():
            counted += 1
            assert other("add", 1) == counted
        flooding.join()
        plugin("transform", "x")  # all that it said before was read
        assert not ends
        assert counted > 20
        assert _rss() - before < 60 * MIB
        connected = plugin.remote._traffic.worker.connection  # type: ignore[union-attr]  # there is one
        assert eventually(lambda: "the last words" in "".join(connected._records.tail.lines()))
        if flood in ("100,000 log records", "much output"):  # the others are few, however they come
            assert plugin.remote.facts.lost_lines > 1000
    finally:
        logging.getLogger("blackhole.plugin.hostile").setLevel(logging.NOTSET)


def test_lost_lines_are_shown(tmp_path: Path) -> None:
    """A11: an event tells of them, and the handle counts them, also over a restart of the worker."""
    from tests.integration.managed import Log, manager
    from tests.plugins.build import plugin_dir

    log = Log()
    with manager(log=log) as pm:
        pm.load("faulty", source=plugin_dir("faulty", "1.0.0", tmp_path), isolation="process")
        assert pm.plugin("faulty").lost_lines == 0
        assert pm.hook.fail(kind="flood") == ["flooded"]
        event = log.wait("plugin.output_lost")
        assert event.plugin == "faulty"
        assert event.data["lines"] > 0
        pid = pm.plugin("faulty").pid
        assert pid is not None
        lost = pm.plugin("faulty").lost_lines
        os.kill(pid, signal.SIGKILL)
        log.wait("worker.restarted")
        after = pm.plugin("faulty").as_dict()["lost_lines"]
        assert after is not None
        assert lost is not None
        assert after >= lost >= event.data["lines"] > 0


def test_calls_to_the_host_hold_a_bounded_amount(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A14: not only their number, also what their arguments take is bounded; those beyond it are refused, each with an answer."""
    program = """
come_up()
first = hear()
text = msgspec.Raw(msgspec.msgpack.encode("x" * 900_000))
for number in range(1, 101):
    say(codec.HostCall(number, "no_such_hook", {"text": text}))
refused = 0
for number in range(100):
    answer = hear()
    refused += "under way, no more are taken" in answer.failure.message
    if refused == 96:
        print("all the others were refused", flush=True)
say(codec.Answer(first.id, msgspec.Raw(msgspec.msgpack.encode(str(refused)))))
hold()
"""
    gate = threading.Event()
    perform = callbacks.CallbackServer._perform

    def slowly(self: callbacks.CallbackServer, *args: Any) -> Any:
        gate.wait(20)
        return perform(self, *args)

    monkeypatch.setattr(callbacks.CallbackServer, "_perform", slowly)
    plugin, _ = stage.hostile_up(program, max_message=1_000_000)

    def act(number: int) -> Any:
        if number == 0:
            return plugin("transform", "x")
        connected = plugin.remote._traffic.worker.connection  # type: ignore[union-attr]  # there is one
        assert eventually(lambda: "all the others were refused" in connected._records.tail.lines())
        assert plugin.remote._callbacks._backlog.calls == 4  # of four of the largest messages there is room
        return gate.set()

    assert in_threads(2, act) == ["96", None]
    assert plugin.remote._callbacks._backlog.calls == 0


def test_answers_that_nobody_reads_are_counted_too(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A14: a million short answers weigh more in the host than their bytes say."""
    monkeypatch.setattr(connection, "_UNREAD_COUNT", 2000)
    program = "come_up()\nhear()\nfor number in range(1, 200_000): say(codec.HostCall(number, 'x' * 200, {}))\nhold()"
    plugin, ends = stage.hostile_up(program)
    with pytest.raises(WorkerDied, match="does not read the answers"):
        plugin("transform", "x")
    assert eventually(lambda: ends)
