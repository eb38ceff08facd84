"""What the demo shows while it works: bars that move on a terminal, plain lines elsewhere, nothing for ``--json``."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import click

from blackhole_core.cli.demo.ledger import Ledger
from blackhole_core.lifecycle.report import SwapReport

__all__ = ["Display", "PlainDisplay", "RichDisplay", "SilentDisplay"]

#: Seconds between two looks at the ledger: a bar that moves smoothly, and costs the callers nothing.
_LOOK: Final = 0.1
#: Shares of the work at which plain output says how far it is.
_STEPS: Final = 5


class Display(Protocol):
    """Shows progress. ``total`` files are counted by each of the parts: the plain loop and every level."""

    def begin(self, parts: Sequence[str], total: int) -> None:
        """Tell what will be done."""

    def advance(self, part: str, done: int) -> None:
        """Tell how many files of a part are done."""

    def watching(self, part: str, ledger: Ledger, reports: Sequence[SwapReport]) -> contextlib.AbstractContextManager[None]:
        """Show the ledger's progress for the length of the block."""

    def happened(self, part: str, what: str) -> None:
        """Tell of a swap, a rollback or a kill."""

    def end(self) -> None:
        """Leave the terminal as it was found."""


class SilentDisplay:
    """Shows nothing."""

    def begin(self, parts: Sequence[str], total: int) -> None:
        """Say nothing."""

    def advance(self, part: str, done: int) -> None:
        """Say nothing."""

    def watching(self, part: str, ledger: Ledger, reports: Sequence[SwapReport]) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def happened(self, part: str, what: str) -> None:
        """Say nothing."""

    def end(self) -> None:
        """Say nothing."""


class _Watching:
    """Calls ``look`` on a thread of its own, every now and then, and once at the end."""

    @contextlib.contextmanager
    def every(self, look: Any) -> Iterator[None]:
        over = threading.Event()

        def run() -> None:
            while not over.wait(_LOOK):
                look()

        thread = threading.Thread(target=run, name="demo-display", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            look()


class PlainDisplay(_Watching):
    """Lines: each thing that happens, and each fifth of the way."""

    def __init__(self) -> None:
        self._total = 0
        self._said: dict[str, int] = {}

    def begin(self, parts: Sequence[str], total: int) -> None:
        self._total = total

    def advance(self, part: str, done: int) -> None:
        step = done * _STEPS // self._total if self._total else 0
        if step > self._said.get(part, 0):
            self._said[part] = step
            click.echo(f"{part:<10} {done} of {self._total} files")

    def watching(self, part: str, ledger: Ledger, reports: Sequence[SwapReport]) -> contextlib.AbstractContextManager[None]:
        return self.every(lambda: self.advance(part, ledger.done))

    def happened(self, part: str, what: str) -> None:
        click.echo(f"{part:<10} {what}")

    def end(self) -> None:
        """Nothing to put back."""


class RichDisplay(_Watching):
    """A bar for each part and one for the whole with the time that is left."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        )
        self._tasks: dict[str, Any] = {}
        self._whole: Any = None
        self._done: dict[str, int] = {}

    def begin(self, parts: Sequence[str], total: int) -> None:
        self._progress.start()
        if self._whole is None:
            self._whole = self._progress.add_task("all", total=total * len(parts), facts="")
        self._progress.update(self._whole, total=total * len(parts))
        for part in parts:
            if part not in self._tasks:
                self._tasks[part] = self._progress.add_task(part, total=total, start=False, facts="")
            self._progress.update(self._tasks[part], total=total)

    def advance(self, part: str, done: int) -> None:
        self._show(part, done, "")

    def _show(self, part: str, done: int, facts: str) -> None:
        task = self._tasks[part]
        if part not in self._done:
            self._progress.start_task(task)
        self._done[part] = done
        self._progress.update(task, completed=done, facts=facts)
        self._progress.update(self._whole, completed=sum(self._done.values()))

    def watching(self, part: str, ledger: Ledger, reports: Sequence[SwapReport]) -> contextlib.AbstractContextManager[None]:
        def look() -> None:
            gate = max((report.gate_seconds for report in tuple(reports)), default=0.0)
            facts = f"{len(reports)} swaps, longest gate {gate * 1000:.0f} ms, {len(ledger.errors)} failed"
            self._show(part, ledger.done, facts)

        return self.every(look)

    def happened(self, part: str, what: str) -> None:
        self._progress.console.print(f"[dim]{part:<10}[/dim] {what}", highlight=False)

    def end(self) -> None:
        self._progress.stop()
