"""What a failed command says and with which code it ends: one sentence, never a traceback unless ``--debug`` asks for it."""

from __future__ import annotations

import errno
import traceback
from typing import Any

import click

from blackhole_core.cli.exits import Exit
from blackhole_core.errors import BlackholeError

__all__ = ["HostFailure", "NoHost", "ReportingGroup", "exit_code"]


class NoHost(BlackholeError):
    """No standing host can be reached for a command that needs one."""


class HostFailure(BlackholeError):
    """The host answered with an error. ``type_name`` is its type there, ``remote_traceback`` where it was raised."""

    def __init__(self, type_name: str, message: str, remote_traceback: str = "") -> None:
        self.type_name = type_name
        self.remote_traceback = remote_traceback
        super().__init__(message)


def exit_code(error: BaseException) -> Exit:
    """Return the exit code that an error ends the program with."""
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED
    return Exit.NO_HOST if isinstance(error, NoHost) else Exit.FAILED


class ReportingGroup(click.Group):
    """A group whose commands may raise: the error becomes a sentence on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # click ends quietly when the reader of a pipe is gone
            _report(error, debug=bool(ctx.params.get("debug")))
            ctx.exit(exit_code(error))


def _report(error: BaseException, *, debug: bool) -> None:
    if debug:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        if isinstance(error, HostFailure) and error.remote_traceback:
            click.echo(f"In the host:\n{error.remote_traceback}", err=True, nl=False)
    click.echo(_sentence(error), err=True)


def _sentence(error: BaseException) -> str:
    from blackhole_core.cli.output import clean

    def say(what: object) -> str:
        return f"blackhole: {clean(str(what))}"

    if isinstance(error, KeyboardInterrupt):
        return say("interrupted")
    if isinstance(error, BlackholeError):
        return say(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return say(f"{where}{error.strerror or error}")
    return say(f"{type(error).__name__}: {error} (this is a fault of blackhole itself; --debug shows where)")
