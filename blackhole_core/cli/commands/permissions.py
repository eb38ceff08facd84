"""``blackhole permissions``, ``grant`` and ``revoke``: of a running host, or of the file of grants when none runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from blackhole_core.cli.commands.look import config_option, group_option, lend_registry, source_option
from blackhole_core.cli.commands.operate import OPERATION, QUICK
from blackhole_core.cli.failing import NoHost
from blackhole_core.cli.output import clean, json_option, print_json, print_table
from blackhole_core.cli.where import Where, find_config, host_options, plugin_names

if TYPE_CHECKING:
    from blackhole_core.cli.control.protocol import Request
    from blackhole_core.config import HostConfig
    from blackhole_core.lifecycle.permits import Permits

__all__ = ["grant", "permissions", "revoke"]

_plugin = click.argument("name", shell_complete=plugin_names)
_permissions = click.argument("permissions", metavar="PERMISSION...", nargs=-1, required=True)


@click.command()
@_plugin
@group_option
@source_option
@config_option
@host_options
@json_option
def permissions(name: str, group: str | None, sources: tuple[Path, ...], config: Path | None, where: Where, as_json: bool) -> None:
    """Show what a plugin asks for, what it was granted, and what enforces that.

    Where no host is running, the plugin is looked for and the grants are those of the configuration and its state directory.
    """
    from blackhole_core.cli.control.protocol import Permissions

    offline = _Offline(where, config)
    found = offline.or_ask(Permissions(name), QUICK, lambda permits: _of_candidate(permits, name, group or where.project, sources, config))
    if as_json:
        print_json(found)
        return
    print_table(("PERMISSION", "LEVEL", "ASKED", "GRANTED", "ENFORCED"), _rows(found), empty=f"{clean(name)} asks for nothing")
    if found["outdated"]:
        click.echo(clean(f"{name} runs with other permissions than it would start with now: blackhole reload {name}"))


@click.command()
@_plugin
@_permissions
@click.option("--versions", metavar="RANGE", default="", help="Only for versions in this PEP 440 range; any if left out.")
@click.option("--digest", metavar="HEX", help="Only for the code with this digest, which info shows.")
@config_option
@host_options
@json_option
def grant(
    name: str, permissions: tuple[str, ...], versions: str, digest: str | None, config: Path | None, where: Where, as_json: bool
) -> None:
    """Grant permissions to a plugin, from its next start on.

    Where no host is running, they are written into the state directory of the configuration.
    """
    from blackhole_core.cli.control.protocol import Grant

    def offline(permits: Permits) -> dict[str, Any]:
        return {"plugin": name, "granted": list(permits.grant(name, permissions, versions, digest)), "now": None}

    done = _Offline(where, config).or_ask(Grant(name, list(permissions), versions, digest), QUICK, offline)
    if as_json:
        print_json(done)
        return
    for permission in done["granted"]:
        click.echo(clean(f"{name} is granted {permission} (level {_level(permission)})"))
    for line in _next_step(name, done["now"], done["granted"]):
        click.echo(clean(line))


@click.command()
@_plugin
@_permissions
@config_option
@host_options
@json_option
def revoke(name: str, permissions: tuple[str, ...], config: Path | None, where: Where, as_json: bool) -> None:
    """Take permissions, and whatever lies in them, from a plugin.

    What the host does for a running worker stops at once, walls are built anew by a swap of the plugin for itself; what remains open is said.
    """
    from blackhole_core.cli.control.protocol import Revoke

    def offline(permits: Permits) -> dict[str, Any]:
        return {"plugin": name, "revoked": list(permits.revoke(name, permissions)), "remains": "", "now": None}

    done = _Offline(where, config).or_ask(Revoke(name, list(permissions)), OPERATION, offline)
    if as_json:
        print_json(done)
        return
    for permission in done["revoked"]:
        click.echo(clean(f"{permission} is revoked from {name}"))
    if not done["revoked"]:
        click.echo(clean(f"nothing of that was granted to {name}"))
    if done["remains"]:
        click.echo(f"blackhole: {clean(done['remains'])}", err=True)


# --- without a host -----------------------------------------------------------------------------------------------------


@attrs.frozen
class _Offline:
    """A host that may be running, and its configuration, which says where its grants are."""

    where: Where
    config: Path | None

    def or_ask(self, request: Request, seconds: float, offline: Any) -> Any:
        """Return the running host's answer, or where none runs what ``offline`` makes of the grants in its state directory.

        :raises NoHost: none runs, and nobody says where its grants would be.
        """
        config = find_config(self.config)
        where = self.where
        if self.config is not None and config is not None and where.project is None and where.socket is None:
            where = Where(config.project, None)
        try:
            return where.client().ask(request, seconds=seconds)
        except NoHost as error:
            if config is None or self.where.socket is not None or self.where.project not in (None, config.project):
                raise
            return offline(_permits(config, error))


def _permits(config: HostConfig, error: NoHost) -> Permits:
    from blackhole_core.lifecycle.grantfile import FileGrants
    from blackhole_core.lifecycle.permits import Permits

    if config.state_dir is None:
        raise NoHost(f"{error}; and the configuration names no state_dir in which grants are kept") from error
    return Permits(FileGrants(config.path(config.state_dir)), lambda name: config.plugin(name).grant, lambda *_, **__: None)


def _of_candidate(permits: Permits, name: str, group: str | None, sources: tuple[Path, ...], config: Path | None) -> dict[str, Any]:
    from blackhole_core.cli.control.permitted import permissions_as_dict

    with lend_registry(group, sources, config) as registry:
        candidate = registry.find(name)
    found = permissions_as_dict(candidate.name, permits.permissions(candidate.name, candidate, None), version=candidate.id.version)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


# --- in words -----------------------------------------------------------------------------------------------------------


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str | None]]:
    for asked in ("required", "optional"):
        for permission in found[asked]:
            yield permission, found["levels"][permission], asked, _given(permission, found), found["enforcement"].get(permission)
    for permission in found["granted"]:
        if permission not in (*found["required"], *found["optional"]):
            yield permission, found["levels"][permission], "-", "yes", None
    for permission in found["withdrawn"]:
        yield permission, found["levels"][permission], "-", "withdrawn", None


def _given(permission: str, found: dict[str, Any]) -> str:
    from blackhole_core.manifest.coverage import covers
    from blackhole_core.manifest.permissions import parse_permission

    if found["levels"][permission] == "normal":
        return "not needed"
    if permission not in found["missing"]:
        return "yes"
    asked = parse_permission(permission)
    parts = [part for part in found["effective"] if covers(asked, parse_permission(part))]
    return f"only {', '.join(parts)}" if parts else "no"


def _level(permission: str) -> str:
    from blackhole_core.manifest.permissions import level_of, parse_permission

    return level_of(parse_permission(permission)).value


def _next_step(name: str, now: dict[str, Any] | None, granted: list[str]) -> Iterator[str]:
    """Yield what the operator may want to know or do after a grant; ``now`` is None where no host runs or it does not know the plugin."""
    from blackhole_core.manifest.coverage import meet
    from blackhole_core.manifest.permissions import parse_permission

    if now is None:
        return
    asked = [parse_permission(text) for text in (*now["required"], *now["optional"])]
    for text in granted:
        if not any(meet(one, parse_permission(text)) for one in asked):
            yield f"{now['name']} {now['version'] or ''} does not ask for {text}, and has it only when a version does"
    if now["phase"] == "failed":
        yield f"load it with: blackhole load {name}"
    elif now["outdated"]:
        yield f"it runs without that until: blackhole reload {name}"
