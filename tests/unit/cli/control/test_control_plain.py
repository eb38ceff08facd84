"""Any value can be shown as JSON, and shows what it is."""

from __future__ import annotations

import datetime
import enum
import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.cli.control.plain import jsonable


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float


@attrs.frozen
class Box:
    corner: Point


class Odd:
    def __repr__(self) -> str:
        return "<odd>"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (2**63, str(2**63)),
        (-(2**63), -(2**63)),
        (1.5, 1.5),
        (math.inf, "inf"),
        (math.nan, "nan"),
        ("x", "x"),
        ("\udc80", "\\udc80"),
        (b"\x00\xff", {"base64": "AP8="}),
        (Colour.RED, "red"),
        (Path("a/b"), "a/b"),
        (datetime.date(2026, 11, 22), "2026-11-22"),
        ((1, [2]), [1, [2]]),
        ({1: {2}}, {"1": [2]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (Box(Point(1, 2.0)), {"corner": {"x": 1, "y": 2.0}}),
        (Point, repr(Point)),
        (Odd(), "<odd>"),
    ],
)
def test_each_kind_of_value_has_a_form(value: object, plain: object) -> None:
    """Values become what a reader of JSON can take them for."""
    assert jsonable(value) == plain


def test_a_value_that_contains_itself_has_an_end() -> None:
    """A cycle is cut and not followed for ever."""
    cycle: list[object] = []
    cycle.append(cycle)
    assert "nested deeper than 64" in json.dumps(jsonable(cycle))


def test_a_huge_number_is_written() -> None:
    """A number that Python refuses to write in decimal is shown all the same."""
    assert jsonable(10**5000).startswith("0x")


def test_long_text_is_cut() -> None:
    """``max_text`` bounds every text, keys and reprs too."""
    assert jsonable({"k" * 10: "v" * 10}, max_text=3) == {"kkk… (10 characters)": "vvv… (10 characters)"}


@given(
    st.recursive(
        st.none() | st.text() | st.integers() | st.floats() | st.binary(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_whatever_comes_out_is_json(value: object) -> None:
    """The result can always be encoded, strictly and as UTF-8."""
    json.dumps(jsonable(value), allow_nan=False, ensure_ascii=False).encode()
