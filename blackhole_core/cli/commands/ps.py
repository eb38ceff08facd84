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
#: The columns before what is used, as a plugin's description names them.
_FACTS: Final = ("name", "version", "phase", "isolation", "generation", "restarts", "pid")


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
    calls = ("CALLS", "ERRORS", "P50", "P99") if _counted(plugins) else ()
    return ("NAME", "VERSION", "PHASE", "LEVEL", "GEN", "RESTARTS", "PID", "CPU", "MEMORY", "PIDS", "LIMITS", *calls, "SOURCE")


def _rows(plugins: list[dict[str, Any]]) -> Iterator[Sequence[object]]:
    counted = _counted(plugins)
    for plugin in plugins:
        yield (
            *(plugin[column] for column in _FACTS),
            *_usage(plugin["usage"]),
            _limits(plugin["limits"], plugin["enforcement"]),
            *(_calls(plugin["calls"]) if counted else ()),
            plugin["source"],
        )
        spare = plugin["spare"]
        if spare is not None:
            as_plugin = {**plugin, "phase": f"spare: {spare['phase']}", "restarts": None, "pid": spare["pid"]}
            yield (
                *(as_plugin[column] for column in _FACTS),
                *_usage(spare["usage"]),
                *(None,) * (6 if counted else 2),
            )


def _usage(usage: dict[str, Any]) -> tuple[str | int | None, ...]:
    return (
        None if usage["cpu_percent"] is None else f"{usage['cpu_percent']:.0f} %",
        None if usage["memory"] is None else f"{usage['memory'] / 2**20:.1f} MB",
        usage["pids"],
    )


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


def _calls(calls: dict[str, Any] | None) -> tuple[int | str | None, ...]:
    """Return the cells about calls; what is not known stays empty."""
    if calls is None:
        return (None,) * 4
    return calls["count"], calls["errors"], _duration(calls["p50"]), _duration(calls["p99"])


def _duration(seconds: float | None) -> str | None:
    """Return a duration in the unit that suits it."""
    if seconds is None:
        return None
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.1f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
