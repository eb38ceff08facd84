"""The peers of :mod:`benchmarks.process_call`: each answers ``echo(value)`` in another process. ``python -m benchmarks.process_peers NAME SOCKET`` serves one.

Every peer is used the way its documentation shows for a trusted local service, over a unix socket where it has the choice.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

__all__ = ["PEERS", "SUBMITTING"]

#: Makes one call and waits for the answer.
Caller = Callable[[dict[str, Any]], Any]
#: Begins a call; ``result()`` waits for the answer.
Submitter = Callable[[dict[str, Any]], Any]

#: Seconds until a peer's server must answer.
_PATIENCE: Final = 20
_GRPC_METHOD: Final = "/echo.Echo/echo"


def echo(value: dict[str, Any]) -> dict[str, Any]:
    """Return the value; what the peers' workers run."""
    return value


# --- multiprocessing and concurrent.futures --------------------------------------------------------------------------


def _answer(connection: Connection) -> None:
    while (value := connection.recv()) is not None:
        connection.send(value)


@contextlib.contextmanager
def _pipe() -> Iterator[Caller]:
    """Ping-pong over a ``multiprocessing.Pipe``: no protocol, one caller only."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there,))
    process.start()

    def call(value: dict[str, Any]) -> Any:
        here.send(value)
        return here.recv()

    yield call
    here.send(None)
    process.join()


@contextlib.contextmanager
def _pool_submitting() -> Iterator[Submitter]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:

        def submit(value: dict[str, Any]) -> Future[Any]:
            return pool.submit(echo, value)

        yield submit


@contextlib.contextmanager
def _pool() -> Iterator[Caller]:
    with _pool_submitting() as submit:
        yield lambda value: submit(value).result()


# --- remote procedure calls ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _served(name: str) -> Iterator[str]:
    """Yield the path of a unix socket on which a process of this program serves ``name``."""
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory, "socket")
        server = subprocess.Popen([sys.executable, "-m", "benchmarks.process_peers", name, str(socket)])
        try:
            until = time.monotonic() + _PATIENCE
            while not socket.exists():
                if server.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the server of {name} did not come up")
                time.sleep(0.01)
            yield str(socket)
        finally:
            server.kill()
            server.wait()


@contextlib.contextmanager
def _rpyc() -> Iterator[Caller]:
    import rpyc

    with _served("rpyc") as socket:
        connection = rpyc.utils.factory.unix_connect(socket, config={"allow_pickle": True})
        remote = connection.root.echo
        yield lambda value: pickle.loads(remote(pickle.dumps(value)))  # rpyc would proxy a dict; its users pickle what should be copied
        connection.close()


@contextlib.contextmanager
def _pyro() -> Iterator[Caller]:
    import Pyro5.api

    with _served("Pyro5") as socket, Pyro5.api.Proxy(f"PYRO:echo@./u:{socket}") as proxy:
        yield lambda value: proxy.echo(value)


@contextlib.contextmanager
def _grpc_submitting() -> Iterator[Submitter]:
    import grpc

    with _served("grpcio") as socket, grpc.insecure_channel(f"unix:{socket}") as channel:
        method = channel.unary_unary(_GRPC_METHOD, request_serializer=pickle.dumps, response_deserializer=pickle.loads)
        method({}, wait_for_ready=True, timeout=_PATIENCE)
        yield lambda value: method.future(value)


@contextlib.contextmanager
def _grpc() -> Iterator[Caller]:
    import grpc

    with _served("grpcio") as socket, grpc.insecure_channel(f"unix:{socket}") as channel:
        method = channel.unary_unary(_GRPC_METHOD, request_serializer=pickle.dumps, response_deserializer=pickle.loads)
        method({}, wait_for_ready=True, timeout=_PATIENCE)
        yield method


#: Contender → a context that yields its caller.
PEERS: Final[dict[str, Callable[[], contextlib.AbstractContextManager[Caller]]]] = {
    "multiprocessing.Pipe": _pipe,
    "ProcessPoolExecutor": _pool,
    "rpyc": _rpyc,
    "Pyro5": _pyro,
    "grpcio": _grpc,
}
#: Those that can have many calls outstanding.
SUBMITTING: Final[dict[str, Callable[[], contextlib.AbstractContextManager[Submitter]]]] = {
    "ProcessPoolExecutor": _pool_submitting,
    "grpcio": _grpc_submitting,
}


# --- their servers ---------------------------------------------------------------------------------------------------


def _serve_rpyc(socket: str) -> None:
    import rpyc
    from rpyc.utils.server import OneShotServer

    class Echo(rpyc.Service):
        def exposed_echo(self, data: bytes) -> bytes:
            return pickle.dumps(echo(pickle.loads(data)))

    OneShotServer(Echo, socket_path=socket).start()


def _serve_pyro(socket: str) -> None:
    import Pyro5.api

    class Echo:
        @Pyro5.api.expose
        def echo(self, value: dict[str, Any]) -> dict[str, Any]:
            return echo(value)

    daemon = Pyro5.api.Daemon(unixsocket=socket)
    daemon.register(Echo(), "echo")
    daemon.requestLoop()


def _serve_grpc(socket: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda value, _: echo(value), pickle.loads, pickle.dumps)

    server = grpc.server(ThreadPoolExecutor(1), handlers=(Handler(),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    {"rpyc": _serve_rpyc, "Pyro5": _serve_pyro, "grpcio": _serve_grpc}[sys.argv[1]](sys.argv[2])
