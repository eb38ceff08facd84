"""Data classes of plugins are made from kept code: the same classes, and nothing is compiled twice."""

from __future__ import annotations

import builtins
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.loader.shimdataclasses import _compiled
from blackhole_core.loader.universe import Universe

MakeUniverse = Callable[..., Universe]
WriteTree = Callable[[Path, dict[str, str]], Path]

PACKAGE = {
    "acme/__init__.py": """
        import dataclasses
        calls = []
        def fresh():
            calls.append(1)
            return [{v}]
        @dataclasses.dataclass(order=True)
        class Point:
            x: int
            y: int = {v}
            more: list = dataclasses.field(default_factory=fresh, compare=False)
        @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
        class Frozen:
            a: int = 1
        @dataclasses.dataclass
        class Other:
            x: int
            y: int = 0
            more: list = dataclasses.field(default_factory=list, compare=False)
    """,
}


@pytest.fixture
def two(tmp_path: Path, write_tree: WriteTree, make_universe: MakeUniverse) -> tuple[Any, Any]:
    """The package in two generations that differ in a default."""
    found = []
    for v in (1, 2):
        write_tree(tmp_path / str(v), {name: text.format(v=v) for name, text in PACKAGE.items()})
        found.append(make_universe(["acme"], tmp_path / str(v)).load("acme"))
    return found[0], found[1]


def test_each_class_has_its_own_defaults_and_globals(two: tuple[Any, Any]) -> None:
    """Classes whose generated text is the same, in one generation and in two, do not share what the text refers to."""
    first, second = two
    assert (first.Point(5).y, second.Point(5).y, first.Other(5).y) == (1, 2, 0)
    assert (first.Point(5).more, second.Point(5).more, first.Other(5).more) == ([1], [2], [])
    assert (len(first.calls), len(second.calls)) == (2, 2)
    assert repr(second.Point(1, 2)) == "Point(x=1, y=2, more=[2])"
    assert first.Point(1, 2) < first.Point(1, 3)
    assert first.Point(1, 2) == first.Point(1, 2)
    assert first.Point(1) != first.Other(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.Frozen(a=2).a = 3
    assert hash(first.Frozen(a=2)) == hash(first.Frozen(a=2))
    assert first.Point.__init__.__qualname__ == "Point.__init__"
    assert first.Point.__init__.__module__ == first.__name__


def test_code_objects_are_not_shared(two: tuple[Any, Any]) -> None:
    """CPython specialises code for the classes it meets, so each class has its own."""
    first, second = two
    codes = [cls.__init__.__code__ for cls in (first.Point, second.Point, first.Other)]
    assert len({id(code) for code in codes}) == 3
    assert {code.co_filename for code in codes} == {"<string>"}


def test_nothing_is_compiled_again(two: tuple[Any, Any]) -> None:
    """The methods of a class like one that was made before are not compiled, in the host's own code too."""
    compiled = _compiled.cache_info()

    @dataclasses.dataclass(order=True)
    class Point:
        x: int
        y: int = 7
        more: list[int] = dataclasses.field(default_factory=list, compare=False)

    assert Point(1) == Point(1, 7)
    assert Point(1).more == []
    assert _compiled.cache_info().misses == compiled.misses
    assert _compiled.cache_info().hits > compiled.hits


def test_the_module_is_left_as_it_is_otherwise(two: tuple[Any, Any]) -> None:
    """What is replaced is a name that the module looked up among the built-in functions."""
    assert sys.modules["dataclasses"] is dataclasses
    assert builtins.exec is not vars(dataclasses)["exec"]
