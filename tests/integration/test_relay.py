"""A plugin behind walls uses the network that it was granted, through the host, with the programs it has always used."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from blackhole_core.errors import WorkerDied
from blackhole_core.executor.confinement import Confinement
from blackhole_core.manifest.model import Resources
from tests.integration.managed import manager
from tests.integration.netclient import PLUGIN, Client, confined, serve_echo, serving
from tests.levels import require_level
from tests.stage import Stage, eventually

_MB = 1 << 20


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for ``localhost`` that signs itself, with its key."""
    directory = tmp_path_factory.mktemp("tls")
    options = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out certificate -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(["openssl", "req", "-x509", *options.split()], cwd=directory, check=True, capture_output=True)
    path = directory / "localhost.pem"
    path.write_text((directory / "key").read_text() + (directory / "certificate").read_text())
    return path


def _over_tls(certificate: Path, handle: Any) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def handle_tls(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            handle(secure)

    return handle_tls


def _serve_page(connection: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(4096)
    page = b"you asked for " + request.split()[1]
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(page), page))


def _localhost(port: int) -> Confinement:
    """The name is asked for and granted; the address it leads to, which is not public, is granted beside it."""
    return confined(f"network:connect:localhost:{port}", also=(f"network:connect:127.0.0.1:{port}", f"network:connect:[::1]:{port}"))


# --- what programs do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zygote", [True, False])
def test_a_granted_address_can_be_talked_to(zygote: bool, tmp_path: Path) -> None:
    """A socket connects, sends and receives, and says of itself what programs ask; in a worker that was forked and in one that was executed."""
    stage = Stage(zygote=zygote)
    try:
        with serving(serve_echo) as port:
            client = Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{port}"))
            program = f"""
import socket
with socket.create_connection(("127.0.0.1", {port}), timeout=10) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(b"ping")
    return sock.recv(4), sock.getpeername(), sock.family.name, sock.type.name, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
"""
            assert client(program) == f"(b'ping', ('127.0.0.1', {port}), 'AF_INET', 'SOCK_STREAM', 1)"
    finally:
        stage.close()


def test_urllib_gets_a_page_over_http_by_name(stage: Stage, tmp_path: Path) -> None:
    """A name is looked up in the host; the plugin's own look-up gives an address that stands for it."""
    with serving(_serve_page) as port:
        client = Client.start(stage, tmp_path, _localhost(port))
        assert (
            client(f"import urllib.request\nreturn urllib.request.urlopen('http://localhost:{port}/page').read()")
            == "b'you asked for /page'"
        )
        assert client("import socket\nreturn socket.gethostbyname('localhost')").startswith("'240.0.0.")


def test_urllib_gets_a_page_over_https(stage: Stage, tmp_path: Path, certificate: Path) -> None:
    """TLS goes from the plugin to the server: the plugin checks the server's certificate and name itself."""
    with serving(_over_tls(certificate, _serve_page)) as port:
        client = Client.start(stage, tmp_path, _localhost(port))
        program = f"""
import ssl, urllib.request
context = ssl.create_default_context(cadata={certificate.read_text()!r})
return urllib.request.urlopen("https://localhost:{port}/secret", context=context).read()
"""
        assert client(program) == "b'you asked for /secret'"
        assert "CERTIFICATE_VERIFY_FAILED" in client(
            f"import ssl, urllib.request\nreturn urllib.request.urlopen('https://localhost:{port}/', context=ssl.create_default_context()).read()"
        )


def test_the_authorities_of_this_machine_are_known_behind_walls(stage: Stage, tmp_path: Path) -> None:
    """A plugin that may use the network finds the certificates that its host has."""
    client = Client.start(stage, tmp_path, confined("network:connect:example.org:443"))
    known = len(ssl.create_default_context().get_ca_certs())
    assert client("import ssl\nreturn len(ssl.create_default_context().get_ca_certs())") == str(known)


