"""What a host in the foreground prints, for people and for programs."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from blackhole_core.cli.control.records import Records
from blackhole_core.cli.lines import record_line, reload_line
from blackhole_core.cli.presenting import JsonLines, Lines, Reloads, presenting
from blackhole_core.events import Event

REPORT = {"from_version": "1.0.0", "to_version": "2.0.0", "generation": 2, "gate_seconds": 0.0123, "state_bytes": 17}


def event(name: str, plugin: str = "counter", **data: Any) -> dict[str, Any]:
    return {"number": 1, "time": 0.0, "kind": "event", "plugin": plugin, "name": name, "data": data}


def failure(text: str) -> dict[str, Any]:
    return event("reload.failed", files=["a.py"], error="x", traceback=f"Traceback (most recent call last):\n{text}\n")


def without_time(line: str) -> str:
    return line.partition(" ")[2]


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (event("swap.phase", phase="export", from_version=None), "counter      swap.phase phase=export"),
        (event("host.ready", "", loaded=["a", "b"], failed={}), "-            host.ready loaded=a, b"),
        (event("reload.done", seconds=0.123456, files=[]), "counter      reload.done seconds=0.1235"),
        (
            event("swap.done", report=REPORT),
            "counter      swap.done 1.0.0 → 2.0.0, generation 2, calls waited 12.3 ms, 17 bytes of state carried",
        ),
        (
            {**event(""), "kind": "log", "level": "info", "logger": "blackhole.plugin.counter", "text": "hi\x1b[2J"},
            "counter      info: hi\\x1b[2J",
        ),
        (
            {**event("", ""), "kind": "log", "level": "warning", "logger": "blackhole.control", "text": "two\nlines"},
            "-            warning: blackhole.control: two\n    lines",
        ),
    ],
)
def test_a_record_is_one_line(record: Mapping[str, Any], line: str) -> None:
    """When, which plugin, what, and the facts that fit; control characters of plugins do not reach the terminal."""
    assert without_time(record_line(record)) == line


class Shown:
    """A presenter that remembers."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.closed = False

    def show(self, record: Mapping[str, Any]) -> None:
        self.names.append(record["name"])

    def missed(self, number: int) -> None:
        self.names.append(f"missed {number}")

    def close(self) -> None:
        self.closed = True


def test_every_record_is_shown_before_the_end() -> None:
    """What was recorded inside the block is shown when the block has ended, in order."""
    records, shown = Records(), Shown()
    with presenting(records, shown):
        for number in range(100):
            records.add_event(Event(str(number), "", 1.0))
    assert shown.names == [str(number) for number in range(100)]
    assert shown.closed


def test_what_cannot_be_shown_in_time_is_counted() -> None:
    """A presenter that is held up costs records, which it is told of, and the host nothing."""
    records, shown = Records(waiting=2), Shown()
    with records.subscribe() as subscription:
        for number in range(5):
            records.add_event(Event(str(number), "", 1.0))
        subscription.end()
        from blackhole_core.cli.presenting import _show_all

        _show_all(subscription, shown)
    assert shown.names == ["0", "1", "missed 3"]


def test_a_reader_that_is_gone_ends_the_output_only() -> None:
    """A broken pipe at the output is no error of the host."""

    class Gone(Shown):
        def show(self, record: Mapping[str, Any]) -> None:
            raise BrokenPipeError

    records, gone = Records(), Gone()
    with presenting(records, gone):
        records.add_event(Event("a", "", 1.0))
        records.add_event(Event("b", "", 1.0))
    assert gone.closed


