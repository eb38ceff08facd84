"""What can never cross is refused when the plugin is loaded, with hook, argument and type."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from notes_api import Note

from blackhole_core.errors import CannotCross
from blackhole_core.executor.binding import bind
from blackhole_core.executor.wire.signature import Signature
from blackhole_core.messages import Implementation


def _implementation(*argnames: str, **changes: Any) -> Implementation:
    return Implementation("transform", "transform", argnames, {}, **changes)


@pytest.mark.parametrize(
    ("implementation", "signature", "says"),
    [
        (_implementation(is_generator=True), Signature(), "a generator implementation .hook wrapper. .* level none or thread"),
        (Implementation("transform", "transform", (), {"wrapper": True}), Signature(), "a generator implementation"),
        (Implementation("transform", "transform", (), {"hookwrapper": True}), Signature(), "a generator implementation"),
        (_implementation("back"), Signature({"back": Callable[[], None]}), "argument 'back' .*Callable.*change the spec"),
        (_implementation("a", "lock"), Signature({"lock": threading.Event}), "argument 'lock' .*threading.Event"),
        (_implementation(), Signature({}, Iterator[int]), "the result .*Iterator"),
        (_implementation("note"), Signature({"note": Note}), "argument 'note' .*notes_api.Note; annotate it"),
        (_implementation("notes"), Signature({"notes": list[Note]}), "argument 'notes' .*Note.*annotate it"),
    ],
)
def test_what_cannot_cross(implementation: Implementation, signature: Signature, says: str) -> None:
    """The sentence names plugin, hook, argument and type, and what to do."""
    with pytest.raises(CannotCross, match=says) as caught:
        bind(implementation, signature, "p@1")
    assert caught.value.hook == "transform"
    assert "plugin p@1" in str(caught.value)


def test_what_can() -> None:
    """Types of the standard library are told to the worker, classes it must name itself are not, open ones travel as plain data."""
    signature = Signature({"a": int, "note": Note, "tags": tuple[str, ...]}, Any)
    binding = bind(_implementation("a", "note", "tags", "free", annotated=("note",)), signature, "p@1")
    assert binding.types.args == ("int", None, "tuple[str, ...]", None)
    assert binding.types.open_result
    assert not bind(_implementation(), Signature({}, Note), "p@1").types.open_result


def test_a_hook_without_spec_takes_plain_data() -> None:
    """An implementation of an unknown hook is bound as well: it may be called when its spec comes."""
    binding = bind(_implementation("x"), None, "p@1")
    assert binding.result.decode(b"\x01") == 1
