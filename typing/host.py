"""What a host developer writes has types: checked by mypy, never run."""

from __future__ import annotations

from typing import assert_type

import pluggy

import blackhole_core as bh


class NotesSpecs:
    """Stands for the host's own hook specs."""


def embeds_a_host() -> None:
    with bh.PluginManager("notes") as pm:
        # A pluggy manager, so whatever takes one takes ours.
        drop_in: pluggy.PluginManager = pm
        drop_in.add_hookspecs(NotesSpecs)
        pm.load("upper", source="dist/upper-1.0.0-py3-none-any.whl", isolation="process")
        report = pm.swap("upper", "2.0.0")
        assert_type(report, bh.SwapReport)
        assert_type(report.ok, bool)
        assert_type(report.gate_seconds, float)
        pm.rollback("upper")
        upper = pm.plugin("upper")
        assert_type(upper, bh.Plugin)
        assert_type(upper.isolation, bh.Isolation | None)
        assert_type(upper.phase, bh.Phase)


def listens(pm: bh.PluginManager) -> None:
    def listener(event: bh.Event) -> None:
        assert_type(event.name, str)

    pm.on_event(listener)


async def calls_without_blocking(pm: bh.PluginManager) -> None:
    await pm.ahook.transform(text="hi")
