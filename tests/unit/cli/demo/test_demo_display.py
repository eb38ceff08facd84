"""What the demo shows while it works."""

from __future__ import annotations

import pytest

from blackhole_core.cli.demo.display import PlainDisplay, RichDisplay, SilentDisplay
from blackhole_core.cli.demo.ledger import Ledger
from blackhole_core.cli.demo.plainloop import Totals


def drive(display: PlainDisplay | RichDisplay | SilentDisplay) -> None:
    """Go through a demo of ten files."""
    display.begin(["plain loop", "none"], 10)
    for done in range(1, 11):
        display.advance("plain loop", done)
    display.begin(["plain loop", "none"], 10)
    ledger = Ledger(10)
    with display.watching("none", ledger, []):
        for number in range(10):
            ledger.answered(number, Totals(1))
        display.happened("none", "swapped 1.0.0 → 2.0.0")
    display.end()


def test_plain_lines_come_at_each_fifth(capsys: pytest.CaptureFixture[str]) -> None:
    """A log file gets a few lines and not a thousand; the last one says that all is done."""
    drive(PlainDisplay())
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("plain loop")] == [f"plain loop {done} of 10 files" for done in (2, 4, 6, 8, 10)]
    assert lines[-1] == "none       10 of 10 files"
    assert "none       swapped 1.0.0 → 2.0.0" in lines


def test_bars_end_full(capsys: pytest.CaptureFixture[str]) -> None:
    """Every part and the whole reach 100 %."""
    drive(RichDisplay())
    out = capsys.readouterr().out
    assert out.count("100 %") == 3
    assert "0 swaps, longest gate 0 ms, 0 failed" in out


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json nothing but the document is printed."""
    drive(SilentDisplay())
    assert capsys.readouterr().out == ""