def test_a_permission_that_goes_through_the_relay_is_called_brokered(stage: Stage, tmp_path: Path) -> None:
    """The kernel closes every other way, the host opens this one."""
    client = Client.start(stage, tmp_path, confined("network:connect:example.org:443"))
    assert client.running.runner.enforcement() == {"network:connect:example.org:443": "broker"}


def test_a_tls_socket_can_be_made_before_it_is_connected(stage: Stage, tmp_path: Path, certificate: Path) -> None:
    """What wraps a socket that is not connected connects it as any other."""
    with serving(_over_tls(certificate, serve_echo)) as port:
        client = Client.start(stage, tmp_path, _localhost(port))
        program = f"""
import socket, ssl
context = ssl.create_default_context(cadata={certificate.read_text()!r})
with context.wrap_socket(socket.socket(), server_hostname="localhost") as sock:
    sock.connect(("localhost", {port}))
    sock.sendall(b"secret")
    return sock.recv(100), sock.version()
"""
        assert client(program) == "(b'secret', 'TLSv1.3')"


def test_asyncio_connects_a_hundred_times_at_once(stage: Stage, tmp_path: Path) -> None:
    """An event loop waits for connections that are being made, and talks over all of them."""
    with serving(serve_echo) as port:
        client = Client.start(stage, tmp_path, _localhost(port))
        program = f"""
import asyncio
async def one(number):
    reader, writer = await asyncio.open_connection("localhost", {port})
    writer.write(b"%d" % number)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer)
async def all_of_them():
    return await asyncio.gather(*map(one, range(100)))
return asyncio.run(all_of_them()) == list(range(100))
"""
        assert client(program) == "True"


def test_asyncio_talks_tls(stage: Stage, tmp_path: Path, certificate: Path) -> None:
    """TLS over a transport of asyncio."""
    with serving(_over_tls(certificate, serve_echo)) as port:
        client = Client.start(stage, tmp_path, _localhost(port))
        program = f"""
import asyncio, ssl
async def talk():
    context = ssl.create_default_context(cadata={certificate.read_text()!r})
    reader, writer = await asyncio.open_connection("localhost", {port}, ssl=context)
    writer.write(b"secret")
    answer = await reader.readexactly(6)
    writer.close()
    return answer
return asyncio.run(talk())
"""
        assert client(program) == "b'secret'"


def test_a_connection_can_be_made_without_blocking(stage: Stage, tmp_path: Path) -> None:
    """The socket is not writable until there is an answer, and ``SO_ERROR`` says which, as with TCP."""
    with serving(serve_echo) as port, socket.create_server(("127.0.0.1", 0)) as closed:
        gone = closed.getsockname()[1]
        closed.close()
        client = Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{port}", f"network:connect:127.0.0.1:{gone}"))
        program = """
import errno, select, socket
outcomes = []
for port in PORTS:
    sock = socket.socket()
    sock.setblocking(False)
    outcomes.append(errno.errorcode[sock.connect_ex(("127.0.0.1", port))])
    select.select([], [sock], [], 10)
    outcomes.append(errno.errorcode.get(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "connected"))
    sock.close()
return outcomes
"""
        answer = client(program.replace("PORTS", repr((port, gone, 1))))
        assert answer == "['EINPROGRESS', 'connected', 'EINPROGRESS', 'ECONNREFUSED', 'EINPROGRESS', 'EACCES']"


def test_a_hundred_megabytes_arrive_whole(stage: Stage, tmp_path: Path) -> None:
    """Each direction may end before the other; a side that reads slowly loses nothing."""

    def swallow(connection: socket.socket) -> None:
        size = 0
        while data := connection.recv(1 << 20):
            size += len(data)
        connection.sendall(b"%d" % size)  # after the plugin has ended its direction

    def pour(connection: socket.socket) -> None:
        for number in range(100):
            connection.sendall(bytes([number]) * _MB)

    with serving(swallow) as down, serving(pour) as up:
        client = Client.start(stage, tmp_path, confined("network:connect:127.0.0.1"))
        program = f"""
import hashlib, socket
with socket.create_connection(("127.0.0.1", {down})) as sock:
    for _ in range(100):
        sock.sendall(bytes({_MB}))
    sock.shutdown(socket.SHUT_WR)
    sent = int(sock.recv(100))
with socket.create_connection(("127.0.0.1", {up})) as sock:
    counts = [0] * 256
    while data := sock.recv(1 << 20):
        for byte in set(data):
            counts[byte] += data.count(byte)
return sent, set(counts[:100]), set(counts[100:])
"""
        assert client(program) == f"({100 * _MB}, {{{_MB}}}, {{0}})"
        usage = client.running.remote.facts.network
        assert usage is not None
        assert (usage.sent, usage.received) == (100 * _MB, 100 * _MB + 9)


