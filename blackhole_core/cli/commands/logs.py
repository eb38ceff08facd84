"""``blackhole logs`` and ``blackhole stop``: what a running host says, and its end."""

from __future__ import annotations

import click

from blackhole_core.cli.commands.operate import QUICK
from blackhole_core.cli.output import print_json, print_json_line
from blackhole_core.cli.where import Where, host_options, plugin_names

__all__ = ["logs", "stop"]


@click.command()
@click.argument("name", required=False, shell_complete=plugin_names)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C or the host's end.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=200, show_default=True, help="How many of the latest records to begin with."
)
@host_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; with -f, one per line.")
def logs(name: str | None, follow: bool, lines: int, where: Where, as_json: bool) -> None:
    """Show what the running host logged and did, of one plugin if it is named."""
    from blackhole_core.cli.control.protocol import Logs
    from blackhole_core.cli.lines import record_line

    client, request = where.client(), Logs(name, follow, lines)
    if not follow:
        records = client.ask(request, seconds=QUICK)
        if as_json:
            print_json(records)
        else:
            for record in records:
                click.echo(record_line(record))
        return
    for record in client.follow(request):
        if as_json:
            print_json_line(record)
        else:
            click.echo(record_line(record))


@click.command()
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds to wait until the host has ended.",
)
@host_options
def stop(timeout: float, where: Where) -> None:
    """End the running host in an orderly way and wait until it has."""
    pid = where.client().stop(seconds=timeout)
    click.echo(f"the host (process {pid}) has ended")
