"""Which annotations can cross, which leave something open, and how a type is told to a worker."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import sys
import threading
import typing
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal, Optional

import pytest

from blackhole_core.executor.wire.types import annotations_of, contains_any, expression_of, type_of_expression, uncrossable

T = typing.TypeVar("T")


@dataclasses.dataclass
class Point:
    x: int
    y: list[Point]


class Opaque:
    def __init__(self, thing: object) -> None:
        self.thing = thing


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        str | None,
        Optional[int],  # noqa: UP045 - the older spelling is what is tested
        list[int],
        dict[str, tuple[int, ...]],
        tuple[str, bytes],
        datetime.datetime,
        decimal.Decimal,
        uuid.UUID,
        frozenset[str],
        Literal["a", 1],
        collections.abc.Sequence[int],
        typing.List[int],  # noqa: UP006 - the older spelling is what is tested
        type(None),
        list[dict[str, list[datetime.date | None]]],
    ],
)
def test_expressions_come_back(annotation: Any) -> None:
    """A type made of builtins and the standard library is told as text that means the same type."""
    text = expression_of(annotation)
    assert text is not None
    assert type_of_expression(text) == annotation
    assert not contains_any(annotation)
    assert uncrossable(annotation) is None


@pytest.mark.parametrize("annotation", [Point, list[Point], Point | None, Opaque, dict[str, Opaque], typing.NewType("Id", int)])
def test_classes_that_only_a_plugin_can_import_have_no_expression(annotation: Any) -> None:
    """The class of the host's API module must be named by the plugin's own annotation."""
    assert expression_of(annotation) is None


@pytest.mark.parametrize(
    "annotation",
    [Any, object, list, dict, tuple, set, typing.List, typing.Dict, list[Any], dict[str, object], T, list[T], Optional[Any]],  # noqa: UP006, UP045 - the older spelling is what is tested
)
def test_what_leaves_something_open(annotation: Any) -> None:
    """Any, object, containers of anything and type variables travel as plain data."""
    assert contains_any(annotation)


@pytest.mark.parametrize(
    ("annotation", "culprit"),
    [
        (Callable[[], None], "Callable"),
        (Iterator[int], "Iterator"),
        (Opaque, "Opaque"),
        (list[Opaque], "Opaque"),
        (dict[str, Opaque | None], "Opaque"),
        (threading.Lock, "lock"),
    ],
)
def test_what_no_message_can_carry_is_named(annotation: Any, culprit: str) -> None:
    """A live object is found by the annotation, and named."""
    found = uncrossable(annotation)
    assert found is not None
    assert culprit in found


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a type statement is a syntax error before Python 3.12")
def test_the_alias_of_a_type_statement_is_what_it_stands_for() -> None:
    """Also with parameters; one that is built from itself, as JSON is, leaves its values open."""
    names: dict[str, Any] = {}
    exec("type Row[T] = list[T]\ntype Json = None | str | list[Json] | dict[str, Json]\ntype Name = str", names)
    row, json, name = names["Row"], names["Json"], names["Name"]
    assert [contains_any(kind) for kind in (row[int], row[list], list[row[Any]], json, row[json], name)] == [
        False,
        True,
        True,
        True,
        True,
        False,
    ]
    assert uncrossable(row[name]) is None


def test_a_type_that_refers_to_itself_is_looked_at_once() -> None:
    """Recursive dataclasses can cross."""
    assert uncrossable(Point) is None


def test_expressions_reach_nothing() -> None:
    """The names of an expression are types and modules of types; there is no builtin to call."""
    with pytest.raises(NameError):
        type_of_expression("open('x')")
    with pytest.raises(NameError):
        type_of_expression("__import__('os')")


def test_annotations_that_cannot_be_resolved_are_left_out() -> None:
    """A forward reference for type checkers only makes the function untyped, not unusable."""

    def function(a: Missing) -> int:  # type: ignore[name-defined]  # noqa: F821 - a name that is nowhere
        return 1

    assert annotations_of(function) == {}
