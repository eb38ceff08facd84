"""A plugin that uses the network as any program does, and servers for it to talk to. Its text is a piece of Python, so each test says what the plugin does."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from blackhole_core.executor.confinement import Confinement, Sandbox, Unenforced
from tests.stage import Running, Stage

__all__ = ["PLUGIN", "Client", "confined", "serve_echo", "serving"]

#: What ``transform`` runs is the body of a function ``main``, whose result is the answer; what it puts into ``kept`` is there for the next one.
PLUGIN = """
import textwrap
kept = {}
class Plugin:
    @hookimpl
    def transform(self, text: str) -> str:
        names = {"kept": kept}
        exec("def main():\\n" + textwrap.indent(text, "    "), names)
        try:
            return repr(names["main"]())
        except Exception as error:
            return f"{type(error).__name__}: {error}"
"""


def confined(*permissions: str, also: tuple[str, ...] = (), **options: Any) -> Confinement:
    """Return walls with a door for ``permissions``; ``also`` was granted and not asked for."""
    return Confinement(Sandbox.NATIVE, Unenforced.ALLOW, requested=permissions, granted=(*permissions, *also), **options)


@attrs.frozen(eq=False)
class Client:
    """The plugin in its worker."""

    running: Running

    @classmethod
    def start(
        cls, stage: Stage, directory: Path, confinement: Confinement, name: str = "client", level: str = "process", **options: Any
    ) -> Client:
        return cls(stage.start(name, level, confinement=confinement, **stage.write(directory / name, PLUGIN, name), **options))

    def __call__(self, program: str) -> str:
        """Run the lines of ``program`` in the plugin and return the repr of what it returns, or what it raises."""
        answer = self.running("transform", program)
        assert isinstance(answer, str)
        return answer


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], object]) -> Iterator[int]:
    """Serve on a port of 127.0.0.1: ``handle`` gets each connection, on a thread of its own. At the end they are cut, and all threads end."""
    connections: list[socket.socket] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(self.request)
            with contextlib.suppress(ConnectionError):  # a client that goes away is a case
                handle(self.request)

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 256

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
            for connection in connections:
                with contextlib.suppress(OSError):  # it has ended
                    connection.shutdown(socket.SHUT_RDWR)


def serve_echo(connection: socket.socket) -> None:
    """Send back what comes, until the end of it."""
    while data := connection.recv(1 << 16):
        connection.sendall(data)
