"""Events reach those who listen; where nobody does, trouble is in the log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from blackhole_core import events
from blackhole_core.events import Event, EventBus

_REFERENCE = Path(__file__).parents[2] / "docs/reference/events.md"


def test_trouble_that_nobody_hears_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A warning with all its facts; what is no trouble is not logged."""
    bus = EventBus(lambda: 0.0)
    bus.emit("swap.done", "upper")
    bus.emit("reload.failed", "upper", error="upper.py:3: wanted valid Python")
    [record] = caplog.records
    assert (record.name, record.levelname) == ("blackhole.events", "WARNING")
    assert record.getMessage() == "reload.failed upper error=upper.py:3: wanted valid Python"


def test_what_a_plugin_wrote_is_made_fit_for_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """A name that is no text, colours and lines of its own: no handler fails at it, and none is taken for another record."""
    EventBus(lambda: 0.0).emit("plugin.noticed", "upper", operation="open of a\udcff\x1b[31m\nworker.died other")
    assert caplog.messages == [r"plugin.noticed upper operation=open of a\udcff\x1b[31m" + "\n  worker.died other"]


def test_who_listens_has_it_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Until the listener is taken away again."""
    heard: list[Event] = []
    bus = EventBus(lambda: 5.0)
    unsubscribe = bus.subscribe(heard.append)
    died = bus.emit("worker.died", "upper", exit=-9)
    assert heard == [died]
    assert caplog.records == []
    unsubscribe()
    bus.emit("worker.died", "upper", exit=-9)
    assert heard == [died]
    assert len(caplog.records) == 1


def test_trouble_is_what_the_reference_knows() -> None:
    """No name there is misspelt."""
    known = set(re.findall(r"^\| `([a-z_.]+)`", _REFERENCE.read_text("utf-8"), re.MULTILINE))
    assert known >= events._TROUBLE
