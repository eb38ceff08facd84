"""``blackhole ps``: the plugins of a running host, once or again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from blackhole_core.cli.commands.operate import QUICK
from blackhole_core.cli.output import as_table, clean, console, json_option, print_json, print_json_line, print_table
from blackhole_core.cli.where import Where, host_options

__all__ = ["ps"]

#: What a limit is counted in, as a manifest names it.
_UNITS: Final = {"cpu": " %", "memory": " MB", "disk": " MB", "network": " Mbps", "pids": ""}
_EMPTY: Final = "the host has no plugins"
#: The columns that show one fact each, and what a plugin's description calls it.
_FACTS: Final = {
    "NAME": "name",
    "VERSION": "version",
    "PHASE": "phase",
    "LEVEL": "isolation",
    "GEN": "generation",
    "RESTARTS": "restarts",
    "PID": "pid",
}
#: The columns that are there only when calls are counted.
_OF_CALLS: Final = ("CALLS", "ERRORS", "P50", "P99")
_COLUMNS: Final = (*_FACTS, "CPU", "MEMORY", "PIDS", "LIMITS", *_OF_CALLS, "SOURCE")


@click.command()
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.5),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: seconds from one look to the next.",
)
@host_options
@json_option
def ps(watch: bool, interval: float, where: Where, as_json: bool) -> None:
    """List the plugins of the running host: phase, level, generation, restarts, worker, what it uses, its limits, and calls when they are counted.

    With --watch and --json it prints one line of JSON for each look.
    """
    looks = _looks(where, interval if watch else None)
    if as_json:
        for plugins in looks:
            (print_json_line if watch else print_json)(plugins)
    elif watch and sys.stdout.isatty():
        _live(looks)
    else:
        for plugins in looks:
            _print(plugins)


def _looks(where: Where, interval: float | None) -> Iterator[list[dict[str, Any]]]:
    """Yield what the host says of its plugins, once when ``interval`` is None."""
    from blackhole_core.cli.control.protocol import Plugins

    client = where.client()
    yield client.ask(Plugins(), seconds=QUICK)
    while interval is not None:
        time.sleep(interval)
        yield client.ask(Plugins(), seconds=QUICK)


def _live(looks: Iterator[list[dict[str, Any]]]) -> None:
    from rich.live import Live

    with Live(console=console(), auto_refresh=False, screen=True) as live:
        for plugins in looks:
            live.update(as_table(_head(plugins), _rows(plugins), empty=_EMPTY), refresh=True)


def _print(plugins: list[dict[str, Any]]) -> None:
    print_table(_head(plugins), _rows(plugins), empty=_EMPTY)
    for plugin in plugins:
        if plugin["last_error"] is not None:
            click.echo(f"{clean(plugin['name'])}: {clean(plugin['last_error'])}")


def _head(plugins: list[dict[str, Any]]) -> Sequence[str]:
    return tuple(column for column in _COLUMNS if column not in _OF_CALLS or _counted(plugins))


def _rows(plugins: list[dict[str, Any]]) -> Iterator[Sequence[object]]:
    head = _head(plugins)
    for plugin in plugins:
        for cells in (_serving(plugin), *_standing_by(plugin)):
            yield tuple(cells.get(column) for column in head)


def _serving(plugin: dict[str, Any]) -> dict[str, object]:
    """Return the cells of what serves, by column."""
    return {
        **{column: plugin[fact] for column, fact in _FACTS.items()},
        **_usage(plugin["usage"]),
        "LIMITS": _limits(plugin["limits"], plugin["enforcement"]),
        **_calls(plugin["calls"]),
        "SOURCE": plugin["source"],
    }


def _standing_by(plugin: dict[str, Any]) -> Iterator[dict[str, object]]:
    """Yield the cells of the worker that stands by, by column, when there is one; those of what serves only stay empty."""
    spare = plugin["spare"]
    if spare is not None:
        as_plugin = {**plugin, "phase": f"spare: {spare['phase']}", "restarts": None, "pid": spare["pid"]}
        yield {**{column: as_plugin[fact] for column, fact in _FACTS.items()}, **_usage(spare["usage"])}


def _usage(usage: dict[str, Any]) -> dict[str, object]:
    return {
        "CPU": None if usage["cpu_percent"] is None else f"{usage['cpu_percent']:.0f} %",
        "MEMORY": None if usage["memory"] is None else f"{usage['memory'] / 2**20:.1f} MB",
        "PIDS": usage["pids"],
    }


def _counted(plugins: list[dict[str, Any]]) -> bool:
    return any(plugin["calls"] is not None for plugin in plugins)


def _limits(limits: dict[str, float | None], enforcement: dict[str, str]) -> str | None:
    """Return the limits in short; one that nobody sees to says so."""
    texts = [
        f"{name} {value:g}{_UNITS[name]}{' (not enforced)' if enforcement.get(f'resources.{name}') == 'none' else ''}"
        for name, value in limits.items()
        if value is not None
    ]
    return ", ".join(texts) or None


def _calls(calls: dict[str, Any] | None) -> dict[str, object]:
    """Return the cells about calls, by column; none when they are not counted."""
    if calls is None:
        return {}
    return {"CALLS": calls["count"], "ERRORS": calls["errors"], "P50": _duration(calls["p50"]), "P99": _duration(calls["p99"])}


def _duration(seconds: float | None) -> str | None:
    """Return a duration in the unit that suits it."""
    if seconds is None:
        return None
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.1f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
