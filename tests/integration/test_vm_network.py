"""A plugin in a virtual machine uses the network that it was granted, through the host, with the programs it has always used. One guest answers all of it."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator

import attrs
import pytest

from tests.integration.netclient import Client, confined, serve_echo, serving
from tests.levels import require_level
from tests.stage import Stage, eventually

pytestmark = pytest.mark.timeout(300)

_MB = 1 << 20


@attrs.frozen
class Guest:
    """The plugin, and what it may talk to."""

    ask: Client
    echo: int
    tls: int
    certificate: str


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    require_level("vm")
    directory = tmp_path_factory.mktemp("network")
    options = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out certificate -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(["openssl", "req", "-x509", *options.split()], cwd=directory, check=True, capture_output=True)
    certificate, key = directory / "certificate", directory / "key"

    def serve_page(connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        with context.wrap_socket(connection, server_side=True) as secure:
            asked = secure.recv(4096).split()[1]
            secure.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nyou asked for " + asked)

    with serving(serve_echo) as echo, serving(serve_page) as tls:
        stage = Stage()
        with stage.closing():
            client = Client.start(stage, directory, _localhost(echo, tls), level="vm", start_timeout=110.0)
            stage.timers.after(0.0, lambda: None)  # or its thread would count as left behind by the first test
            yield Guest(client, echo, tls, certificate.read_text())


def _localhost(*ports: int) -> object:
    named = [f"network:connect:localhost:{port}" for port in ports]
    return confined(*named, also=tuple(f"network:connect:127.0.0.1:{port}" for port in ports))


def test_a_granted_name_is_talked_to_and_the_host_looks_it_up(guest: Guest) -> None:
    """Bytes go both ways, more than any buffer on the way holds; the permission is called brokered."""
    program = f"""
import socket
with socket.create_connection(("localhost", {guest.echo}), timeout=60) as sock:
    sent = bytes(range(256)) * 2048
    import threading
    writer = threading.Thread(target=lambda: (sock.sendall(sent), sock.shutdown(socket.SHUT_WR)))
    writer.start()
    back = b""
    while data := sock.recv(1 << 18):
        back += data
    writer.join()
return back == sent, socket.gethostbyname("localhost").startswith("240.0.0.")
"""
    assert guest.ask(program) == "(True, True)"
    how = guest.ask.running.runner.enforcement()
    assert how[f"network:connect:localhost:{guest.echo}"] == "broker"
    usage = guest.ask.running.remote.facts.network
    assert usage is not None
    assert usage.sent >= _MB // 2


def test_urllib_gets_a_page_over_https(guest: Guest) -> None:
    """TLS is the plugin's own, from end to end; the clock of the guest is right, or the certificate would not be valid yet."""
    program = f"""
import ssl, urllib.request
context = ssl.create_default_context(cadata={guest.certificate!r})
known = len(ssl.create_default_context().get_ca_certs())
return urllib.request.urlopen("https://localhost:{guest.tls}/secret", context=context, timeout=60).read(), known
"""
    known = len(ssl.create_default_context().get_ca_certs())
    assert guest.ask(program) == f"(b'you asked for /secret', {known})"


def test_asyncio_talks_over_many_connections_at_once(guest: Guest) -> None:
    """An event loop waits for connections that are being made, as anywhere."""
    program = f"""
import asyncio
async def one(number):
    reader, writer = await asyncio.open_connection("localhost", {guest.echo})
    writer.write(b"%d" % number)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return int(answer)
async def many():
    return await asyncio.gather(*map(one, range(20)))
return asyncio.run(many()) == list(range(20))
"""
    assert guest.ask(program) == "True"


def test_what_is_not_granted_is_refused_with_what_to_do(guest: Guest) -> None:
    """The host judges; the kernel of the guest has no other way out; a revoked permission cuts what is open."""
    program = "import socket\nsocket.create_connection(('127.0.0.1', 9), 20)"
    assert "PermissionError" in guest.ask(program)
    assert "ask for the permission network:connect:127.0.0.1:9" in guest.ask(program)
    assert "PermissionError" in guest.ask("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    raw = "import _socket\ns = _socket.socket()\ns.connect(('192.0.2.1', 80))"
    assert "Network is unreachable" in guest.ask(raw)
    keep = f"import socket\nkept['sock'] = socket.create_connection(('localhost', {guest.echo}), 20)"
    assert guest.ask(keep) == "None"
    guest.ask.running.remote.confine(confined())
    assert guest.ask("kept['sock'].settimeout(60)\nreturn kept['sock'].recv(1)") == "b''"
    assert eventually(lambda: guest.ask.running.remote.facts.network.connections == 0)  # type: ignore[union-attr]  # there is one
