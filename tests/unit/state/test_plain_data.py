"""What a state may consist of, and the sentences that say where it breaks the rule."""

from __future__ import annotations

import datetime
import enum
import threading
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.errors import StateError
from blackhole_core.state.plain import MAX_DEPTH, plain


class Color(enum.IntEnum):
    RED = 1


def nested(depth: int) -> list[Any]:
    data: list[Any] = []
    for _ in range(depth - 1):
        data = [data]
    return data


@pytest.mark.parametrize(
    "data",
    [
        None,
        True,
        0,
        -(2**63),
        2**64 - 1,
        1.5,
        float("nan"),
        "",
        "naïve",
        b"\x00",
        [],
        {},
        [1, [2, {"a": [None]}]],
        {"": 1, "ä": {"b c": []}},
    ],
)
def test_plain_data_passes(data: Any) -> None:
    """Every plain value passes, at the edges of its type too."""
    plain(data)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"items": [0, 1, 2, (3,)]}, r"^state\.items\[3\] is a tuple, wanted plain data .*; use list\(\.\.\.\)$"),
        ({"seen": {1, 2}}, r"^state\.seen is a set, wanted .*; use sorted"),
        (Counter(a=1), r"^state is a collections\.Counter, wanted .*; use dict\(\.\.\.\)$"),
        ([Color.RED], r"^state\[0\] is a .*Color, wanted .*; use int\(\.\.\.\)$"),
        ({"a b": [bytearray(b"x")]}, r"^state\['a b'\]\[0\] is a bytearray, wanted .*; use bytes"),
        ([Decimal(1)], r"^state\[0\] is a decimal\.Decimal, .*; use str"),
        ({"at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)}, r"^state\.at is a datetime\.datetime, .*; use \.isoformat"),
        ({"lock": threading.Lock()}, r"^state\.lock is a _thread\.lock, wanted plain data"),
        ({"a": {3: "x"}}, r"^state\.a has the key 3 of type int, wanted str keys: use str\(key\)"),
        ({"n": 2**64}, r"^state\.n is an int of 65 bits, wanted at most 64: write it as str"),
        ({"n": -(2**63) - 1}, r"^state\.n is an int of 64 bits"),
        (["\ud800"], r"^state\[0\] is text that is not valid Unicode"),
        ({"\ud800": 1}, r"^state\['\\ud800'\] is text that is not valid Unicode"),
    ],
)
def test_a_sentence_names_the_path_and_the_type(data: Any, sentence: str) -> None:
    """What is not plain is refused with its path, its type and what to write instead."""
    with pytest.raises(StateError, match=sentence):
        plain(data)


def test_what_begins_the_path() -> None:
    """The caller's name for the data begins the path."""
    with pytest.raises(StateError, match=r"^state of plugin counter\.x is a tuple"):
        plain({"x": ()}, what="state of plugin counter")


def test_a_cycle_is_refused_at_its_first_turn() -> None:
    """A65: cyclic state is refused by a sentence, not by RecursionError."""
    data: dict[str, Any] = {"children": [{}]}
    data["children"][0]["parent"] = data
    with pytest.raises(StateError, match=r"^state\.children\[0\]\.parent contains itself"):
        plain(data)


def test_one_list_at_two_places_is_no_cycle() -> None:
    """A value that appears twice is written twice."""
    shared = [1]
    plain({"a": shared, "b": [shared, shared]})


def test_depth_is_allowed_up_to_the_limit_and_refused_beyond_it() -> None:
    """MAX_DEPTH containers inside each other pass, one more is refused, a hundred thousand too."""
    plain(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(StateError, match=f"nested more than {MAX_DEPTH} deep"):
            plain(nested(depth))


@pytest.mark.parametrize("data", ["x" * 101, b"x" * 101, [None] * 101, {"k": ["x" * 50, "x" * 51]}])
def test_a_state_over_the_limit_is_refused(data: Any) -> None:
    """A65: more bytes than the limit are refused before anything is encoded."""
    with pytest.raises(StateError, match="larger than 100 bytes: keep bulk data in a file"):
        plain(data, limit=100)


def test_references_that_multiply_are_refused_by_size() -> None:
    """Thirty lists of twice the one before are 2**30 values: the walk ends at the limit, not after hours."""
    data: list[Any] = [0]
    for _ in range(30):
        data = [data, data]
    with pytest.raises(StateError, match="larger than 10000 bytes"):
        plain(data, limit=10_000)


def test_a_dict_that_changes_meanwhile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state another thread writes to while it is read is the plugin's fault, said in a sentence."""
    from blackhole_core.state import plain as module

    data: dict[str, Any] = {"a": "x", "b": 1}
    real = module._Walk.check_text

    def check_and_write(walk: Any, text: str) -> None:
        data[f"new{len(data)}"] = 1
        real(walk, text)

    monkeypatch.setattr(module._Walk, "check_text", check_and_write)
    with pytest.raises(StateError, match=r"^state\.a was changed while it was read"):
        plain(data)


def test_a_path_is_a_str() -> None:
    """A path is told its plain form."""
    with pytest.raises(StateError, match=r"pathlib\.(_local\.)?\w*Path, .*; use str"):
        plain(Path("/tmp"))
