"""What is typed for a hook becomes what its spec asks for."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest
from notes_api import Note

from blackhole_core.cli.control.arguments import ArgumentProblem, read_arguments, read_text


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", int, 3),
        ("3", str, "3"),
        ("3", float, 3.0),
        ("3", Any, 3),
        ("null", str, "null"),
        ("null", str | None, None),
        ("true", bool, True),
        ("hi", str, "hi"),
        ('"hi"', str, "hi"),
        ("hi", Any, "hi"),
        ("", str, ""),
        ("[1, 2]", list[int], [1, 2]),
        ("[1, 2]", str, "[1, 2]"),
        ("{", str, "{"),
        ("2026-11-22T12:00:00Z", datetime.datetime, datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)),
        (
            '{"title": "x", "tags": ["a"], "when": "2026-11-22T12:00:00Z"}',
            Note,
            Note("x", ("a",), datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.UTC)),
        ),
    ],
)
def test_a_text_is_read_as_its_spec_wants(text: str, annotation: Any, value: object) -> None:
    """JSON where the spec wants something else than text, the text itself where it wants text."""
    read = read_text(text, annotation)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(("text", "annotation"), [("x", int), ("1.5", int), ('"x"', int), ("[1]", dict[str, int]), ("{}", Note)])
def test_a_text_that_does_not_fit_is_refused(text: str, annotation: Any) -> None:
    """A wrong type is an error, never passed on."""
    with pytest.raises(msgspec.ValidationError):
        read_text(text, annotation)


def test_all_problems_are_told_at_once() -> None:
    """Missing, unknown and wrong arguments are named together with what the hook takes."""
    with pytest.raises(ArgumentProblem) as caught:
        read_arguments("slow", ["seconds", "why"], {"seconds": float}, {"seconds": "long", "foo": "1"})
    assert str(caught.value) == (
        "hook slow takes (seconds: float, why); why is missing; foo is not among its arguments; seconds: Expected `float`, got `str`"
    )


def test_a_hook_without_arguments_takes_none() -> None:
    """An argument for a hook that takes none is named."""
    assert read_arguments("total", [], {}, {}) == {}
    with pytest.raises(ArgumentProblem, match="takes \\(nothing\\); x is not among its arguments"):
        read_arguments("total", [], {}, {"x": "1"})
