"""Many threads calling one hook: each takes the next file and counts it through the plugin, until none is left."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from blackhole_core.cli.demo.corpus import Source
from blackhole_core.cli.demo.ledger import Ledger, totals_of
from blackhole_core.errors import WorkerDied

__all__ = ["Pace", "Traffic"]

#: Times that one call is made again after its worker died: more than the demo kills, so that a real crash loop ends in an error.
MAX_RETRIES: Final = 10


class NoAnswer(LookupError):
    """The call found no plugin: what a swap must never let happen."""


class Pace:
    """How far the callers may go, so that they do not run out of files before the swaps do. ``_limit`` changes under ``_changed``."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limit = 0.0

    def allow(self, files: float) -> None:
        """Let the callers begin the first ``files`` files; ``math.inf`` for all."""
        with self._changed:
            self._limit = files
            self._changed.notify_all()

    def wait_for(self, number: int) -> None:
        """Wait until the file ``number`` may be begun."""
        with self._changed:
            self._changed.wait_for(lambda: number < self._limit)


class Traffic:
    """Calls from ``threads`` threads for the length of a ``with`` block, which ends when every source is dealt with.

    Inside the block ``pace.allow`` says how far they may go; when it is left they may go on to the end.
    ``first`` is the number of the first source in the ledger. Leaving the block by an exception ends the calls after those under way.
    """

    def __init__(self, count: Callable[..., Any], sources: Sequence[Source], ledger: Ledger, *, threads: int, first: int = 0) -> None:
        self._count = count
        self._sources = sources
        self._ledger = ledger
        self._first = first
        self._numbers = itertools.count()  # its next() is one step of the interpreter, so no number is given twice
        self._ending = False
        self.pace = Pace()
        self._threads = [threading.Thread(target=self._run, name=f"demo-caller-{number}", daemon=True) for number in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ending = kind is not None
        self.pace.allow(math.inf)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._ending:
            number = next(self._numbers)
            if number >= len(self._sources):
                return
            self.pace.wait_for(number)
            if self._ending:
                return
            try:
                self._ledger.answered(self._first + number, self._call(self._sources[number]))
            except Exception as error:  # the demo shows it and fails
                self._ledger.failed(error)

    def _call(self, source: Source) -> Any:
        for attempt in itertools.count():
            try:
                answers = self._count(path=source.path, source=source.text)
            except WorkerDied:
                # "executed: unknown". Counting again is right here: each file's reply is entered once, whatever the plugin's own sums say.
                if attempt == MAX_RETRIES:
                    raise
                self._ledger.retried()
                continue
            if len(answers) != 1:
                raise NoAnswer(f"the call for {source.path} was answered by {len(answers)} plugins, wanted 1")
            return totals_of(answers[0])
        raise AssertionError("unreachable: the loop above has no end")
