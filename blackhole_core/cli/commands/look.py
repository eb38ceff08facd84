"""Commands that look at this machine and at plugins, and change nothing: doctor, check, list, info."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blackhole_core.cli.exits import Exit
from blackhole_core.cli.output import clean, json_option, print_json, print_table
from blackhole_core.cli.where import Where, find_config, host_options, plugin_names
from blackhole_core.ids import Isolation

if TYPE_CHECKING:
    from blackhole_core.errors import Problem
    from blackhole_core.registry.candidate import Candidate
    from blackhole_core.registry.registry import PluginRegistry

__all__ = ["check", "config_option", "doctor", "group_option", "info", "lend_registry", "list_plugins", "source_option"]

_LEVELS = click.Choice([level.value for level in Isolation])
config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The host's blackhole.yaml; by default the one here, if there is one.",
)
group_option = click.option("--group", metavar="NAME", help="The entry point group; by default the project of blackhole.yaml.")
source_option = click.option(
    "--source",
    "sources",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Look here too: a plugin directory, a wheel or a directory of wheels.",
)


@click.command()
@click.option("--require", "required", type=_LEVELS, multiple=True, help="A level that must run here; may be given several times.")
@click.option("--clear-index", is_flag=True, help="Remove the discovery index first; the next look for plugins makes it anew.")
@config_option
@json_option
def doctor(required: tuple[str, ...], clear_index: bool, config: Path | None, as_json: bool) -> None:
    """Say which isolation levels run here, why others do not, and what to install.

    Ends with code 4 when a level named by --require is missing or something a host needs is wrong.
    """
    from blackhole_core.cli.control.place import default_directory
    from blackhole_core.cli.doctor import examine

    if clear_index:
        from blackhole_core.registry import index

        index.clear_index()
    settings = find_config(config)
    state_dir = settings.path(settings.state_dir) if settings is not None and settings.state_dir is not None else None
    report = examine(state_dir, default_directory(os.environ, os.geteuid()))
    if as_json:
        print_json(report.as_dict(required))
    else:
        print_table(
            ("LEVEL", "HERE", "WHY NOT"), ((level, "no" if why else "yes", why or None) for level, why in report.levels.items()), empty=""
        )
        click.echo()
        facts = [
            *report.versions.items(),
            ("workers talk over", report.transport),
            ("workers start by", report.start),
            ("containers", report.containers),
            ("virtual machines", report.machines),
        ]
        facts += [(finding.what, finding.facts) for finding in report.findings]
        facts += [(f"plugins of group {group}", str(number)) for group, number in report.groups.items()]
        print_table(("CHECKED", "FOUND"), facts, empty="")
        for problem in report.problems(required):
            click.echo(f"blackhole: {clean(problem)}", err=True)
    raise SystemExit(Exit.PROBLEMS if report.problems(required) else Exit.OK)


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@group_option
@json_option
def check(paths: tuple[Path, ...], group: str | None, as_json: bool) -> None:
    """Check plugins before they are released: directories, wheels, manifests. Prints every problem, imports nothing.

    Each problem is one line: file:line: path: wanted, got. Ends with code 4 when there is one.
    """
    from blackhole_core.registry.check import check_path

    if group is None and (config := find_config(None)) is not None:
        group = config.project
    found: list[Problem] = []
    sound: list[str] = []
    for path in paths:
        problems, manifest = check_path(path, group=group) if os.path.lexists(path) else ([_nothing_at(path)], None)
        found += problems
        if not problems:
            sound.append(f"{path}: {manifest.id} is sound" if manifest is not None else f"{path}: sound, a plugin without a manifest")
    if as_json:
        print_json({"ok": not found, "problems": [_problem_as_dict(problem) for problem in found]})
    else:
        for line in (*map(str, found), *sound):
            click.echo(clean(line))
    raise SystemExit(Exit.PROBLEMS if found else Exit.OK)


def _nothing_at(path: Path) -> Problem:
    from blackhole_core.errors import Problem

    return Problem(
        file=str(path), line=None, path="", wanted="a plugin directory, a wheel or a plugin.yaml", got="nothing, there is no such file"
    )


def _problem_as_dict(problem: Problem) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in ("file", "line", "path", "wanted", "got")}


@click.command("list")
@group_option
@source_option
@config_option
@json_option
def list_plugins(group: str | None, sources: tuple[Path, ...], config: Path | None, as_json: bool) -> None:
    """List the plugins there are, installed or at a source, and what was found and cannot be used. Imports nothing."""
    with lend_registry(group, sources, config) as registry:
        candidates = [candidate for found in registry.candidates().values() for candidate in found]
        problems = registry.problems()
        if as_json:
            print_json(
                {
                    "group": registry.group,
                    "plugins": [_candidate_as_dict(candidate) for candidate in candidates],
                    "problems": [{"name": problem.name, "source": str(problem.source), "reason": problem.reason} for problem in problems],
                }
            )
            return
        rows = ((item.name, item.id.version, _level(item), item.origin.value, item.source, _description(item)) for item in candidates)
        print_table(
            ("NAME", "VERSION", "LEVEL", "ORIGIN", "SOURCE", "DESCRIPTION"),
            rows,
            empty=f"no plugin of group {registry.group} is installed; look elsewhere too with --source",
        )
        for problem in problems:
            click.echo(f"blackhole: {clean(f'{problem.name} at {problem.source} cannot be used: {problem.reason}')}", err=True)


@click.command()
@click.argument("name", shell_complete=plugin_names)
@group_option
@source_option
@config_option
@host_options
@json_option
def info(name: str, group: str | None, sources: tuple[Path, ...], config: Path | None, where: Where, as_json: bool) -> None:
    """Tell all about one plugin: what it declares and needs, and how it fares when a host is running."""
    from blackhole_core.registry.requirements import missing_requirements

    with lend_registry(group or where.project, sources, config) as registry:
        candidate = registry.find(name)
        facts = {
            **_candidate_as_dict(candidate),
            "missing_requirements": list(missing_requirements(candidate)),
            "refused": registry.allows(candidate.name),
            "manifest": _manifest_as_dict(candidate),
            "running": _live(where if where.project or where.socket else Where(registry.group, None), candidate.name),
        }
    if as_json:
        print_json(facts)
        return
    live = facts["running"] or {}
    enforcement = live.pop("enforcement", {})
    print_table(("WHAT", "VALUE"), _flat(facts), empty="")
    if enforcement:
        click.echo()
        print_table(("PERMISSION OR LIMIT", "ENFORCED BY"), enforcement.items(), empty="")


def _live(where: Where, name: str) -> dict[str, Any] | None:
    """Return the plugin's live data, None when no host is running or it does not have the plugin."""
    from blackhole_core.cli.control.protocol import Describe
    from blackhole_core.cli.failing import HostFailure, NoHost

    try:
        live: dict[str, Any] = where.client().ask(Describe(name), seconds=5.0)
    except NoHost:
        return None
    except HostFailure as error:
        if error.type_name == "UnknownPlugin":
            return None
        raise
    return live


