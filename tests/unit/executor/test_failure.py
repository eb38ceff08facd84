"""Exceptions cross a process boundary as what they are, as far as the other side knows what that is."""

from __future__ import annotations

import builtins
from typing import Any

import notes_api
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackhole_core.errors import CannotCross, LimitExceeded, RemoteError
from blackhole_core.executor.failure import Rebuilder, attribute, cannot_cross, to_wire, too_large
from blackhole_core.executor.wire import codec
from blackhole_core.executor.wire.plain import encode_plain


def _known(module: str, name: str) -> type[Exception] | None:
    return notes_api.NotesError if (module, name) == ("notes_api", "NotesError") else None


REBUILDER = Rebuilder("p@1", "the worker of plugin p@1", _known)


def _crossed(error: BaseException) -> Exception:
    data = codec.encode(codec.Error(1, to_wire(error)))
    message = codec.decode_worker_message(data)
    assert isinstance(message, codec.Error)
    return REBUILDER.rebuild(message.failure, "transform")


def _sample_arguments(kind: type[Exception]) -> tuple[Any, ...]:
    if issubclass(kind, UnicodeDecodeError):
        return ("utf-8", b"\xff", 0, 1, "why")
    if issubclass(kind, UnicodeEncodeError):
        return ("utf-8", "x", 0, 1, "why")
    if issubclass(kind, UnicodeTranslateError):
        return ("x", 0, 1, "why")
    if issubclass(kind, OSError):
        return (2, "no such thing")
    if issubclass(kind, SyntaxError):
        return ("invalid syntax", ("file.py", 3, 4, "text", 3, 5))
    return ("said so", 7)


_BUILTIN = sorted(
    {
        kind
        for kind in vars(builtins).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, BaseExceptionGroup)
    },
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", _BUILTIN, ids=lambda kind: kind.__name__)
def test_every_builtin_exception_arrives(kind: type[Exception]) -> None:
    """Type, arguments and text of every builtin exception are the same on the other side."""
    error = kind(*_sample_arguments(kind))
    arrived = _crossed(error)
    assert type(arrived) is type(error)
    assert arrived.args == error.args
    assert str(arrived) == str(error)


def test_exceptions_of_the_host_s_api_arrive() -> None:
    """A type both sides know is that type."""
    assert type(_crossed(notes_api.NotesError("x"))) is notes_api.NotesError


def test_private_exceptions_become_remote_errors() -> None:
    """A type only the plugin has arrives by name, text and traceback."""

    class Private(Exception):
        pass

    try:
        raise Private("secret")
    except Private as raised:
        arrived = _crossed(raised)
    assert isinstance(arrived, RemoteError)
    assert arrived.type_name.endswith("<locals>.Private")
    assert arrived.message == "secret"
    assert 'raise Private("secret")' in arrived.traceback
    assert arrived.__notes__[-1].startswith("traceback in the worker of plugin p@1:\nTraceback")


def test_causes_groups_and_notes_arrive() -> None:
    """What an exception was raised from, what it groups, and its notes come along."""
    error = ExceptionGroup("two", [ValueError(1), ExceptionGroup("inner", [KeyError("k"), notes_api.NotesError("n")])])
    error.add_note("a note")
    error.__cause__ = OSError(2, "why")
    arrived = _crossed(error)
    assert isinstance(arrived, ExceptionGroup)
    assert (arrived.message, arrived.__notes__[0]) == ("two", "a note")
    assert isinstance(arrived.__cause__, FileNotFoundError)
    first, inner = arrived.exceptions
    assert (type(first), first.args) == (ValueError, (1,))
    assert isinstance(inner, ExceptionGroup)
    assert [type(one) for one in inner.exceptions] == [KeyError, notes_api.NotesError]


def test_a_remote_error_on_its_way_through_stays_what_it_was() -> None:
    """A type that one side does not know is itself again on the next side that does."""
    nothing = Rebuilder("p@1", "the host", lambda module, name: None)
    passing = nothing.rebuild(to_wire(notes_api.NotesError("x")), "transform")
    assert isinstance(passing, RemoteError)
    passing.add_note("seen on the way")
    arrived = _crossed(passing)
    assert type(arrived) is notes_api.NotesError
    assert "seen on the way" in arrived.__notes__


class _Meta(type):
    @property
    def __module__(cls) -> str:  # type: ignore[override]  # a property where a plugin may put one
        raise SystemExit("module")


class _Strange(Exception, metaclass=_Meta):
    @property
    def args(self) -> Any:  # type: ignore[override]  # a property where a plugin may put one
        raise KeyboardInterrupt

    @property
    def __notes__(self) -> Any:
        raise MemoryError

    def __str__(self) -> str:
        raise SystemExit(1)


