"""What a plugin takes of its host by its context, attributes and signals, and gives back in whatever order plugins end."""

from __future__ import annotations

import os
import signal
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blackhole_core.executor import performing
from blackhole_core.executor.context import PluginContext
from tests.unit.executor.contexts import Running

# --- patches ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def target() -> types.SimpleNamespace:
    return types.SimpleNamespace(greet=lambda: "hello")


def test_a_patch_is_put_back(context: Running, target: Any) -> None:
    """patch() replaces, ``original`` leads to what was there, the stop puts it back."""
    before = target.greet
    patch = context.patch(target, "greet", lambda: patch.original().upper())
    assert target.greet() == "HELLO"
    assert context.end() == ()
    assert target.greet is before


def test_patches_of_two_plugins_may_end_in_any_order(make_context: Callable[..., Running], target: Any) -> None:
    """The lower patch goes first: the upper one stays, and then leads to what was below."""
    first, second = make_context("one"), make_context("two")
    lower = first.patch(target, "greet", lambda: lower.original() + " one")
    upper = second.patch(target, "greet", lambda: upper.original() + " two")
    assert target.greet() == "hello one two"
    assert first.end() == ()
    assert target.greet() == "hello two"
    assert second.end() == ()
    assert target.greet() == "hello"


def test_a_swap_replaces_a_patch_by_its_successor(make_context: Callable[..., Running], target: Any) -> None:
    """While both generations live, the new one's patch leads past the old one's: the effect is never doubled."""
    old, new = make_context(generation=1), make_context(generation=2)
    one = old.patch(target, "greet", lambda: one.original() + " v1")
    two = new.patch(target, "greet", lambda: two.original() + " v2")
    assert target.greet() == "hello v2"
    assert old.end() == ()
    assert target.greet() == "hello v2"
    assert new.end() == ()
    assert target.greet() == "hello"


def test_an_aborted_swap_shows_the_old_patch_again(make_context: Callable[..., Running], target: Any) -> None:
    """The new generation ends first: what the old one had put there serves again."""
    old, new = make_context(generation=1), make_context(generation=2)
    old.patch(target, "greet", lambda: "v1")
    new.patch(target, "greet", lambda: "v2")
    new.end()
    assert target.greet() == "v1"


def test_somebody_elses_patch_on_top_is_not_clobbered(context: Running, target: Any) -> None:
    """What another one has put over ours stays, and the report names it."""

    def foreign() -> str:
        return "foreign"

    context.patch(target, "greet", lambda: "ours")
    target.greet = foreign
    [problem] = context.end()
    assert target.greet is foreign
    assert "greet was covered by " in problem
    assert "foreign, which stays in place" in problem


def test_an_inherited_attribute_is_inherited_again(context: Running) -> None:
    """Patching a method on a subclass or an instance leaves no attribute behind."""

    class Base:
        def act(self) -> str:
            return "base"

        @staticmethod
        def tool() -> str:
            return "tool"

    class Sub(Base):
        pass

    thing, kept = Sub(), vars(Base)["tool"]
    context.patch(Sub, "act", lambda self: "patched")
    context.patch(thing, "act", lambda: "instance")
    context.patch(Base, "tool", staticmethod(lambda: "patched"))
    assert thing.act() == "instance"
    assert Sub().act() == "patched"
    context.end()
    assert thing.act() == "base"
    assert "act" not in vars(Sub)
    assert vars(Base)["tool"] is kept


def test_an_attribute_that_is_not_there_is_refused(context: Running, target: Any) -> None:
    """A typing mistake in the name is found at once."""
    with pytest.raises(AttributeError):
        context.patch(target, "great", print)


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def usr1() -> Iterator[list[str]]:
    """Collect what answers SIGUSR1; the host's own handler is there first."""
    heard: list[str] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append("host"))
    yield heard
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def kick() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.sigtimedwait([], 0)  # let the handler run


def test_a_signal_handler_is_taken_back_from_another_thread(make_context: Callable[..., Running], usr1: list[str]) -> None:
    """The end may come on any thread: the host's handler answers again."""
    context = make_context()
    context.signal(signal.SIGUSR1, lambda number, frame: usr1.append("plugin"))
    kick()
    assert context.end() == ()  # on a thread of its own
    kick()
    kick()
    assert usr1 == ["plugin", "host", "host"]


def test_the_next_generation_may_take_a_signal_on_any_thread(make_context: Callable[..., Running], usr1: list[str]) -> None:
    """A reload runs on the watcher's thread: the handler's place is there already."""
    old, new = make_context(generation=1), make_context(generation=2)
    old.signal(signal.SIGUSR1, lambda number, frame: usr1.append("v1"))
    thread = threading.Thread(target=lambda: new.signal(signal.SIGUSR1, lambda number, frame: usr1.append("v2")))
    thread.start()
    thread.join()
    kick()
    assert old.end() == ()
    kick()
    new.end()
    kick()
    assert usr1 == ["v2", "v2", "host"]


def test_a_first_signal_handler_off_the_main_thread_is_refused(context: Running, usr1: list[str]) -> None:
    """Python wants the main thread; the error says what to do."""
    errors: list[BaseException] = []

    def take() -> None:
        try:
            context.signal(signal.SIGUSR1, print)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=take, name="elsewhere")
    thread.start()
    thread.join()
    [error] = errors
    assert "SIGUSR1 can be set on the main thread only, and this is 'elsewhere'" in str(error)
    assert context.end() == ()


def test_a_worker_gives_the_same_context() -> None:
    """The methods that plugin authors use are one class's, whatever the level."""
    assert performing.PluginContext is PluginContext
