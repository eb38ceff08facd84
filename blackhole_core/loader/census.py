"""Where a process keeps callbacks: threads, and the registries that Python lets one read but not walk through.

The garbage collector sees who refers to an object, except from C: signal handlers, exit functions, trace functions and what the stack of a
running thread holds. Those are listed here. Listing them changes none of them.
"""

from __future__ import annotations

import atexit
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

import attrs

from blackhole_core.loader.belongings import Belongings
from blackhole_core.stacks import StackReading

__all__ = ["Holder", "Registered", "registered", "running_threads", "thread_holder"]


@attrs.frozen
class Holder:
    """Who keeps something alive. ``text`` is a clause in which ``{what}`` stands for the plugin's object, ``advice`` says what to do."""

    text: str
    advice: str


@attrs.frozen(eq=False)
class Registered:
    """One thing that a registry has, and who that is."""

    thing: object
    holder: Holder


def running_threads(belongings: Belongings) -> Iterator[tuple[threading.Thread | None, Holder]]:
    """Yield the threads that run, or are about to run, the generation's code; None for one that ``threading`` does not know."""
    known = {thread.ident: thread for thread in threading.enumerate()}
    running = set()
    for ident, at in _spots(belongings).items():
        thread = known.get(ident)
        running.add(ident)
        name = repr(thread.name) if thread is not None else str(ident)
        yield thread, Holder(f"thread {name} is still running, in {at}", _THREAD_ADVICE)
    for thread in (known[ident] for ident in known.keys() - running):
        what = next((belongings.describe(value) for value in _carried(thread) if belongings.own(value)), None)
        if what is not None:
            holder = thread_holder(thread)
            yield thread, Holder(holder.text.replace("{what}", what), holder.advice)


def _spots(belongings: Belongings) -> dict[int, str]:
    """Return where each thread that runs the generation's code is in it, by thread ident."""
    found = {}
    with StackReading() as tops:
        for ident, top in tops.items():
            frame: FrameType | None = top
            while frame is not None and not belongings.owns_frame(frame):
                frame = frame.f_back
            if frame is not None:
                found[ident] = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
    return found


_THREAD_ADVICE = "start it with context.thread and let it end when context.stopping is set"


def thread_holder(thread: threading.Thread) -> Holder:
    """Return the words for a thread that holds something."""
    if isinstance(thread, threading.Timer):
        return Holder(f"the pending threading.Timer {thread.name!r} will call {{what}}", "use context.timer, or cancel it in plugin_stop")
    return Holder(f"thread {thread.name!r} is still running with {{what}}", _THREAD_ADVICE)


def _carried(thread: threading.Thread) -> Iterator[object]:
    yield thread
    for value in list(vars(thread).values()):
        if isinstance(value, tuple):
            yield from value
        else:
            yield value


def registered() -> Iterator[Registered]:
    """Yield what the process's registries hold, whoever put it there."""
    yield from _log_handlers()
    yield from _signal_handlers()
    yield from _exit_functions()
    yield from _interpreter_hooks()


def _log_handlers() -> Iterator[Registered]:
    loggers = [logging.root, *(known for known in list(logging.Logger.manager.loggerDict.values()) if isinstance(known, logging.Logger))]
    for logger in loggers:
        for handler in list(logger.handlers):
            yield Registered(handler, Holder(f"{{what}} is a handler of logger {logger.name!r}", "add it with context.add_log_handler"))
            for inner in (*handler.filters, handler.formatter):
                yield Registered(
                    inner, Holder(f"{{what}} is used by a handler of logger {logger.name!r}", "take it off with context.lease")
                )
        for one in list(logger.filters):
            yield Registered(one, Holder(f"{{what}} is a filter of logger {logger.name!r}", "add it with context.add_log_filter"))


def _signal_handlers() -> Iterator[Registered]:
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and not isinstance(handler, signal.Handlers):
            name = signal.Signals(number).name if number in _NAMED_SIGNALS else str(number)
            yield Registered(handler, Holder(f"{{what}} is the handler of signal {name}", "set it with context.signal"))


_NAMED_SIGNALS: Final = frozenset(signal.Signals)


class _Listener:
    """Compares itself with every exit function when it is 'unregistered', says no each time, and so learns them all."""

    __hash__ = None  # type: ignore[assignment]  # this is how Python says that there is none

    def __init__(self) -> None:
        self.heard: list[object] = []

    def __eq__(self, other: object) -> bool:
        self.heard.append(other)
        return False


def _exit_functions() -> Iterator[Registered]:
    listener = _Listener()
    atexit.unregister(listener)  # type: ignore[arg-type]  # any callable will do
    for function in listener.heard:
        yield Registered(function, Holder("{what} is registered with atexit", "use context.atexit, or atexit.unregister it in plugin_stop"))


def _interpreter_hooks() -> Iterator[Registered]:
    generator_hooks = sys.get_asyncgen_hooks()
    slots: tuple[tuple[str, Any], ...] = (
        ("sys.settrace", sys.gettrace()),
        ("sys.setprofile", sys.getprofile()),
        ("threading.settrace", threading.gettrace()),
        ("threading.setprofile", threading.getprofile()),
        ("sys.set_asyncgen_hooks", generator_hooks.firstiter),
        ("sys.set_asyncgen_hooks", generator_hooks.finalizer),
    )
    for setter, function in slots:
        if function is not None:
            yield Registered(function, Holder(f"{{what}} was given to {setter}", "take it back in plugin_stop, or with context.lease"))
