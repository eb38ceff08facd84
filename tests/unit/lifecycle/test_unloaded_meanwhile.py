"""What is asked of a plugin while another thread unloads it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from blackhole_core.ids import PluginId
from blackhole_core.lifecycle.handle import Plugin
from blackhole_core.lifecycle.member import Member
from blackhole_core.lifecycle.settings import Settings


def _handle(member: Member) -> Plugin:
    return Plugin(member, *[lambda _: None] * 3)  # type: ignore[arg-type]  # what is not asked here


@pytest.mark.parametrize(
    ("asked", "ask"),
    [
        (Member.label.fget, lambda member: member.label),  # type: ignore[attr-defined]  # a property
        (Plugin.id.fget, lambda member: _handle(member).id),  # type: ignore[attr-defined]
        (Plugin.limits.fget, lambda member: _handle(member).limits),  # type: ignore[attr-defined]
    ],
)
@pytest.mark.parametrize("line", range(1, 5))
def test_an_unload_between_any_two_lines_is_no_error(asked: Any, ask: Callable[[Member], object], line: int) -> None:
    """The answer is that of before or of after."""
    member = Member("upper", Settings())
    confinement = SimpleNamespace(resources="those")
    member.instance = SimpleNamespace(id=PluginId("upper", "1.0.0"), spec=SimpleNamespace(confinement=confinement))  # type: ignore[assignment]  # all that is asked
    left = line

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code is not asked.__code__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                member.instance = None
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert ask(member) is not None
    finally:
        sys.settrace(before)
