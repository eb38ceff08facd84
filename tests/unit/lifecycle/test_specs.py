"""What the host's specs say of types."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import notes_api
import pluggy
import pytest

from blackhole_core.hooks.manager import HookManager
from blackhole_core.lifecycle.specs import SpecBook


@pytest.fixture
def hooks() -> HookManager:
    manager = HookManager("notes")
    manager.add_hookspecs(notes_api.NotesSpecs)
    return manager


def test_only_hooks_with_a_spec_are_named(hooks: HookManager) -> None:
    """A hook that some plugin happens to implement is not part of the host's API."""

    class Stray:
        @notes_api.hookimpl
        def stray(self) -> None: ...

    hooks.register(Stray())
    names = SpecBook(hooks).names()
    assert "transform" in names
    assert "stray" not in names


def test_the_annotations_of_a_spec_are_its_signature(hooks: HookManager) -> None:
    """Argument types by name, and the type of one result."""
    signature = SpecBook(hooks).signature("note")
    assert signature is not None
    assert dict(signature.args) == {"note": notes_api.Note}
    assert signature.result is notes_api.Note


def test_a_spec_without_annotations_says_nothing(hooks: HookManager) -> None:
    """Everything may cross that is plain data."""
    signature = SpecBook(hooks).signature("raw")
    assert signature is not None
    assert signature.result is Any
    assert SpecBook(hooks).signature("unheard_of") is None


def test_firstresult_is_the_specs_word(hooks: HookManager) -> None:
    """A hook without a spec answers with a list."""
    book = SpecBook(hooks)
    assert book.is_firstresult("pick")
    assert not book.is_firstresult("transform")
    assert not book.is_firstresult("unheard_of")


def test_a_spec_that_is_replaced_is_read_again() -> None:
    """The signature that was read before is not kept for another spec of the same name."""
    spec = pluggy.HookspecMarker("notes")

    class Before:
        @spec
        def when(self, at: str) -> str: ...

    class After:
        @spec
        def when(self, at: datetime) -> str: ...

    hooks = HookManager("notes")
    book = SpecBook(hooks)
    hooks.add_hookspecs(Before)
    before = book.signature("when")
    hooks.caller("when").spec = None  # type: ignore[union-attr]  # there is one
    hooks.add_hookspecs(After)
    after = book.signature("when")
    assert before is not None
    assert after is not None
    assert (dict(before.args), dict(after.args)) == ({"at": str}, {"at": datetime})


def test_only_exceptions_of_the_hosts_api_may_cross(hooks: HookManager) -> None:
    """A worker may raise what the module of the specs defines, and nothing else of the host."""
    book = SpecBook(hooks)
    assert book.exception_type("notes_api", "NotesError") is notes_api.NotesError
    assert book.exception_type("notes_api", "Note") is None
    assert book.exception_type("notes_api", "missing") is None
    assert book.exception_type("subprocess", "CalledProcessError") is None
