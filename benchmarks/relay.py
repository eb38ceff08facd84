"""The network of a worker behind walls beside a direct connection: ``python -m benchmarks relay [--json FILE] [--check]``.

A plugin at level process talks to a server in another process over the loopback interface: round trips of 64 bytes, 16 MB each way, and
connections made and closed. Behind walls that goes through the relay of the host, without walls the very same plugin connects directly. The plugin
takes the times itself; loopback is the worst case for the relay, since nothing else takes any.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import socketserver
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import blackhole_core as bh
from benchmarks.harness import Case, main

_MB: Final = 1 << 20
#: Bytes of a round trip, and of a transfer: large enough that a connection's begin does not count.
_SMALL, _LARGE = 64, 16 * _MB

_MANIFEST: Final = """
name: {name}
version: 1.0.0
entry: {name}:Plugin
isolation: process
permissions: ["network:connect:127.0.0.1"]
"""
_SOURCE: Final = f"""
import socket
import time

import blackhole_core as bh

hookimpl = bh.HookimplMarker("bench")


class Plugin:
    def __init__(self):
        self.sock = None

    def _connect(self, port):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    @hookimpl
    def measure(self, what: str, port: int, count: int) -> float:
        if self.sock is None:
            self.sock = self._connect(port)
        run = getattr(self, what)
        begun = time.perf_counter()
        for _ in range(count):
            run(port)
        return time.perf_counter() - begun

    def connect(self, port):
        self._connect(port).close()

    def round_trip(self, port):
        self.sock.sendall(bytes([0]) + bytes({_SMALL - 1}))
        self.sock.recv({_SMALL}, socket.MSG_WAITALL)

    def send(self, port):
        self.sock.sendall(bytes([1]) + bytes({_SMALL - 1}))
        self.sock.sendall(bytes({_LARGE}))
        self.sock.recv(1)

    def receive(self, port):
        self.sock.sendall(bytes([2]) + bytes({_SMALL - 1}))
        left = {_LARGE}
        while left:
            left -= len(self.sock.recv(min(left, 1 << 18)))
"""


class _Specs:
    @bh.HookspecMarker("bench")(firstresult=True)
    def measure(self, what: str, port: int, count: int) -> float: ...


class _Handler(socketserver.BaseRequestHandler):
    """Answers each request of 64 bytes, by its first: the same again, one byte when 16 MB have come, or 16 MB."""

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        page = bytes(_LARGE)
        with contextlib.suppress(ConnectionError):
            while request := self.request.recv(_SMALL, socket.MSG_WAITALL):
                if request[0] == 0:
                    self.request.sendall(request)
                elif request[0] == 1:
                    left = _LARGE
                    while left:
                        left -= len(self.request.recv(min(left, 1 << 18)))
                    self.request.sendall(b"x")
                else:
                    self.request.sendall(page)


def _serve(told: Connection) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        told.send(server.server_address[1])
        server.serve_forever()


@contextlib.contextmanager
def _server() -> Iterator[int]:
    """A server in a process of its own: in this one it would share the interpreter with the relay."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,))
    process.start()
    yield here.recv()
    process.kill()
    process.join()


@contextlib.contextmanager
def _plugin(directory: Path, name: str, sandbox: str) -> Iterator[Callable[..., Any]]:
    source = directory / name
    source.mkdir()
    (source / "plugin.yaml").write_text(_MANIFEST.format(name=name))
    (source / f"{name}.py").write_text(_SOURCE)
    config = {"sandbox": sandbox, "plugins": {name: {"grant": ["network:connect:127.0.0.1"]}}}
    with bh.PluginManager("bench", config=config) as pm:
        pm.add_hookspecs(_Specs)
        pm.load(name, source=source)
        yield pm.hook.measure


def run() -> int:
    """Measure and print."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(_server())
        ways = {
            "relay": stack.enter_context(_plugin(directory, "walled", "native")),
            "direct": stack.enter_context(_plugin(directory, "open", "off")),
        }
        rows = {
            "round trip of 64 bytes": "round_trip",
            "16 MB to a server": "send",
            "16 MB from a server": "receive",
            "connection": "connect",
        }

        def loop(measure: Callable[..., Any], what: str) -> Callable[[int], float]:
            return lambda count: measure(what=what, port=port, count=count)

        cases = [Case(row, way, loop(measure, what)) for row, what in rows.items() for way, measure in ways.items()]
        return main("The network behind walls", "relay", cases, known_slower=rows)


if __name__ == "__main__":
    raise SystemExit(run())
