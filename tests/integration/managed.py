"""What the tests of a whole manager share: a manager of project ``notes``, its events, and callers that keep a ledger."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Self

from notes_api import NotesSpecs, release

import blackhole_core as bh
from blackhole_core.events import Event
from tests.plugins.build import build_wheel, plugin_dir, plugin_wheel

__all__ = ["LEVELS", "Callers", "Log", "manager", "released", "renumbered", "running_functions", "wheel"]

#: The levels of this version, weakest first.
LEVELS = ("none", "thread", "process")

#: Seconds that no wait of a test ever takes when the product works; only a broken one waits so long.
PATIENCE = 30.0


class Log:
    """A listener that keeps every event and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, name: str) -> list[Event]:
        """Return the events called ``name`` so far."""
        return [event for event in list(self.events) if event.name == name]

    def wait(self, name: str, count: int = 1, timeout: float = PATIENCE) -> Event:
        """Return the ``count``-th event called ``name``, waiting for it."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of(name)) >= count, timeout), (
                f"no {name}: {[str(event) for event in self.events]}"
            )
        return self.of(name)[count - 1]

    def until(self, holds: Callable[[], bool], timeout: float = PATIENCE) -> None:
        """Wait until ``holds`` does; it is asked again after every event."""
        deadline = time.monotonic() + timeout
        while True:
            heard = len(self.events)
            if holds():
                return
            with self._changed:
                left = deadline - time.monotonic()
                assert self._changed.wait_for(lambda: len(self.events) > heard, left), self.names  # noqa: B023 - asked at once

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


@contextlib.contextmanager
def manager(
    config: Mapping[str, Any] | None = None, *, log: Callable[[Event], object] | None = None, **kw: Any
) -> Iterator[bh.PluginManager]:
    """Yield a manager of project ``notes`` with its specs, closed afterwards."""
    with bh.PluginManager("notes", config=config, **kw) as pm:
        pm.add_hookspecs(NotesSpecs)
        if log is not None:
            pm.on_event(log)
        yield pm


def wheel(name: str, version: str, out: Path) -> Path:
    """Return the wheel of a test plugin in ``out``."""
    return plugin_wheel(name, version, out)


def renumbered(name: str, version: str, wanted: str, tmp_path: Path) -> Path:
    """Return a wheel of the plugin with another version number and nothing else changed."""
    tree = plugin_dir(name, version, tmp_path / wanted)
    for path in tree.rglob("*"):
        if path.is_file():
            path.write_text(path.read_text("utf-8").replace(version, wanted), "utf-8")
    return build_wheel(tree, tmp_path / wanted / "dist")


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Let go, at the end of the block, what hangs in this process."""
    try:
        yield
    finally:
        release.set()
        release.clear()


def running_functions() -> set[str]:
    """Return the names of the functions on the stacks of all threads now."""
    names = set()
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            names.add(frame.f_code.co_name)
            frame = frame.f_back
    return names


class Callers:
    """Threads that call until told to stop, each answer and each failure kept.

    Between two calls each waits a moment: the swapping thread shares the interpreter with them, and what is tested is the swap, not the fairness of
    the interpreter's lock.
    """

    PAUSE = 0.0005

    def __init__(self, count: int, call: Callable[[], Any]) -> None:
        self.answers: list[Any] = []
        self.failures: list[BaseException] = []
        self._call = call
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"caller-{number}") for number in range(count)]

    def _run(self) -> None:
        answers = []
        while not self._stop.is_set():
            try:
                answers.append(self._call())
            except BaseException as error:
                self.failures.append(error)
                break
            self._stop.wait(self.PAUSE)
        self.answers.extend(answers)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{thread.name} never came back"
