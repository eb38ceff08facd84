"""Commands that ask a running host about its plugins, or to do something with one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import click

from blackhole_core.cli.output import clean, json_option, print_json
from blackhole_core.cli.where import Where, host_options, plugin_names
from blackhole_core.ids import Isolation

__all__ = ["OPERATION", "QUICK", "call", "load", "reload", "rollback", "swap", "unload"]

#: Seconds to wait for an answer that needs no plugin.
QUICK: Final = 10.0
#: Seconds to wait for a load, swap or unload. The host's own deadlines (start, drain, state) end each much earlier, unless set very high.
OPERATION: Final = 600.0
#: Seconds on top of a call's own deadline until the command gives up on the host.
_MARGIN: Final = 5.0

_plugin = click.argument("name", shell_complete=plugin_names)
_isolation = click.option(
    "--isolation", type=click.Choice([level.value for level in Isolation]), help="The level to run at, whatever the manifest says."
)
_source = click.option(
    "--source", type=click.Path(path_type=Path, exists=True), help="Take it from this directory, wheel or directory of wheels."
)


@click.command()
@click.argument("words", metavar="HOOK [NAME=VALUE]... | [METHOD]", nargs=-1)
@click.option("--plugin", metavar="NAME", shell_complete=plugin_names, help="Ask this plugin's plugin_handle, in place of calling a hook.")
@click.option("--params", metavar="JSON", help="With --plugin: the request's parameters, a JSON object.")
@click.option("--data", metavar="TEXT", help="With --plugin: the request's data.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True, help="Seconds to wait for the answer."
)
@host_options
@json_option
def call(
    words: tuple[str, ...], plugin: str | None, params: str | None, data: str | None, timeout: float, where: Where, as_json: bool
) -> None:
    """Call a hook of the running host, or one plugin with --plugin.

    A VALUE is read as JSON where the hook's spec wants a number, list or object, and as text where it wants text.
    """
    from blackhole_core.cli.control.protocol import Call, Execute

    if plugin is None:
        if params is not None or data is not None:
            raise click.UsageError("--params and --data go with --plugin")
        if not words:
            raise click.UsageError("say which hook to call, or which plugin with --plugin")
        hook, *pairs = words
        request: Call | Execute = Call(hook, dict(_pair(text) for text in pairs), timeout)
    else:
        if len(words) > 1:
            raise click.UsageError("with --plugin there is at most one METHOD; parameters go into --params")
        request = Execute(plugin, words[0] if words else None, _params(params), (data or "").encode(), timeout)
    answer = where.client().ask(request, seconds=timeout + _MARGIN)
    if as_json:
        print_json(answer)
        return
    for item in answer if isinstance(request, Call) and isinstance(answer, list) else [answer]:
        click.echo(_shown(item))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise click.UsageError(f"an argument of a hook is NAME=VALUE, got {text!r}")
    return name, value


def _params(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        params = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--params is no JSON: {error}") from error
    if not isinstance(params, dict):
        raise click.UsageError(f"--params is a JSON object, got {text!r}")
    return params


def _shown(answer: Any) -> str:
    """Return an answer as people read it: text as it is, bytes that are text as text, all else as JSON."""
    if isinstance(answer, str):
        return clean(answer)
    if isinstance(answer, dict) and answer.keys() == {"base64"}:
        import base64

        try:
            return clean(base64.b64decode(answer["base64"]).decode())
        except UnicodeDecodeError:
            pass
    return json.dumps(answer, ensure_ascii=False)


@click.command()
@_plugin
@click.argument("version", required=False)
@_source
@_isolation
@host_options
@json_option
def load(name: str, version: str | None, source: Path | None, isolation: str | None, where: Where, as_json: bool) -> None:
    """Load a plugin into the running host."""
    from blackhole_core.cli.control.protocol import Load

    plugin = where.client().ask(Load(name, version, _absolute(source), isolation), seconds=OPERATION)
    if as_json:
        print_json(plugin)
    else:
        click.echo(clean(f"{plugin['name']} {plugin['version'] or '(no version)'} is {plugin['phase']} at level {plugin['isolation']}"))


@click.command()
@_plugin
@host_options
def unload(name: str, where: Where) -> None:
    """Take a plugin out of the running host; calls that had begun end first."""
    from blackhole_core.cli.control.protocol import Unload

    where.client().ask(Unload(name), seconds=OPERATION)
    click.echo(f"{clean(name)} is unloaded")


@click.command()
@_plugin
@click.argument("version", required=False)
@_source
@_isolation
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait for calls that had begun.")
@click.option("--force", is_flag=True, help="Go on when they have not ended by then.")
@host_options
@json_option
def swap(
    name: str,
    version: str | None,
    source: Path | None,
    isolation: str | None,
    timeout: float | None,
    force: bool,
    where: Where,
    as_json: bool,
) -> None:
    """Replace a plugin by another version or level while calls flow; by default by the highest version there is."""
    from blackhole_core.cli.control.protocol import Swap

    request = Swap(name, version, _absolute(source), isolation, timeout, force)
    _show_report(where.client().ask(request, seconds=OPERATION + (timeout or 0.0)), as_json)


@click.command()
@_plugin
@click.option("--force", is_flag=True, help="Where the state cannot be migrated back, give back the state from before the swap.")
@host_options
@json_option
def rollback(name: str, force: bool, where: Where, as_json: bool) -> None:
    """Go back to the version before the last swap, with the state as it is now."""
    from blackhole_core.cli.control.protocol import Rollback

    _show_report(where.client().ask(Rollback(name, force), seconds=OPERATION), as_json)


@click.command()
@_plugin
@host_options
@json_option
def reload(name: str, where: Where, as_json: bool) -> None:
    """Swap a plugin to what stands at its own source now; load it if it is not running."""
    from blackhole_core.cli.control.protocol import Reload

    report = where.client().ask(Reload(name), seconds=OPERATION)
    if report is None and not as_json:
        click.echo(f"{clean(name)} was not running and is loaded")
    else:
        _show_report(report, as_json)


def _show_report(report: dict[str, Any] | None, as_json: bool) -> None:
    if as_json:
        print_json(report)
    elif report is not None:
        click.echo(clean(report["text"]))
        if report["state_lost"] is not None:
            click.echo(f"blackhole: {clean(report['state_lost'])}", err=True)


def _absolute(path: Path | None) -> str | None:
    """Return a path as the host can use it, which has another working directory. Links are kept: the host follows them."""
    return None if path is None else str(path.absolute())