def test_a_child_that_the_plugin_forked_uses_the_network_too(stage: Stage, tmp_path: Path) -> None:
    """It has the plugin's rights; neither takes an answer that is for the other."""
    with serving(serve_echo) as port:
        client = Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{port}"))
        program = f"""
import os, socket
def talk(word):
    with socket.create_connection(("127.0.0.1", {port})) as sock:
        sock.sendall(word)
        return sock.recv(100) == word
pids = []
for number in range(4):
    pid = os.fork()
    if not pid:
        os._exit(0 if all(talk(b"%d" % number) for _ in range(20)) else 1)
    pids.append(pid)
own = all(talk(b"own") for _ in range(20))
return own, [os.waitpid(pid, 0)[1] for pid in pids]
"""
        assert client(program) == "(True, [0, 0, 0, 0])"


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_what_was_not_granted_is_denied_with_the_permission_that_would_open_it(stage: Stage, tmp_path: Path) -> None:
    """A24: another port, another host; the operator hears of it."""
    with serving(serve_echo) as port:
        client = Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{port}"))
        denied = client("import socket\nreturn socket.create_connection(('127.0.0.1', 1))")
        assert denied.startswith("PermissionError: [Errno 13] plugin client may not connect to 127.0.0.1:1: ")
        assert "blackhole grant client network:connect:127.0.0.1:1" in denied
        denied = client("import socket\nreturn socket.create_connection(('Example.ORG.', 443))")
        assert "blackhole grant client network:connect:example.org:443" in denied
        assert ("network.denied", {"host": "127.0.0.1", "port": 1, "by": "name"}) in stage.events


def test_a_name_opens_no_address_that_is_not_public(stage: Stage, tmp_path: Path) -> None:
    """A24: whoever answers for a granted name cannot lead into the operator's own network."""
    with serving(serve_echo) as port:
        client = Client.start(stage, tmp_path, confined(f"network:connect:localhost:{port}"))
        denied = client(f"import socket\nreturn socket.create_connection(('localhost', {port}))")
        assert denied.startswith("PermissionError")
        assert "an address that is not public" in denied
        assert "127.0.0.1" not in denied


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)",  # MPTCP
        "socket.create_server(('127.0.0.1', 0))",
        "socket.socket().listen()",
    ],
)
def test_only_streams_that_connect_are_there(stage: Stage, tmp_path: Path, attempt: str) -> None:
    """A21: other sockets are refused with a reason."""
    client = Client.start(stage, tmp_path, confined("network:connect:127.0.0.1"))
    assert client(f"import socket\nreturn {attempt}").startswith("PermissionError: [Errno 13] ")


