"""What workers print becomes lines of text in the host's logging, bounded in every way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.executor import output
from blackhole_core.executor.output import MAX_LINE, LineSplitter, LogPump, Tail
from blackhole_core.executor.records import Records
from blackhole_core.executor.wire import codec
from blackhole_core.printable import escaped, indented, printable
from tests.stage import eventually


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.gate = threading.Event()
        self.gate.set()

    def emit(self, record: logging.LogRecord) -> None:
        self.gate.wait(20)
        self.records.append(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def kept() -> Iterator[_Kept]:
    """A handler on the logger ``blackhole.plugin.outputtest``."""
    handler, logger = _Kept(), output.plugin_logger("outputtest")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield handler
    handler.gate.set()
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture
def pump() -> Iterator[LogPump]:
    pump = LogPump()
    yield pump
    pump.close()


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_lines_do_not_depend_on_how_they_arrive(pieces: list[bytes]) -> None:
    """Whole or byte by byte, the same lines come out."""
    whole, single = LineSplitter(), LineSplitter()
    data = b"".join(pieces)
    expected = whole.feed(data) + whole.end()
    assert [line for byte in data for line in single.feed(bytes([byte]))] + single.end() == expected


def test_bytes_that_are_no_text_are_shown() -> None:
    """Undecodable bytes and a line without end are kept."""
    lines = LineSplitter()
    assert lines.feed(b"\xff\xfe not text\r\nno newline") == ["\\xff\\xfe not text"]
    assert lines.end() == ["no newline"]
    assert lines.end() == []


def test_a_long_line_is_one_record_and_an_endless_one_is_cut() -> None:
    """H-12: 100 kB are one record; a line without end is cut, whether or not its end has come."""
    lines = LineSplitter()
    assert lines.feed(b"x" * 100_000 + b"\n") == ["x" * 100_000]
    assert [len(line) for line in lines.feed(b"x" * (2 * MAX_LINE + 5) + b"\n")] == [MAX_LINE, MAX_LINE, 5]
    assert [len(line) for line in lines.feed(b"x" * (2 * MAX_LINE + 5))] == [MAX_LINE, MAX_LINE]
    assert lines.end() == ["xxxxx"]


def test_control_characters_become_visible() -> None:
    """A12: nothing a plugin prints can repaint a terminal, move the cursor or forge a line."""
    assert LineSplitter().feed(b"\x1b[31mred\x07 \x9b\r\x00\n") == ["\\x1b[31mred\\x07 \\x9b\\r\\x00"]
    assert escaped("\u202eright to left\u2028\ud800") == "\\u202eright to left\\u2028\\ud800"
    assert escaped("größe ✓ 漢字\n\tx") == "größe ✓ 漢字\n\tx"
    assert printable("x" * 70_000).endswith("… (4464 more characters)")
    assert indented("a\nERROR forged") == "a\n  ERROR forged"


def test_the_tail_keeps_the_last_lines() -> None:
    """Forty lines of at most a thousand characters explain a death."""
    tail = Tail()
    for number in range(50):
        tail.add(f"{number}:" + "x" * 2000)
    assert len(tail.lines()) == 40
    assert tail.lines()[0].startswith("10:")
    assert max(map(len, tail.lines())) == 1000


def test_lines_are_emitted_in_order(pump: LogPump, kept: _Kept) -> None:
    """The pump is one thread, so order is kept; closing emits what is queued."""
    for number in range(500):
        pump.put(output.plugin_logger("outputtest"), logging.INFO, str(number))
    pump.close()
    assert kept.texts == [str(number) for number in range(500)]


@pytest.mark.parametrize(("text", "fits"), [("x", output.QUEUE_SIZE), ("x" * MAX_LINE, output.QUEUE_CHARACTERS // MAX_LINE)])
def test_slow_handlers_cost_lines_and_the_count_of_them_is_told(pump: LogPump, kept: _Kept, text: str, fits: int) -> None:
    """F-24, A11: the queue is bounded in records and in characters; what does not fit is counted, never waited for."""
    logger = output.plugin_logger("outputtest")
    kept.gate.clear()
    pump.put(logger, logging.INFO, "first")
    assert eventually(lambda: not pump._queue)  # the pump holds it and hangs in the handler
    for _ in range(fits + 7):
        pump.put(logger, logging.INFO, text)
    kept.gate.set()
    pump.close()
    assert kept.texts[0] == "first"
    assert kept.texts.count(text) == fits
    assert kept.texts[-1] == "7 lines were dropped: the plugin writes more than its share, or than the log handlers take"


def test_a_handler_that_raises_costs_its_record_only(pump: LogPump, kept: _Kept, capsys: pytest.CaptureFixture[str]) -> None:
    """F45: a handler whose sink is gone does not end the pump."""
    logger = output.plugin_logger("outputtest")

    def broken(record: logging.LogRecord) -> bool:
        if record.getMessage() == "bad":
            raise BrokenPipeError("the sink is gone")
        return True

    logger.addFilter(broken)
    try:
        for text in ("bad", "good"):
            pump.put(logger, logging.INFO, text)
        pump.close()
    finally:
        logger.removeFilter(broken)
    assert kept.texts == ["good"]
    assert "the sink is gone" in capsys.readouterr().err


def test_a_handler_that_hangs_does_not_hang_the_host(kept: _Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits for the handlers, but not for ever."""
    monkeypatch.setattr(output, "CLOSE_GRACE", 0.05)
    pump = LogPump()
    kept.gate.clear()
    pump.put(output.plugin_logger("outputtest"), logging.INFO, "stuck")
    pump.close()
    pump.close()
    assert kept.texts == []
    kept.gate.set()


