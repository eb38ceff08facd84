"""Records of a host as lines for people."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any, Final

from blackhole_core.cli.output import clean

__all__ = ["record_line", "reload_line"]

#: Facts of an event that are left out of its line: long, or said by others. ``--json`` has them all.
_LEFT_OUT: Final = frozenset({"tail", "traceback", "stack", "report"})


def record_line(record: Mapping[str, Any]) -> str:
    """Return ``12:46:35.120 counter  swap.phase phase=export``; of a log record its level, logger and text."""
    at = datetime.datetime.fromtimestamp(record["time"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    who = record["plugin"] or "-"
    what = _event(record) if record["kind"] == "event" else _log(record)
    return clean(f"{at} {who:<12} {what}").replace("\n", "\n    ")


def _event(record: Mapping[str, Any]) -> str:
    data = record["data"]
    facts = [f"{key}={_shown(value)}" for key, value in data.items() if key not in _LEFT_OUT and value not in (None, [], {})]
    if isinstance(data.get("report"), Mapping):
        facts.append(_swap(data["report"]))
    return " ".join((record["name"], *facts))


def _log(record: Mapping[str, Any]) -> str:
    logger = "" if record["logger"].startswith("blackhole.plugin.") else f"{record['logger']}: "
    return f"{record['level']}: {logger}{record['text']}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def reload_line(plugin: str, data: Mapping[str, Any]) -> str:
    """Return one line for the event ``reload.done``: what changed, and what the swap did."""
    report = data["report"]
    parts = [_swap(report), f"{data['seconds'] * 1000:.0f} ms in all", *_with_it(report), *_warnings(report)]
    return clean(f"{plugin}: {', '.join(data['files'])} changed → {', '.join(parts)}")


def _with_it(report: Mapping[str, Any]) -> Iterator[str]:
    names = [other["plugin"] for other in report.get("also", ())]
    if names:
        yield f"with {' and '.join(names)}"


def _warnings(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not as it should be, of the plugin and of those that were reloaded with it."""
    for one in (report, *report.get("also", ())):
        if one.get("retiring"):
            yield f"warning: calls are still running on the old {one['plugin']}"
        yield from (f"warning: {leak}" for leak in one.get("leaks") or ())


def _swap(report: Mapping[str, Any]) -> str:
    before, after = (report[key] or "no version" for key in ("from_version", "to_version"))
    versions = after if before == after else f"{before} → {after}"
    state = "no state to carry" if report["state_bytes"] is None else f"{report['state_bytes']} bytes of state carried"
    return f"{versions}, generation {report['generation']}, calls waited {report['gate_seconds'] * 1000:.1f} ms, {state}"
