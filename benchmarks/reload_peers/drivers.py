"""The driver's side of every contender: make an edit, and say after how many seconds the new code answered."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from benchmarks.reload_peers.tree import Tree, plant

__all__ = ["Driver", "InProcess", "NeverSeen", "Server"]

#: Seconds a contender may take to come up, and to answer an edit.
_PATIENCE: Final = 15.0

#: Seconds between two requests to a server, on one kept connection; a request takes 1 ms.
_PAUSE: Final = 0.001

_APP: Final = """VALUE = {value}


async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(VALUE)))]}})
    await send({{"type": "http.response.body", "body": str(VALUE).encode()}})
"""


class NeverSeen(RuntimeError):
    """An edit that was not answered in time."""


class Driver(Protocol):
    """One contender, ready; closed at the end of the ``with`` block."""

    name: str

    def edit(self, number: int) -> float:
        """Make the ``number``-th edit and return the seconds from closing the file to the first answer of the new code."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None: ...


class InProcess:
    """A contender of :mod:`benchmarks.reload_peers.contender`, with a plugin of its own."""

    def __init__(self, name: str, contender: str, folder: Path, files: int) -> None:
        self.name = name
        self._tree: Tree = plant(folder / contender.replace(".", "_"), files)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.reload_peers.contender", contender, str(self._tree.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        self._line()

    def edit(self, number: int) -> float:
        index = number * 7 % len(self._tree.modules)
        self._tree.edit(index, number)
        closed = time.monotonic_ns()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{index} {number}\n")
        self._process.stdin.flush()
        seen = int(self._line())
        if not seen:
            raise NeverSeen(f"{self.name} never answered edit {number} of {self._tree.modules[index].name}")
        return (seen - closed) / 1e9

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with status {self._process.wait(_PATIENCE)}")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Server:
    """``uvicorn --reload`` with an application of one file, asked over HTTP on loopback."""

    name = "uvicorn"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "uvicorn"
        self._folder.mkdir()
        self._write(0)
        self._port = _free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "served:app", "--reload", "--port", str(self._port), "--log-level", "critical"],
            cwd=self._folder,
            env=_environment(),
        )
        self._await(0)

    def edit(self, number: int) -> float:
        self._write(number)
        closed = time.monotonic()
        return self._await(number) - closed

    def _write(self, value: int) -> None:
        (self._folder / "served.py").write_text(_APP.format(value=value) + "#" * (value % 60) + "\n")

    def _await(self, value: int) -> float:
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if self._ask() == value:
                return time.monotonic()
            time.sleep(_PAUSE)
        raise NeverSeen(f"uvicorn never served edit {value}")

    def _ask(self) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE)
        try:
            connection.request("GET", "/")
            return int(connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            return None  # it is being started
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _environment() -> dict[str, str]:
    """Return this environment with byte code written as usual: a variable that prevents it is set on some machines."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
