"""What a swap says of itself."""

from __future__ import annotations

import json

from blackhole_core.lifecycle.report import PHASES, SwapReport

REPORT = SwapReport("counter", "1.0.0", "2.0.0", 2, gate_seconds=0.0042, state_bytes=37, phases=dict.fromkeys(PHASES, 0.001))


def test_a_report_can_go_into_json() -> None:
    """Every field is there as plain data."""
    data = json.loads(json.dumps(REPORT.as_dict()))
    assert data["from_version"] == "1.0.0"
    assert list(data["phases"]) == list(PHASES)
    assert data["state_lost"] is None


def test_a_report_reads_as_one_line() -> None:
    """What the log and the command line show."""
    assert str(REPORT) == "counter 1.0.0 → 2.0.0, gate shut 4.2 ms, 37 bytes of state"
    assert str(SwapReport("upper", "1.0.0", "2.0.0", 2)).endswith("stateless")


def test_a_swap_with_nothing_to_do_says_so() -> None:
    """S-14: no versions are named as if something had happened."""
    assert str(SwapReport("upper", "1.0.0", "1.0.0", 1, unchanged=True)) == (
        "upper 1.0.0: nothing to do, this version and code serve already"
    )
