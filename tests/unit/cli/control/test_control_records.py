"""Recent records are kept, bounded, and handed out without ever waiting for a reader."""

from __future__ import annotations

import logging
import select
from collections.abc import Iterator

import pytest

from blackhole_core.cli.control.records import MAX_TEXT, RecordHandler, Records
from blackhole_core.events import Event


def names(records: list[dict[str, object]]) -> list[object]:
    return [record["name"] for record in records]


def event(name: str, plugin: str = "") -> Event:
    return Event(name, plugin, 1.0, {})


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("blackhole.plugin.recorded")
    logger.propagate = False
    yield logger
    logger.handlers.clear()
    logger.propagate = True


def test_the_oldest_records_make_room() -> None:
    """The ring keeps the newest and numbers them on."""
    records = Records(kept=2)
    for name in "abc":
        records.add_event(event(name))
    assert names(records.recent(10)) == ["b", "c"]
    assert [record["number"] for record in records.recent(10)] == [2, 3]
    assert names(records.recent(1)) == ["c"]
    assert records.recent(0) == []


def test_records_of_one_plugin_are_picked_out() -> None:
    """A plugin is found in any spelling of its name; the host's own records are no plugin's."""
    records = Records()
    for plugin in ("", "My_Plugin", "other"):
        records.add_event(event(plugin or "host", plugin))
    assert names(records.recent(10, "my-plugin")) == ["My_Plugin"]


def test_an_event_is_kept_as_plain_data() -> None:
    """What an event carries is made plain, and cut, when it happens: what is kept does not change or grow."""
    records = Records()
    data = {"error": ValueError("x"), "long": "y" * (MAX_TEXT + 1), "list": [1]}
    records.add_event(Event("e", "p", 5.0, data))
    data["list"].append(2)  # type: ignore[attr-defined]  # the module, or object, is the test's own
    [record] = records.recent(1)
    assert record["time"] == 5.0
    assert record["data"]["error"] == "ValueError('x')"
    assert record["data"]["long"].endswith(f"({MAX_TEXT + 1} characters)")
    assert record["data"]["list"] == [1]


def test_a_log_record_says_whose_it_is(logger: logging.Logger) -> None:
    """What a plugin writes is kept under its name, with level and text."""
    records = Records()
    logger.addHandler(RecordHandler(records))
    logger.warning("line %d\x1b[2J", 1)
    [record] = records.recent(1)
    assert {key: record[key] for key in ("kind", "plugin", "level", "logger", "text")} == {
        "kind": "log",
        "plugin": "recorded",
        "level": "warning",
        "logger": "blackhole.plugin.recorded",
        "text": "line 1\x1b[2J",
    }


def test_a_subscription_begins_with_the_past_and_misses_nothing() -> None:
    """Past and coming records arrive in order, once each, and the descriptor says when there are some."""
    records = Records()
    records.add_event(event("a"))
    records.add_event(event("b"))
    with records.subscribe(past=1) as subscription:
        records.add_event(event("c"))
        assert select.select([subscription], [], [], 0)[0]
        taken, missed = subscription.take()
        assert (names(taken), missed) == (["b", "c"], 0)
        assert not select.select([subscription], [], [], 0)[0]


def test_a_slow_reader_costs_a_bounded_number_of_records() -> None:
    """A full subscription drops what comes and counts it; the host is not held up, other readers get all."""
    records = Records(waiting=2)
    with records.subscribe() as slow, records.subscribe() as quick:
        read = []
        for number in range(5):
            records.add_event(event(str(number)))
            read += names(quick.take()[0])
        taken, missed = slow.take()
        assert (names(taken), missed) == (["0", "1"], 3)
        records.add_event(event("5"))
        taken, missed = slow.take()
        assert (names(taken), missed) == (["5"], 0)
    assert read == ["0", "1", "2", "3", "4"]


def test_a_closed_subscription_takes_no_more() -> None:
    """Closing twice is once, and the host goes on."""
    records = Records()
    subscription = records.subscribe()
    subscription.close()
    subscription.close()
    records.add_event(event("a"))
    subscription.end()
    assert names(records.recent(1)) == ["a"]


def test_the_end_wakes_the_reader() -> None:
    """A reader that waits for records is woken when no more will come."""
    records = Records()
    with records.subscribe() as subscription:
        subscription.end()
        assert select.select([subscription], [], [], 0)[0]
        assert subscription.ended


def test_the_end_wakes_a_reader_that_takes_what_is_left_meanwhile() -> None:
    """A reader that saw no end, and takes what waits when it has come, is woken once more and sees it."""
    with Records().subscribe() as subscription:
        ended = subscription.ended
        subscription.end()
        subscription.take()
        assert (ended, subscription.ended) == (False, True)
        assert select.select([subscription], [], [], 0)[0] == [subscription]