@contextmanager
def lend_registry(group: str | None, sources: tuple[Path, ...], config_path: Path | None) -> Iterator[PluginRegistry]:
    """Lend a registry of the group, with a store that is removed again."""
    from blackhole_core.registry.registry import PluginRegistry
    from blackhole_core.registry.store import WheelStore
    from blackhole_core.scratch import Scratch

    config = find_config(config_path)
    if group is None and config is not None:
        group = config.project
    if group is None:
        raise click.UsageError("say of which host: --group NAME, or a blackhole.yaml here that names its project")
    with Scratch() as scratch:
        store = WheelStore(scratch.new("list"))
        try:
            registry = PluginRegistry(
                group, store=store, allow=config.allow if config is not None else None, deny=config.deny if config is not None else ()
            )
            for source in (*(config.path(text) for text in config.sources), *sources) if config is not None else sources:
                registry.add_source(source)
            yield registry
        finally:
            store.clear()


def _level(candidate: Candidate) -> str | None:
    """Return the level the plugin asks for; None leaves it to the host."""
    return candidate.manifest.isolation.value if candidate.manifest is not None else None


def _description(candidate: Candidate) -> str:
    return candidate.manifest.description if candidate.manifest is not None else ""


def _candidate_as_dict(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "version": candidate.id.version,
        "level": _level(candidate),
        "description": _description(candidate),
        "origin": candidate.origin.value,
        "source": str(candidate.source),
        "distribution": candidate.distribution,
        "entry": candidate.entry,
        "digest": candidate.digest,
    }


def _manifest_as_dict(candidate: Candidate) -> Any:
    from blackhole_core.cli.control.plain import jsonable

    return None if candidate.manifest is None else jsonable(candidate.manifest)


def _flat(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values, leaving out what is empty."""
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value not in (None, "", [], {}):
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else value
