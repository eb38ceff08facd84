"""The messages between host, zygote and forked worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.errors import ProtocolError
from blackhole_core.executor.wire import spawn


def _assignment(numbers: tuple[int, ...] = (1, 2, 3, 4), **other: object) -> spawn.Assignment:
    fields = {
        "receive": 3,
        "send": 4,
        "further": (),
        "import_path": (b"/\xff",),
        "environment": ((b"A", b"\xff"),),
        "umask": 0o22,
        "limits": (),
    }
    return spawn.Assignment(numbers=numbers, **{**fields, **other})  # type: ignore[arg-type]  # a test may give anything


def test_messages_arrive_as_they_left() -> None:
    """Each message comes back whole, also where the system's texts are not UTF-8."""
    assignment = _assignment()
    assert spawn.decode_order(spawn.encode(assignment), 5) == assignment
    assert spawn.decode_fork(spawn.encode(spawn.Fork(77))) == spawn.Fork(77)
    assert spawn.decode_order(spawn.encode(spawn.Ahead(("pid namespace",))), 0) == spawn.Ahead(("pid namespace",))
    for answer in (spawn.Ready(), spawn.Forked(7), spawn.Refused(11, "no")):
        assert spawn.decode_answer(spawn.encode(answer)) == answer


@pytest.mark.parametrize(
    ("assignment", "descriptors"),
    [
        (_assignment(), 4),
        (_assignment((1, 1, 3, 4)), 5),
        (_assignment((1, 2, 3, -4), send=-4), 5),
        (_assignment(send=9), 5),
        (_assignment(further=(9,)), 5),
    ],
)
def test_an_assignment_that_contradicts_itself(assignment: spawn.Assignment, descriptors: int) -> None:
    """Numbers given twice, below 0, or of descriptors that did not come, are refused before any descriptor is moved."""
    with pytest.raises(ProtocolError, match="an assignment with"):
        spawn.decode_order(spawn.encode(assignment), descriptors)


def test_descriptors_with_an_order_that_needs_none() -> None:
    """They would stay open in the worker."""
    with pytest.raises(ProtocolError, match="1 descriptors with an order that needs none"):
        spawn.decode_order(spawn.encode(spawn.Ahead(())), 1)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    """Bytes are one of the messages or a ProtocolError, nothing else."""
    for decode in (spawn.decode_fork, spawn.decode_answer, lambda data: spawn.decode_order(data, 1)):
        try:
            decode(data)
        except ProtocolError:
            continue
