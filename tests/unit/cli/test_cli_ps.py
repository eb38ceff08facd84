"""The table of ``blackhole ps``: what is used, what is allowed, and what nobody sees to."""

from __future__ import annotations

from typing import Any

from blackhole_core.cli.commands.ps import _head, _rows

NOTHING: dict[str, Any] = dict.fromkeys(("memory", "cpu", "cpu_percent", "threads", "pids", "disk"))
UNLIMITED: dict[str, Any] = dict.fromkeys(("cpu", "memory", "disk", "network", "pids"))


def plugin(**said: Any) -> dict[str, Any]:
    facts = {
        "name": "p",
        "version": "1",
        "phase": "running",
        "isolation": "process",
        "generation": 1,
        "restarts": 0,
        "pid": 7,
        "source": "/p",
    }
    return {**facts, "usage": NOTHING, "limits": UNLIMITED, "enforcement": {}, "calls": None, "spare": None, **said}


def cells(plugins: list[dict[str, Any]]) -> list[dict[str, object]]:
    return [dict(zip(_head(plugins), row, strict=True)) for row in _rows(plugins)]


def test_what_is_not_known_stays_empty() -> None:
    [row] = cells([plugin()])
    assert [row[column] for column in ("CPU", "MEMORY", "PIDS", "LIMITS")] == [None] * 4


def test_usage_is_shown_in_the_units_of_limits() -> None:
    [row] = cells([plugin(usage={**NOTHING, "cpu_percent": 12.4, "memory": 20 * 2**20, "pids": 3})])
    assert (row["CPU"], row["MEMORY"], row["PIDS"]) == ("12 %", "20.0 MB", 3)


def test_a_limit_that_nobody_sees_to_says_so() -> None:
    """It must not look like the others."""
    enforcement = {"resources.cpu": "kernel", "resources.memory": "broker", "resources.pids": "none"}
    [row] = cells([plugin(limits={**UNLIMITED, "cpu": 50, "memory": 200.5, "pids": 5}, enforcement=enforcement)])
    assert row["LIMITS"] == "cpu 50 %, memory 200.5 MB, pids 5 (not enforced)"


def test_a_worker_that_stands_by_has_a_line_of_its_own() -> None:
    """Its memory is its own; it says that it does not serve, and where it is absent, that it is not there."""
    ready = {"phase": "ready", "pid": 8, "usage": {**NOTHING, "memory": 2**20}, "reason": ""}
    absent = {"phase": "absent", "pid": None, "usage": NOTHING, "reason": "it was killed"}
    _, first, _, second = cells([plugin(spare=ready, calls={"count": 0, "errors": 0, "p50": None, "p99": None}), plugin(spare=absent)])
    assert [first[column] for column in ("NAME", "PHASE", "PID", "MEMORY")] == ["p", "spare: ready", 8, "1.0 MB"]
    assert [second[column] for column in ("NAME", "PHASE", "PID", "MEMORY")] == ["p", "spare: absent", None, None]


def test_calls_have_columns_where_one_plugin_has_counted_them() -> None:
    calls = {"count": 3, "errors": 1, "p50": 0.0015, "p99": None}
    first, second = cells([plugin(), plugin(calls=calls)])
    assert [first[column] for column in ("CALLS", "ERRORS", "P50", "P99")] == [None] * 4
    assert [second[column] for column in ("CALLS", "ERRORS", "P50", "P99")] == [3, 1, "1.5 ms", None]


def test_every_column_is_filled_when_everything_is_known() -> None:
    usage = {**NOTHING, "cpu_percent": 1.0, "memory": 2**20, "pids": 1}
    calls = {"count": 3, "errors": 1, "p50": 0.0015, "p99": 0.002}
    [row] = cells([plugin(usage=usage, limits={**UNLIMITED, "cpu": 50}, calls=calls)])
    assert [column for column, cell in row.items() if cell is None] == []
    assert (row["LEVEL"], row["GEN"], row["SOURCE"]) == ("process", 1, "/p")