def test_errors_are_those_of_tcp(stage: Stage, tmp_path: Path) -> None:
    """A port that nobody serves, a name that nobody has, and a time that is over raise what programs expect."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as closed:
        gone = closed.getsockname()[1]
    client = Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{gone}", "network:connect:nobody.invalid"))
    assert client(f"import socket\nreturn socket.create_connection(('127.0.0.1', {gone}))").startswith(
        "ConnectionRefusedError: [Errno 111] "
    )
    assert client("import socket\nreturn socket.create_connection(('nobody.invalid', 80))").startswith("gaierror: ")
    assert client("import socket\nreturn socket.socket().recv(1)").startswith("OSError: [Errno 107] ")
    assert client("import socket\nreturn socket.socket().getpeername()").startswith("OSError: [Errno 107] ")


def test_without_walls_there_is_no_relay(stage: Stage, tmp_path: Path) -> None:
    """A worker with the rights of its host has the network anyhow."""
    client = Client.start(stage, tmp_path, Confinement(requested=("network",), granted=("network",)))
    assert client("import socket\nreturn socket.socket.__module__") == "'socket'"
    assert client.running.remote.facts.network is None


def test_without_a_permission_of_the_network_there_is_no_relay(stage: Stage, tmp_path: Path) -> None:
    """The worker has no descriptor of it."""
    client = Client.start(stage, tmp_path, confined("filesystem:read:/tmp"))
    assert client("import socket\nreturn socket.socket.__module__") == "'socket'"


# --- taking it away, and limits -----------------------------------------------------------------------------------------


def test_what_is_revoked_ends_at_once(stage: Stage, tmp_path: Path) -> None:
    """The rule is gone and its connections are closed; others stay."""
    with serving(serve_echo) as first, serving(serve_echo) as second:
        one, two = (f"network:connect:127.0.0.1:{port}" for port in (first, second))
        client = Client.start(stage, tmp_path, confined(one, two))
        client(f"import socket\nkept['socks'] = [socket.create_connection(('127.0.0.1', port)) for port in ({first}, {second})]")
        client.running.remote.confine(confined(one))
        talk = "sock = kept['socks'][{}]\nsock.settimeout(10)\ntry:\n    sock.sendall(b'x')\n    return sock.recv(1)\nexcept OSError:\n    return b''"
        assert client(talk.format(0)) == "b'x'"
        assert client(talk.format(1)) == "b''"
        assert client(f"import socket\nreturn socket.create_connection(('127.0.0.1', {second}))").startswith("PermissionError")
        assert ("network.cut", {"host": "127.0.0.1", "port": second}) in stage.events


def test_a_dead_workers_connections_end_after_what_it_wrote(stage: Stage, tmp_path: Path) -> None:
    """The server gets the last bytes and then the end."""
    heard: list[bytes] = []
    ended = threading.Event()

    def listen(connection: socket.socket) -> None:
        while data := connection.recv(100):
            heard.append(data)
        ended.set()

    with serving(listen) as port:
        client = Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{port}"))
        client(f"import socket\nkept['sock'] = socket.create_connection(('127.0.0.1', {port}))")
        program = "import os, signal\nkept['sock'].sendall(b'last words')\nos.kill(os.getpid(), signal.SIGKILL)"
        with pytest.raises(Exception, match="killed by SIGKILL"):
            client(program)
        assert ended.wait(10)
        assert heard == [b"last words"]


def test_the_limit_of_bandwidth_holds_for_both_directions_together(stage: Stage, tmp_path: Path) -> None:
    """8 Mbps are a million bytes a second: with a tenth of that at once, 400,000 bytes take 0.3 s or longer, whatever the machine does."""
    with serving(serve_echo) as port:
        client = Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{port}", resources=Resources(network=8)))
        program = f"""
import socket
with socket.create_connection(("127.0.0.1", {port})) as sock:
    sock.sendall(bytes(200_000))
    sock.shutdown(socket.SHUT_WR)
    size = 0
    while data := sock.recv(1 << 16):
        size += len(data)
