"""Arguments and results travel by their annotations, or as plain data where there are none."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from typing import Annotated, Any

import pytest

from blackhole_core.executor.wire.plain import NotPlain
from blackhole_core.executor.wire.signature import ArgumentsDecoder, ArgumentsEncoder, ResultDecoder, ResultEncoder, Signature, Undecodable


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Note:
    title: str
    tags: tuple[str, ...]
    when: datetime.datetime
    colour: Colour


_NOTE = Note("a", ("b", "c"), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), Colour.RED)


@pytest.mark.parametrize(
    ("types", "args"),
    [
        ([], ()),
        ([int, str], (1, "x")),
        ([Note], (_NOTE,)),
        ([list[Note], Any], ([_NOTE], (1, {2}))),
        ([tuple[int, str]], ((1, "x"),)),
        ([Any], (datetime.date(2026, 1, 2),)),
        ([bytes, float], (b"\x00\xff", 1.5)),
        ([Annotated[int, {"no": "hash"}], list[Annotated[int, []]], Annotated[bytes, {}]], (1, [2], b"x")),
        ([str | None, str | None], (None, "x")),
    ],
)
def test_arguments_arrive(types: list[Any], args: tuple[Any, ...]) -> None:
    """Typed and open positions arrive side by side as what they were."""
    assert ArgumentsDecoder(types).decode(ArgumentsEncoder(types).encode(args)) == args


@pytest.mark.parametrize(
    ("types", "args", "path", "type_name"),
    [
        ([int, Any], (1, object()), "[1]", "builtins.object"),
        ([Any], ([{"x": object()}],), "[0][0]['x']", "builtins.object"),
        ([str, int], ("a", object()), "[1]", "builtins.object"),
        ([int], (1 << 100,), "[0]", "beyond 64 bit"),
        ([str], ("\ud800",), "[0]", "lone surrogate"),
        ([Any], (["\ud800"],), "[0][0]", "lone surrogate"),
        ([list[int]], ([object()],), "[0]", "object"),
    ],
)
def test_arguments_that_cannot_cross_are_located(types: list[Any], args: tuple[Any, ...], path: str, type_name: str) -> None:
    """The refusal names the position, the way into it, and the type."""
    with pytest.raises(NotPlain) as caught:
        ArgumentsEncoder(types).encode(args)
    assert caught.value.path == path
    assert type_name in caught.value.type_name


@pytest.mark.parametrize(
    ("annotation", "value"), [(int, 3), (Note, _NOTE), (str, None), (Any, (1, 2)), (tuple[int, ...], (1, 2)), (Any, None), (Any, "x")]
)
def test_results_arrive(annotation: Any, value: Any) -> None:
    """A result arrives by its annotation; None always may."""
    from blackhole_core.executor.wire.types import contains_any

    data = ResultEncoder(contains_any(annotation)).encode(value)
    assert ResultDecoder(annotation).decode(data) == value


@pytest.mark.parametrize(("annotation", "value"), [(int, "x"), (str, 1), (Note, {"title": 1}), (list[int], [1, "x"]), (int, 1.5)])
def test_results_of_another_type_are_refused(annotation: Any, value: Any) -> None:
    """A worker cannot give the host a value of a type the spec does not name."""
    with pytest.raises(Undecodable, match="Expected"):
        ResultDecoder(annotation).decode(ResultEncoder(False).encode(value))


def test_cycles_are_refused_by_name() -> None:
    """A value that refers to itself ends in a sentence."""
    circle: list[Any] = []
    circle.append(circle)
    for is_open in (True, False):
        with pytest.raises(NotPlain, match="itself"):
            ResultEncoder(is_open).encode(circle)


def test_what_has_no_annotation_is_open() -> None:
    """A missing annotation means Any."""
    assert Signature({"a": int}).type_of("b") is Any