def test_json_lines_are_one_document_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Each record is one line that a program can read, control characters and all."""
    lines = JsonLines()
    lines.show(event("a\nb"))
    lines.missed(3)
    lines.close()
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first)["name"] == "a\nb"
    assert json.loads(second) == {"kind": "missed", "records": 3}


def test_lines_tell_of_what_was_missed(capsys: pytest.CaptureFixture[str]) -> None:
    """The reader of lines is told, too."""
    lines = Lines()
    lines.show(event("a"))
    lines.missed(3)
    lines.close()
    first, second = capsys.readouterr().out.splitlines()
    assert without_time(first) == "counter      a"
    assert "3 records were dropped" in second


def reloads(*, terminal: bool) -> tuple[Reloads, io.StringIO]:
    out = io.StringIO()
    return Reloads(Console(file=out, force_terminal=terminal, width=200, color_system=None, _environ={"TERM": "xterm"})), out


def test_a_reload_is_one_line() -> None:
    """What changed, versions, generation, times, state."""
    shown, out = reloads(terminal=False)
    shown.show(event("reload.done", files=["a.py", "b.py"], seconds=0.0151, report=REPORT))
    shown.show(event("reload.done", files=["a.py"], seconds=1, report={**REPORT, "from_version": "2.0.0", "state_bytes": None}))
    assert out.getvalue().splitlines() == [
        "counter: a.py, b.py changed → 1.0.0 → 2.0.0, generation 2, calls waited 12.3 ms, 17 bytes of state carried, 15 ms in all",
        "counter: a.py changed → 2.0.0, generation 2, calls waited 12.3 ms, no state to carry, 1000 ms in all",
    ]


def test_details_of_a_swap_are_left_out() -> None:
    """Who develops sees reloads and what the plugin prints, not each phase."""
    shown, out = reloads(terminal=False)
    for name in ("swap.phase", "plugin.phase", "swap.done"):
        shown.show(event(name))
    shown.show({**event(""), "kind": "log", "level": "info", "logger": "blackhole.plugin.counter", "text": "[bold]print[/bold]"})
    assert without_time(out.getvalue()) == "counter      info: [bold]print[/bold]\n"


def test_without_a_terminal_a_failure_is_framed_once() -> None:
    """The traceback stands in a frame, and what it says of markup or colours is shown as it is."""
    shown, out = reloads(terminal=False)
    shown.show(failure("RuntimeError: [red]half\x1b[31m done"))
    shown.show(event("reload.done", files=["a.py"], seconds=0, report=REPORT))
    text = out.getvalue()
    assert text.count("counter does not work") == 1
    assert "RuntimeError: [red]half\\x1b[31m done" in text
    assert "\x1b" not in text


def test_on_a_terminal_the_next_good_save_takes_the_failure_away() -> None:
    """The frame stands below the lines while the failure stands; then the screen has the lines only."""
    shown, out = reloads(terminal=True)
    shown.show(failure("RuntimeError: one"))
    shown.show(event("worker.died", reason="x"))
    shown.show(failure("RuntimeError: two"))
    assert "RuntimeError: two" in _screen(out.getvalue())
    assert "RuntimeError: one" not in _screen(out.getvalue())
    shown.show(event("reload.done", files=["a.py"], seconds=0, report=REPORT))
    screen = _screen(out.getvalue())
    assert "does not work" not in screen.replace("a.py changed, and does not work", "")
    assert "RuntimeError" not in screen
    assert "1.0.0 → 2.0.0" in screen
    shown.close()


def _screen(written: str) -> str:
    """Return what a terminal would show: cursor up, carriage return and erase line are obeyed."""
    lines, row, column = [""], 0, 0
    position = 0
    while position < len(written):
        char = written[position]
        if char == "\x1b":
            end = next(index for index in range(position + 2, len(written)) if written[index].isalpha())
            number, kind = written[position + 2 : end], written[end]
            if kind == "A":
                row -= int(number or 1)
            elif kind == "K":
                lines[row] = "" if number == "2" else lines[row][:column]
            position = end + 1
            continue
        if char == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif char == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + char + lines[row][column + 1 :]
            column += 1
        position += 1
    return os.linesep.join(line.rstrip() for line in lines)


def test_a_reload_names_who_went_along_and_what_is_not_as_it_should_be() -> None:
    """The line of a reload tells of dependants, of calls on the old code and of what that left behind."""
    other = {**REPORT, "plugin": "user", "retiring": True}
    report = {**REPORT, "also": [other], "leaks": ["a thread still runs acme.work"], "retiring": False}
    line = reload_line("counter", {"files": ["a.py"], "seconds": 0.02, "report": report})
    assert line.endswith(
        "20 ms in all, with user, warning: a thread still runs acme.work, warning: calls are still running on the old user"
    )


@pytest.mark.parametrize("bell", [False, True])
def test_the_bell_rings_only_when_it_was_asked_for(bell: bool) -> None:
    """A save that does not work is silent, unless ``--bell`` was given."""
    out = io.StringIO()
    shown = Reloads(Console(file=out, force_terminal=True, width=80, color_system=None, _environ={"TERM": "xterm"}), bell=bell)
    shown.show(failure("SyntaxError: bad"))
    shown.close()
    assert ("\a" in out.getvalue()) is bell
