"""What a host in the foreground prints: its records, on a thread of its own, so that a terminal that is held up never holds up the host."""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import click

from blackhole_core.cli.control.records import Records, Subscription
from blackhole_core.cli.lines import record_line, reload_line
from blackhole_core.cli.output import clean, console, print_json_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

__all__ = ["JsonLines", "Lines", "Presenter", "Reloads", "presenting"]


class Presenter(Protocol):
    """Shows records. Used by one thread."""

    def show(self, record: Mapping[str, Any]) -> None:
        """Show one record."""

    def missed(self, number: int) -> None:
        """Tell that records were dropped, because showing them took too long."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class JsonLines:
    """Each record as a line of JSON."""

    def show(self, record: Mapping[str, Any]) -> None:
        print_json_line(record)

    def missed(self, number: int) -> None:
        print_json_line({"kind": "missed", "records": number})

    def close(self) -> None:
        """Nothing to put back."""


class Lines:
    """Each record as a line of text."""

    def show(self, record: Mapping[str, Any]) -> None:
        click.echo(record_line(record))

    def missed(self, number: int) -> None:
        click.echo(f"({number} records were dropped: this output is slower than the host)")

    def close(self) -> None:
        """Nothing to put back."""


class Reloads:
    """For developing: each reload as one line, the failures that still stand as framed tracebacks, and what the plugins print.

    On a terminal the frames stand below the lines and go away with the next good save; elsewhere each is printed once. With ``bell`` a save that
    does not work is also heard.
    """

    def __init__(self, terminal: Console | None = None, *, bell: bool = False) -> None:
        self._console = terminal if terminal is not None else console()
        self._bell = bell
        self._failures: dict[str, str] = {}
        self._live: Live | None = None

    def show(self, record: Mapping[str, Any]) -> None:
        line = self._line(record)
        if line:
            self._console.print(line, markup=False)
        self._refresh()

    def missed(self, number: int) -> None:
        self._console.print(f"({number} records were dropped: this output is slower than the host)", markup=False)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, record: Mapping[str, Any]) -> str:
        if record["kind"] == "log":
            return record_line(record)
        plugin, data = record["plugin"], record["data"]
        match record["name"]:
            case "host.ready":
                failed = "".join(f"\n  {name} failed: {why}" for name, why in data["failed"].items())
                return clean(
                    f"project {data['project']}: {', '.join(data['loaded']) or 'no plugin'} loaded, save a file to reload; Ctrl-C ends{failed}"
                )
            case "reload.watching":
                return clean(f"watching {plugin} at {data['source']}")
            case "reload.done":
                self._failures.pop(plugin, None)
                return reload_line(plugin, data)
            case "plugin.loaded":
                self._failures.pop(plugin, None)
                return clean(f"{plugin}: {data['version'] or 'no version'} is loaded at level {data['level']}")
            case "reload.failed":
                self._failures[plugin] = data["traceback"]
                if self._bell:
                    self._console.bell()
                if not self._console.is_terminal:
                    self._console.print(_frame(plugin, data["traceback"]))
                return clean(f"{plugin}: {', '.join(data['files'])} changed, and does not work; the old code serves on")
            case "reload.source_gone" | "worker.died" | "plugin.broken" | "worker.restarted" | "plugin.unloaded" | "host.stopping":
                return record_line(record)
        return ""

    def _refresh(self) -> None:
        """Show the frames of the failures that stand, below everything else."""
        if not self._console.is_terminal:
            return
        from rich.console import Group
        from rich.live import Live

        frames = Group(*(_frame(plugin, text) for plugin, text in self._failures.items()))
        if self._live is None:
            if not self._failures:
                return
            self._live = Live(frames, console=self._console, auto_refresh=False, vertical_overflow="visible", transient=True)
            self._live.start()
        self._live.update(frames, refresh=True)
        if not self._failures:
            self.close()


def _frame(plugin: str, traceback: str) -> Any:
    from rich.panel import Panel
    from rich.text import Text

    return Panel(Text(clean(traceback.rstrip())), title=f"{clean(plugin)} does not work", title_align="left", border_style="red")


@contextlib.contextmanager
def presenting(records: Records, presenter: Presenter) -> Iterator[None]:
    """Show every record from now on; at the end what is still waiting is shown first."""
    with records.subscribe() as subscription:
        thread = threading.Thread(target=_show_all, args=(subscription, presenter), name="blackhole-output", daemon=True)
        thread.start()
        try:
            yield
        finally:
            subscription.end()
            thread.join(timeout=_LAST_WORDS)


#: Seconds for the last records to be printed; a reader that takes none does not hold up the end of the host.
_LAST_WORDS = 2.0


def _show_all(subscription: Subscription, presenter: Presenter) -> None:
    poll = select.poll()
    poll.register(subscription, select.POLLIN)
    try:
        ended = False
        while not ended:
            poll.poll()
            ended = subscription.ended
            records, missed = subscription.take()
            for record in records:
                presenter.show(record)
            if missed:
                presenter.missed(missed)
    except (BrokenPipeError, ValueError):  # who read our output is gone, or it was closed: the host goes on without
        return
    finally:
        presenter.close()