return size
"""
        begun = time.monotonic()
        assert client(program) == "200000"
        assert time.monotonic() - begun >= 0.3


def test_a_plugin_that_does_not_read_is_not_read_for(stage: Stage, tmp_path: Path) -> None:
    """The server is held up instead, and the host holds what its buffers hold."""
    sent = [0]

    def pour(connection: socket.socket) -> None:
        while True:
            sent[0] += connection.send(bytes(_MB))

    with serving(pour) as port:
        client = Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{port}"))
        client(f"import socket\nkept['sock'] = socket.create_connection(('127.0.0.1', {port}))")
        before = -1
        while sent[0] != before:  # a look each tenth of a second until it stands still; a relay that reads on never does
            before = sent[0]
            assert before < 64 * _MB
            time.sleep(0.1)
        usage = client.running.remote.facts.network
        assert usage is not None
        assert usage.received < _MB
        assert eventually(lambda: client("kept['sock'].close()") == "None")


# --- other levels, whole hosts, enemies ---------------------------------------------------------------------------------


def test_a_container_uses_the_network_through_the_relay(stage: Stage, tmp_path: Path) -> None:
    """It has no other: its network has no interface."""
    require_level("container")
    with serving(_serve_page) as port:
        client = Client.start(stage, tmp_path, _localhost(port), level="container")
        assert (
            client(f"import urllib.request\nreturn urllib.request.urlopen('http://localhost:{port}/page').read()")
            == "b'you asked for /page'"
        )
        assert client("import socket\nreturn socket.create_connection(('127.0.0.1', 1))").startswith("PermissionError")
        assert "Error" in client(f"import _socket\n_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM).connect(('127.0.0.1', {port}))")


@pytest.mark.parametrize(
    "attempt",
    [
        "_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)",
        "_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, way).connect(('127.0.0.1', 1))",
        "_socket.socket(fileno=way).connect(b'\\0abstract')",
        "_socket.getaddrinfo('example.org', 80)",
    ],
)
def test_past_the_relay_there_is_only_what_the_kernel_allows(stage: Stage, tmp_path: Path, attempt: str) -> None:
    """A23, A25: nothing, with the module that is not replaced and with the descriptors that the worker has."""
    with serving(serve_echo) as port:
        client = Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{port}"))
        program = f"""
import _socket, socket
way = socket.create_connection(("127.0.0.1", {port})).detach()
return {attempt}
"""
        assert client(program).startswith(("PermissionError", "gaierror"))


def test_garbage_on_the_relay_socket_ends_the_worker_and_nobody_elses_connections(stage: Stage, tmp_path: Path) -> None:
    """The caller is told why; the connections of the others go on."""
    with serving(serve_echo) as port:
        one, other = (
            Client.start(stage, tmp_path, confined(f"network:connect:127.0.0.1:{port}"), name=name) for name in ("enemy", "other")
        )
        other(f"import socket\nkept['sock'] = socket.create_connection(('127.0.0.1', {port}))")
        program = "import time\nfrom blackhole_core.executor.relay import stage\nstage._ways[0].control.send(b'garbage')\ntime.sleep(60)"
        with pytest.raises(WorkerDied) as caught:
            one(program)
        assert "it broke the protocol: its relay socket: a request without a stream" in "\n".join(caught.value.__notes__)
        assert other("kept['sock'].sendall(b'ping')\nreturn kept['sock'].recv(4)") == "b'ping'"


def test_a_whole_host_grants_counts_and_revokes(tmp_path: Path) -> None:
    """From the manifest's request and the operator's grant to a connection, its bytes, and its end when the grant is taken back."""
    Stage.write(None, tmp_path / "client", PLUGIN, "client")  # type: ignore[arg-type]  # it needs no stage
    with serving(serve_echo) as port, serving(serve_echo) as other:
        first, second = (f"network:connect:127.0.0.1:{number}" for number in (port, other))
        (tmp_path / "client" / "plugin.yaml").write_text(
            f"name: client\nversion: 1.0.0\nentry: client:Plugin\nisolation: process\noptional_permissions: ['{first}', '{second}']\n"
        )
        with manager(config={"sandbox": "native"}) as pm:
            pm.grant("client", first, second)
            pm.load("client", source=tmp_path / "client")
            plugin = pm.plugin("client")
            assert plugin.enforcement == {first: "broker", second: "broker"}
            talk = "import socket\nsock = socket.create_connection(('127.0.0.1', {}))\nsock.sendall(b'ping')\nreturn sock.recv(4)"
            assert pm.hook.transform(text=talk.format(port)) == ["b'ping'"]
            assert pm.hook.transform(text=talk.format(other)) == ["b'ping'"]
            assert plugin.usage.network == 16
            pm.revoke("client", second)
            assert pm.hook.transform(text=talk.format(port)) == ["b'ping'"]
            [denied] = pm.hook.transform(text=talk.format(other))
            assert denied.startswith("PermissionError")
