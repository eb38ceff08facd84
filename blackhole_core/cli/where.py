"""Which host a command means: the options for it, and the rule when none is given."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
import click

from blackhole_core.cli.failing import NoHost

if TYPE_CHECKING:
    from blackhole_core.cli.control.client import ControlClient
    from blackhole_core.config import HostConfig

__all__ = ["CONFIG_NAME", "Where", "find_config", "host_options", "plugin_names"]

#: What a configuration is called where a command looks for one by itself.
CONFIG_NAME: Final = "blackhole.yaml"

_F = TypeVar("_F", bound=Callable[..., Any])


@attrs.frozen
class Where:
    """What the command line says of the host."""

    project: str | None = None
    socket: Path | None = None

    def client(self) -> ControlClient:
        """Return a client of the host that is meant.

        :raises NoHost: it cannot be told which one that is. :raises UnsafePlace: the socket is not safe to use.
        """
        from blackhole_core.cli.control.client import ControlClient

        return ControlClient(self.path())

    def path(self) -> Path:
        """Return the socket: the one that is named, that of the project, of ``./blackhole.yaml``, or the only one there is."""
        from blackhole_core.cli.control.claim import sweep
        from blackhole_core.cli.control.place import check_directory, socket_path, sockets_in

        if self.socket is not None:
            return self.socket
        directory = _directory()
        project = self.project or _project_here()
        if os.path.lexists(directory):
            check_directory(directory, os.geteuid())
        if project is not None:
            return socket_path(project, directory)
        sweep(directory)
        found = sockets_in(directory)
        if len(found) == 1:
            return found[0]
        if not found:
            raise NoHost("no host is running; start one with: blackhole run")
        names = ", ".join(path.stem for path in found)
        raise NoHost(f"several hosts are running ({names}); say which with --project")

    def place(self, project: str) -> Path:
        """Return where the host of ``project`` is to listen; the directory is made and checked.

        :raises UnsafePlace: it is not safe.
        """
        from blackhole_core.cli.control.claim import sweep
        from blackhole_core.cli.control.place import check_directory, checked_length, make_directory, socket_path

        if self.socket is not None:
            check_directory(self.socket.parent, os.geteuid())
            return checked_length(self.socket)
        directory = _directory()
        make_directory(directory, os.geteuid())
        sweep(directory)
        return socket_path(project, directory)


def _directory() -> Path:
    from blackhole_core.cli.control.place import default_directory

    return default_directory(os.environ, os.geteuid())


def _project_here() -> str | None:
    config = find_config(None)
    return config.project if config is not None else None


def find_config(path: Path | None) -> HostConfig | None:
    """Return the configuration at ``path``, or ``./blackhole.yaml`` when there is one and no path is given.

    :raises ConfigError: every problem in it. :raises OSError: it cannot be read.
    """
    from blackhole_core.config import read_config

    if path is None and not Path(CONFIG_NAME).is_file():
        return None
    return read_config(path or Path(CONFIG_NAME))


def host_options(command: _F) -> _F:
    """Add ``--project`` and ``--socket``; the command gets them as one argument ``where``."""
    import functools

    @functools.wraps(command)
    def with_where(*args: Any, project: str | None, socket: Path | None, **kwargs: Any) -> Any:
        return command(*args, where=Where(project, socket), **kwargs)

    with_project = click.option(
        "--project", metavar="NAME", help="The host's project; by default that of ./blackhole.yaml, or the only host running."
    )
    with_socket = click.option(
        "--socket",
        type=click.Path(path_type=Path, resolve_path=True),
        envvar="BLACKHOLE_SOCKET",
        show_envvar=True,
        help="The host's control socket, in place of the one of the project.",
    )
    return with_project(with_socket(with_where))  # type: ignore[return-value]  # click returns what it decorates


def plugin_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a plugin's name from the running host; quick or not at all, a shell must not hang on Tab."""
    from blackhole_core.cli.control.client import ControlClient
    from blackhole_core.cli.control.protocol import Plugins
    from blackhole_core.errors import BlackholeError

    try:
        path = Where(ctx.params.get("project"), ctx.params.get("socket")).path()
        plugins = ControlClient(path, connect_seconds=0.3).ask(Plugins(), seconds=0.5)
    except (BlackholeError, OSError):  # no host: then there is nothing to complete
        return []
    return [plugin["name"] for plugin in plugins if plugin["name"].startswith(incomplete)]
