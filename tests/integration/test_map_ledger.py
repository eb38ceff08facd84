"""S-01 for many calls at once: swaps under ``map``, with a ledger of every call."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.managed import LEVELS, Callers, manager, wheel

_CALLERS = 4
_SWAPS = 6
_ITEMS = [{"amount": 1}] * 40


@pytest.mark.parametrize("level", LEVELS)
def test_no_call_of_a_map_is_lost_or_doubled(level: str, tmp_path: Path) -> None:
    """S-01: stateful swaps there and back while callers map: each call counted once and was told the count, each window was answered by one version."""
    wheels = {version: wheel("counter", version, tmp_path) for version in ("1.0.0", "2.0.0")}
    with manager() as pm:
        pm.load("counter", source=wheels["1.0.0"], isolation=level)

        def call() -> list[list[int]]:
            answers: list[list[int]] = pm.hook.add.map(_ITEMS, window=16)
            return answers

        with Callers(_CALLERS, call) as callers:
            for version in ("2.0.0", "1.0.0") * (_SWAPS // 2):
                assert pm.swap("counter", source=wheels[version]).ok
        assert callers.failures == []
        counts = [count for answers in callers.answers for [count] in answers]
        assert sorted(counts) == list(range(1, len(counts) + 1))
        assert pm.hook.total() == [len(counts)]


def test_no_awaited_call_is_lost_or_doubled(tmp_path: Path) -> None:
    """S-01: the same from an event loop."""
    wheels = {version: wheel("counter", version, tmp_path) for version in ("1.0.0", "2.0.0")}
    with manager() as pm:
        pm.load("counter", source=wheels["1.0.0"], isolation="thread")

        async def host() -> list[int]:
            counts: list[int] = []
            swaps = asyncio.create_task(
                asyncio.to_thread(lambda: [pm.swap("counter", source=wheels[version]) for version in ("2.0.0", "1.0.0")])
            )
            while not swaps.done():
                for answers in await asyncio.gather(*(pm.ahook.add.map(_ITEMS, window=16) for _ in range(_CALLERS))):
                    counts += [count for [count] in answers]
            await swaps
            return counts

        counts = asyncio.run(host())
        assert sorted(counts) == list(range(1, len(counts) + 1))
