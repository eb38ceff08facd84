"""The report of ``faulthandler`` among a worker's lines."""

from __future__ import annotations

from blackhole_core.executor.crashreport import CrashReport

WRITTEN = """\
about to crash
Fatal Python error: Segmentation fault

Current thread 0x00007f (most recent call first):
  File "x.py", line 3 in segfault

Extension modules: msgspec._core (total: 1)
and on"""


def _read(text: str) -> tuple[str, ...]:
    report = CrashReport()
    for line in text.split("\n"):
        report.add(line)
    return report.lines()


def test_the_report_is_cut_out() -> None:
    """F-03: from its first line to the list of modules."""
    assert _read(WRITTEN) == (
        "Fatal Python error: Segmentation fault",
        "Current thread 0x00007f (most recent call first):",
        '  File "x.py", line 3 in segfault',
    )


def test_without_a_crash_there_is_none() -> None:
    """Ordinary output."""
    assert _read("one\ntwo") == ()


def test_the_last_report_counts() -> None:
    """What a plugin printed as a joke is not what it died of."""
    assert _read(f"Fatal Python error: a joke\nha\n{WRITTEN}") == _read(WRITTEN)


def test_its_size_is_bounded() -> None:
    """A worker's lines are a stranger's."""
    lines = _read("Fatal Python error: x\n" + "y" * 5000 + "\n" + "z\n" * 5000)
    assert len(lines) == 200
    assert max(map(len, lines)) == 400
