"""``blackhole state``: the saved state of plugins of a running host."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import click

from blackhole_core.cli.commands.operate import OPERATION, QUICK
from blackhole_core.cli.output import clean, json_option, print_json, print_table
from blackhole_core.cli.where import Where, host_options, plugin_names

__all__ = ["state"]

_plugin = click.argument("name", shell_complete=plugin_names)


@click.group()
def state() -> None:
    """Save, restore and list the state of plugins of the running host."""


@state.command("export")
@_plugin
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@host_options
@json_option
def export_state(name: str, file: Path, where: Where, as_json: bool) -> None:
    """Save a plugin's state and write it to FILE, which is replaced in one step."""
    from blackhole_core.cli.control.protocol import StateExport

    done = where.client().ask(StateExport(name, str(file.absolute())), seconds=OPERATION)
    if as_json:
        print_json(done)
    else:
        click.echo(clean(f"state of {done['plugin']} (state version {done['state_version']}, {done['bytes']} bytes) is in {done['file']}"))


@state.command("import")
@_plugin
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@host_options
@json_option
def import_state(name: str, file: Path, where: Where, as_json: bool) -> None:
    """Give a running plugin the state in FILE, migrated to its own state version."""
    from blackhole_core.cli.control.protocol import StateImport

    done = where.client().ask(StateImport(name, str(file.absolute())), seconds=OPERATION)
    if as_json:
        print_json(done)
    else:
        origin = done["plugin_version"] or "a version without number"
        click.echo(clean(f"{done['plugin']} has the state that {origin} had at {_moment(done['created'])}"))


@state.command("list")
@_plugin
@host_options
@json_option
def list_state(name: str, where: Where, as_json: bool) -> None:
    """List the snapshots of a plugin, newest first."""
    from blackhole_core.cli.control.protocol import StateList

    snapshots = where.client().ask(StateList(name), seconds=QUICK)
    if as_json:
        print_json(snapshots)
        return
    print_table(
        ("ID", "TAKEN", "VERSION", "STATE", "GEN", "REASON", "BYTES", "DAMAGED"),
        (_row(snapshot) for snapshot in snapshots),
        empty=f"there is no snapshot of {clean(name)}",
    )


def _row(snapshot: dict[str, Any]) -> tuple[Any, ...]:
    taken = None if snapshot["created"] is None else _moment(snapshot["created"])
    facts = (snapshot[key] for key in ("plugin_version", "state_version", "generation", "reason", "size", "damaged"))
    return (snapshot["id"], taken, *facts)


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")
