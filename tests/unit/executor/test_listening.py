"""What a worker prints is heard as far as its budget goes, a little at a time, and the rest is thrown away and counted."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator

import pytest

from blackhole_core.executor.listening import Listener
from blackhole_core.executor.output import LogPump
from blackhole_core.executor.records import Records
from blackhole_core.executor.wire.budget import Budget

_LINES = 100  # of the budget
_LINE = b"a line\n"


class _Heard:
    def __init__(self, reading: int, writing: int) -> None:
        self.writing = writing
        self.pump = LogPump()
        self.records = Records(logging.getLogger("blackhole.plugin.heard"), self.pump)
        self.listener = Listener(reading, self.records, Budget(time.monotonic(), rate=1e-6, burst=_LINES))

    def say(self, lines: int) -> None:
        assert os.write(self.writing, _LINE * lines) == len(_LINE) * lines


@pytest.fixture
def heard() -> Iterator[_Heard]:
    logging.getLogger("blackhole.plugin.heard").setLevel(logging.CRITICAL)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 2**17)
    told = _Heard(reading, writing)
    yield told
    told.pump.close()
    os.close(reading)
    os.close(writing)
    logging.getLogger("blackhole.plugin.heard").setLevel(logging.NOTSET)


def test_who_prints_little_is_heard_at_once(heard: _Heard) -> None:
    """A few lines are taken in, and the output is not left alone after them."""
    heard.say(3)
    assert heard.listener.read() == 3 * len(_LINE)
    assert heard.records.tail.lines() == ("a line",) * 3
    assert heard.listener.pause == 0


def test_who_prints_much_lets_others_go_first(heard: _Heard) -> None:
    """After much of the budget was used up the output is left alone for a moment after each read, after all of it for longer."""
    heard.say(_LINES // 2)
    heard.listener.read()
    breath = heard.listener.pause
    heard.say(_LINES)
    heard.listener.read()
    assert 0 < breath < heard.listener.pause
    assert heard.records.lost == 0


def test_little_is_read_at_once(heard: _Heard) -> None:
    """However much there is, one read takes in so little that nobody waits for long."""
    heard.say(2**16 // len(_LINE))
    assert heard.listener.read() <= 2**14


def test_what_exceeds_the_budget_is_thrown_away_and_counted(heard: _Heard) -> None:
    """All that is there goes at once, each line is counted, and the last ones are kept to explain a death."""
    heard.say(2 * _LINES)
    heard.listener.read()
    heard.say(5000)
    os.write(heard.writing, b"the last word\n")
    heard.listener.read()
    assert heard.records.lost == 5001
    assert heard.records.tail.lines()[-1] == "the last word"


def test_records_are_refused_when_the_lines_used_up_the_budget(heard: _Heard) -> None:
    """Lines and records come out of one budget."""
    assert heard.listener.hears()
    heard.listener.spend(2 * _LINES, 0)
    assert not heard.listener.hears()