class _StrangeGroup(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:  # type: ignore[override]  # a property where a plugin may put one
        raise ValueError("none")


def _cycle() -> Exception:
    error = ValueError("a")
    error.__cause__ = KeyError("b")
    error.__cause__.__cause__ = error
    return error


def _wide() -> Exception:
    inner: Exception = ExceptionGroup("g", [ValueError("x" * 60_000) for _ in range(50)])
    for _ in range(20):
        inner = ExceptionGroup("g", [inner] * 20)
    return inner


@pytest.mark.parametrize(
    "make",
    [
        _Strange,
        lambda: _StrangeGroup("g", [ValueError()]),
        _cycle,
        _wide,
        lambda: ValueError("\ud800"),
        lambda: ValueError("x" * 10_000_000),
        lambda: type("N", (Exception,), {"__module__": 5})("x"),
        lambda: type("N" * 100_000, (Exception,), {})("x"),
        lambda: type("B", (Exception,), {"__notes__": 5})("x"),
        lambda: SystemExit(3),
        lambda: BaseExceptionGroup("b", [SystemExit(1)]),
    ],
)
def test_no_exception_is_too_strange(make: Any) -> None:
    """Describing never raises, fits into a message, and comes back as some Exception."""
    error = make()
    assert len(codec.encode(codec.Error(1, to_wire(error)))) <= codec.MAX_CONTROL
    assert isinstance(_crossed(error), Exception)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "_wrap_close"),
        ("builtins", "SystemExit"),
        ("builtins", "BaseException"),
        ("builtins", "BaseExceptionGroup"),
        ("builtins", "exec"),
        ("builtins", "__import__"),
        ("notes_api", "Note"),
        ("", ""),
        ("blackhole:", "too_large"),
    ],
)
def test_hostile_names_are_only_text(module: str, name: str) -> None:
    """A13: whatever type a failure names, nothing but a known exception is made of it."""
    failure = codec.WireFailure(module, name, "text", args=encode_plain(("print(1)",)), cause=codec.WireFailure("os", "system", "t"))
    error = REBUILDER.rebuild(failure, "transform")
    assert isinstance(error, RemoteError)
    assert isinstance(error.__cause__, RemoteError)


@pytest.mark.parametrize("args", [None, b"", b"\xc1", b"\x91", encode_plain(17), encode_plain({"a": 1}), encode_plain(("a",) * 9)])
def test_arguments_that_do_not_fit_leave_the_text(args: bytes | None) -> None:
    """A known type whose arguments cannot be read becomes RemoteError with the text."""
    error = REBUILDER.rebuild(codec.WireFailure("builtins", "UnicodeDecodeError", "the text", args=args), "transform")
    assert isinstance(error, RemoteError)
    assert error.message == "the text"


def test_a_type_of_the_host_whose_constructor_fails() -> None:
    """The constructor of an API type gets what a worker says; whatever it raises, the caller gets the text."""

    class Picky(Exception):
        def __init__(self, code: int) -> None:
            super().__init__({1: "one"}[code])

    rebuilder = Rebuilder("p@1", "x", lambda module, name: Picky)
    error = rebuilder.rebuild(codec.WireFailure("m", "Picky", "the text", args=encode_plain((9,))), "transform")
    assert isinstance(error, RemoteError)


def test_the_wire_s_own_failures() -> None:
    """What cannot cross and what is too large arrive as errors of ours, with their facts."""
    crossing = REBUILDER.rebuild(cannot_cross("the result", "builtins.object", "do this"), "transform")
    assert isinstance(crossing, CannotCross)
    assert (crossing.hook, crossing.what, crossing.type_name) == ("transform", "the result", "builtins.object")
    large = REBUILDER.rebuild(too_large(5, 3), "transform")
    assert isinstance(large, LimitExceeded)
    assert (large.limit, large.wanted, large.got, large.unit) == ("max_message", 3, 5, "bytes")


@given(st.binary(max_size=60), st.sampled_from(["too_large", "cannot_cross", "other"]))
def test_unreadable_reports_of_the_wire_are_an_error(args: bytes, name: str) -> None:
    """A05: the wire's own failures with hostile arguments still become an exception."""
    assert isinstance(REBUILDER.rebuild(codec.WireFailure("blackhole:wire", name, "", args=args), "transform"), Exception)


def test_texts_are_escaped_where_they_are_shown() -> None:
    """A12: messages, names, notes and tracebacks of remote errors cannot repaint a terminal."""
    failure = codec.WireFailure("m\x1b", "n\r", "text\x1b[2J", traceback="t\x07", notes=("note\x1b",))
    error = REBUILDER.rebuild(failure, "transform")
    shown = str(error) + "".join(error.__notes__)
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_attribution_is_added_once() -> None:
    """The note says plugin, hook and level, once for each."""
    error = ValueError()
    for level in ("thread", "thread", "process"):
        attribute(error, "p@1", "transform", level)
    assert error.__notes__ == ["plugin p@1, hook transform, level thread", "plugin p@1, hook transform, level process"]