def test_after_close_nothing_is_taken(kept: _Kept) -> None:
    """A closed pump starts no thread."""
    pump = LogPump()
    pump.close()
    pump.put(output.plugin_logger("outputtest"), logging.INFO, "late")
    assert kept.texts == []


def test_records_keep_level_logger_and_traceback(pump: LogPump, kept: _Kept) -> None:
    """H-12: a record of the plugin's own logging arrives as one; its further lines are indented so that none can pass for another."""
    records = Records(output.plugin_logger("outputtest"), pump)
    records.logged(codec.Log(logging.ERROR, "db.pool", "failed\nERROR forged \x1b[2J", "Traceback:\n  x"))
    records.logged(codec.Log(logging.DEBUG, "root", "plain"))
    pump.close()
    first, second = kept.records
    assert (first.name, first.levelno) == ("blackhole.plugin.outputtest.db.pool", logging.ERROR)
    assert first.getMessage() == "failed\n  ERROR forged \\x1b[2J\n  Traceback:\n    x"
    assert (second.name, second.levelno) == ("blackhole.plugin.outputtest", logging.DEBUG)


def test_names_and_levels_are_bounded(pump: LogPump, kept: _Kept) -> None:
    """A11: logging never forgets a logger or a level, so a worker gets a limited number of both."""
    base = output.plugin_logger("outputtest")
    records = Records(base, pump)
    before = len(logging.root.manager.loggerDict)
    for number in range(1000):
        records.logged(codec.Log(10**9 + number, f"outputtest_{number}", "x"))
    records.logged(codec.Log(-5, "n" * 1000, "x"))
    pump.close()
    assert len(logging.root.manager.loggerDict) - before <= 101
    assert {record.levelno for record in kept.records} <= {0, 100}


def test_one_plugin_that_floods_costs_no_other_a_line(pump: LogPump, kept: _Kept) -> None:
    """A11: each plugin has a share of the queue; what one writes beyond its own is dropped, and the others' lines are not."""
    flooding, other = output.plugin_logger("outputtest"), output.plugin_logger("outputtest.other")
    kept.gate.clear()
    taken = [pump.put(flooding.getChild(str(number % 7)), logging.INFO, "flood", flooding) for number in range(output.QUEUE_SIZE + 100)]
    assert all(taken[: output.QUEUE_SIZE])
    assert not any(taken[output.QUEUE_SIZE + 1 :])  # one more or less: the pump may hold one already
    assert pump.put(other, logging.INFO, "well", other)
    kept.gate.set()
    # Thousands are in front of it: closing, which waits for a few seconds, might let it go.
    assert eventually(lambda: "well" in kept.texts, 60)


def test_all_plugins_together_are_bounded(pump: LogPump, kept: _Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """A11: a hundred plugins that flood do not get a hundred shares."""
    monkeypatch.setattr(output, "QUEUE_SIZE", 5)
    kept.gate.clear()
    loggers = [output.plugin_logger(f"outputtest.{number}") for number in range(10)]
    taken = [pump.put(logger, logging.INFO, "flood", logger) for logger in loggers for _ in range(5)]
    assert 5 * output.QUEUE_SHARES <= sum(taken) <= 5 * output.QUEUE_SHARES + 1
    kept.gate.set()


def test_lost_lines_are_told_to_whoever_asked(kept: _Kept, capsys: pytest.CaptureFixture[str]) -> None:
    """The count of them goes to the log and to the host, in the words that name the plugin; a host that raises does not end the log."""
    told: list[tuple[str, int]] = []

    def tell(name: str, count: int) -> None:
        told.append((output.plugin_of(name), count))
        raise ValueError("the listener is broken")

    pump = LogPump(tell)
    records = Records(output.plugin_logger("outputtest"), pump)
    records.lose(40, ["last words"])
    pump.close()
    assert told == [("outputtest", 41)]
    assert records.lost == 41
    assert records.tail.lines() == ("last words",)
    assert kept.texts == ["41 lines were dropped: the plugin writes more than its share, or than the log handlers take"]
    assert "the listener is broken" in capsys.readouterr().err


def test_a_pump_may_be_closed_by_whom_it_tells(kept: _Kept) -> None:
    """A listener that ends the host from the pump's own thread does not wait for itself."""
    pumps: list[LogPump] = []
    closed = threading.Event()

    def end(name: str, count: int) -> None:
        pumps[0].close()
        closed.set()

    pumps.append(LogPump(end))
    pumps[0].lose(output.plugin_logger("outputtest"), 1)
    assert closed.wait(10)


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=30)), max_size=20))
def test_every_line_is_counted_once_whether_it_is_read_or_thrown_away(pieces: list[tuple[bool, bytes]]) -> None:
    """Lines that were skipped and lines that were given are together all there were, but one that was torn; the last ones are always given."""
    lines, found = LineSplitter(), 0
    for skip, some in pieces:
        data = some * 700  # some are longer than what is kept of them
        lost, last = lines.skip(data) if skip and data else (0, lines.feed(data))
        found += lost + len(last)
    found += len(lines.end())
    whole = b"".join(data * 700 for _, data in pieces)
    cut = 1 + len(whole) // MAX_LINE  # a last line without its end, and lines that are cut
    assert whole.count(b"\n") <= found <= whole.count(b"\n") + cut
