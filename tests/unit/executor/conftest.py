"""The context of a plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from blackhole_core.executor.context import leases_of
from blackhole_core.ids import PluginId
from tests.unit.executor.contexts import SHORT, Running


@pytest.fixture
def make_context() -> Iterator[Callable[..., Running]]:
    """Return a function that makes the context of ``acme@1.0``; all are ended after the test."""
    made: list[Running] = []

    def make(name: str = "acme", generation: int = 1) -> Running:
        made.append(Running(name, "1.0", generation, {}, None, leases_of(PluginId(name, "1.0"), generation)))
        return made[-1]

    yield make
    for context in made:
        context.end(SHORT)


@pytest.fixture
def context(make_context: Callable[..., Running]) -> Running:
    return make_context()
