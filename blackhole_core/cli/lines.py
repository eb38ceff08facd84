"""One record of a host as one line for people."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

from blackhole_core.cli.output import clean

__all__ = ["record_line"]

#: Facts of an event that are left out of its line: long, or said by others. ``--json`` has them all.
_LEFT_OUT: Final = frozenset({"phases", "tail", "traceback", "stack", "report", "ok", "plugin"})


def record_line(record: Mapping[str, Any]) -> str:
    """Return ``12:46:35.120 counter  swap.done to_version=2.0.0 …``; of a log record its level, logger and text."""
    at = datetime.datetime.fromtimestamp(record["time"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    who = record["plugin"] or "-"
    what = _event(record) if record["kind"] == "event" else _log(record)
    return clean(f"{at} {who:<12} {what}").replace("\n", "\n    ")


def _event(record: Mapping[str, Any]) -> str:
    facts = (f"{key}={_shown(value)}" for key, value in record["data"].items() if key not in _LEFT_OUT and value is not None)
    return " ".join((record["name"], *facts))


def _log(record: Mapping[str, Any]) -> str:
    logger = "" if record["logger"].startswith("blackhole.plugin.") else f"{record['logger']}: "
    return f"{record['level']}: {logger}{record['text']}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
