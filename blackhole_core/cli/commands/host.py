"""``blackhole run`` and ``blackhole watch``: a standing host in the foreground."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from blackhole_core.cli.where import CONFIG_NAME, Where, find_config, host_options

if TYPE_CHECKING:
    from blackhole_core.cli.presenting import Presenter
    from blackhole_core.config import HostConfig
    from blackhole_core.manager import PluginManager

__all__ = ["run", "watch"]

_json_lines = click.option("--json", "as_json", is_flag=True, help="Print each record as one line of JSON.")


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--watch", "watched", metavar="NAME", multiple=True, help="Reload this plugin when its source changes; also 'watch:' in blackhole.yaml."
)
@click.option("--safe-mode", is_flag=True, help="Load nothing.")
@host_options
@_json_lines
def run(config: Path | None, watched: tuple[str, ...], safe_mode: bool, where: Where, as_json: bool) -> None:
    """Run a standing host with the plugins that CONFIG (by default ./blackhole.yaml) names or that are installed.

    It prints one line per event and log record. SIGTERM, Ctrl-C or `blackhole stop` end it in an orderly way, a second Ctrl-C at once.
    """
    from blackhole_core.cli.presenting import JsonLines, Lines

    settings, project = _settings(config, where)
    if safe_mode:
        settings = attrs.evolve(settings, safe_mode=True)
    names = tuple(dict.fromkeys((*settings.watch, *watched)))
    _serve(project, settings, where, JsonLines() if as_json else Lines(), lambda manager: _watch(manager, names))


@click.command()
@click.argument("arguments", metavar="[CONFIG] [NAME]...", nargs=-1)
@click.option("--bell", is_flag=True, help="Ring the terminal's bell at a save that does not work.")
@host_options
@_json_lines
def watch(arguments: tuple[str, ...], bell: bool, where: Where, as_json: bool) -> None:
    """Run a host for developing plugins: save a file, and the new code serves, with its state.

    Watches the plugins named, by default every plugin whose source can change. CONFIG is a .yaml file, by default ./blackhole.yaml. A save that
    does not work leaves the old code serving and shows the traceback until the next good save.
    """
    from blackhole_core.cli.presenting import JsonLines, Reloads

    config, names = _split(arguments)
    settings, project = _settings(config, where)
    _serve(project, settings, where, JsonLines() if as_json else Reloads(bell=bell), lambda manager: _watch_all(manager, names))


def _split(arguments: tuple[str, ...]) -> tuple[Path | None, tuple[str, ...]]:
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        return Path(arguments[0]), arguments[1:]
    return None, arguments


def _settings(config: Path | None, where: Where) -> tuple[HostConfig, str]:
    """Return the configuration and the project.

    :raises click.UsageError: nothing names the project.
    """
    from blackhole_core.config import HostConfig

    settings = find_config(config) or HostConfig()
    project = where.project or settings.project
    if project is None:
        raise click.UsageError(f"a host needs a project: give --project NAME, or a {CONFIG_NAME} with 'project: NAME'")
    return settings, project


def _serve(project: str, settings: HostConfig, where: Where, presenter: Presenter, watch: Callable[[PluginManager], object]) -> None:
    from blackhole_core.cli.control.records import Records
    from blackhole_core.cli.presenting import presenting
    from blackhole_core.cli.standing import Standing, serve

    records = Records()

    def ready(host: Standing) -> None:
        records.add_host_event(
            "host.ready",
            project=project,
            pid=os.getpid(),
            socket=str(host.socket),
            loaded=list(host.loaded.loaded),
            failed={name: str(error) for name, error in host.loaded.failed.items()},
        )

    with presenting(records, presenter):
        serve(project, settings, where.place(project), records=records, watch=watch, ready=ready)


def _watch(manager: PluginManager, names: tuple[str, ...]) -> None:
    if names:  # none at all would mean every plugin
        manager.watch(*names)


def _watch_all(manager: PluginManager, names: tuple[str, ...]) -> None:
    """Watch the plugins named, or all whose source can change, those that failed to load as well: the next save may mend them."""
    changing = (plugin.name for plugin in manager.plugins() if plugin.source is not None and plugin.source.suffix != ".whl")
    for name in names or tuple(changing):
        manager.watch(name)
